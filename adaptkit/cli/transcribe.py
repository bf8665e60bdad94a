"""`adaptkit transcribe`: transcribe audio files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptkit.cli.options import (
    BatchFrames,
    Command,
    Device,
    Lm,
    Nbest,
    Search,
    SearchSet,
    SubmodelMb,
    UnknownSpeaker,
    UnknownSpeakers,
    choose_device,
    request_search,
)

if TYPE_CHECKING:
    from adaptkit.decoding.transcribe import Transcript


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=Command)(transcribe)


def transcribe(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Audio files.")],
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The base model: its folder, archive or model file.")
    ] = None,
    exp: Annotated[
        Path | None, typer.Option(metavar="EXP", help="The folder of trained adapters to use.")
    ] = None,
    submodels: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of Submodels to use.")
    ] = None,
    submodel_mb: SubmodelMb = None,
    speaker: Annotated[
        str | None, typer.Option(metavar="NAME", help="The speaker whose adapters to use.")
    ] = None,
    unknown_speaker: UnknownSpeakers = UnknownSpeaker.error,
    search: Search = None,
    search_set: SearchSet = None,
    lm: Lm = None,
    nbest: Nbest = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of json per file, with scores and the n-best list.")
    ] = False,
    batch_frames: BatchFrames = 12000,
    device: Device = "auto",
) -> None:
    """Transcribe audio files of one speaker, and print one line of text per file.

    Example: adaptkit transcribe hello.wav --base exp/base
    """
    from adaptkit.decoding.models import ModelOptions
    from adaptkit.decoding.transcribe import transcribe as run

    model = exp or base
    if model is None:
        raise typer.BadParameter("use --base, or --exp with adapters trained on it")
    if exp is not None and submodels is not None:
        raise typer.BadParameter("--exp and --submodels both name adapters; use one of the two")
    if speaker is not None and exp is None and submodels is None:
        raise typer.BadParameter("--speaker needs adapters: --exp or --submodels")
    if nbest is not None and not as_json:
        raise typer.BadParameter("--nbest needs --json, since a line of text holds the best hypothesis alone")
    options = ModelOptions(
        exp=model,
        base=base,
        unknown_speaker=unknown_speaker.value,
        batch_frames=batch_frames,
        submodels=submodels,
        submodel_mb=submodel_mb,
        search=request_search(search, search_set, lm, nbest),
    )
    for one in run(options, files, speaker=speaker, device=choose_device(device)):
        typer.echo(_describe(one) if as_json else f"{one.file} {one.text}" if len(files) > 1 else one.text)


def _describe(one: "Transcript") -> str:
    """Return a line of json."""
    nbest = [{"text": text, "score": round(score, 4)} for text, score in one.nbest]
    return json.dumps({"file": str(one.file), **nbest[0], "nbest": nbest}, ensure_ascii=False)
