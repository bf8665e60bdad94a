"""`adaptkit transcribe`: transcribe audio files."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptkit.cli.options import (
    BatchFrames,
    Command,
    Device,
    Lm,
    Nbest,
    Route,
    RouteBy,
    RouteByOption,
    RouteMethod,
    RouteNearest,
    Search,
    SearchSet,
    SubmodelMb,
    TranscriptFormat,
    UnknownSpeaker,
    UnknownSpeakers,
    choose_device,
    request_route,
    request_search,
)
from adaptkit.errors import listed

if TYPE_CHECKING:
    from adaptkit.decoding.transcripts import Transcript


Format = Annotated[
    TranscriptFormat,
    typer.Option(
        "--format",
        help="text: a line per file; json: a line per file, with scores, times and the n-best list; srt or "
        "vtt: subtitles.",
    ),
]
OutFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write a file for each transcript, named after its audio file."),
]
MaxSec = Annotated[
    float,
    typer.Option(metavar="SEC", min=1, help="Cut longer recordings at pauses; needs the extra 'long'."),
]


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
    route: Route = RouteMethod.own,
    route_by: RouteByOption = RouteBy.utterance,
    route_nearest: RouteNearest = None,
    search: Search = None,
    search_set: SearchSet = None,
    lm: Lm = None,
    nbest: Nbest = None,
    as_format: Format = TranscriptFormat.text,
    out: OutFolder = None,
    max_sec: MaxSec = 30.0,
    batch_frames: BatchFrames = 12000,
    device: Device = "auto",
) -> None:
    """Transcribe audio files of one speaker, or of unknown ones, by default to one line of text per file.

    Example: adaptkit transcribe hello.wav --base exp/base
    """
    from adaptkit import locks
    from adaptkit.decoding.models import ModelOptions, find_source, refuse_base
    from adaptkit.decoding.recognizer import opened

    _refuse_contradictions(base, exp, submodels, speaker, route)
    if exp is not None:
        refuse_base(exp)
    if nbest is not None and as_format is not TranscriptFormat.json:
        raise typer.BadParameter(
            "--nbest needs --format json, since the others hold the best hypothesis alone"
        )
    paths = _name_outputs(files, out, as_format.value)
    options = ModelOptions(
        exp=exp or base,
        base=base,
        unknown_speaker=unknown_speaker.value,
        batch_frames=batch_frames,
        submodels=submodels,
        submodel_mb=submodel_mb,
        search=request_search(search, search_set, lm, nbest),
        route=request_route(route, route_by, route_nearest),
    )
    device = choose_device(device)
    with nullcontext() if out is None else locks.hold(out):  # first, as the work could not be kept otherwise
        with opened(options, find_source(options), device=device, most_speakers=1) as (recognizer, _):
            found = recognizer.transcribe_files(files, speaker, max_sec=max_sec)
        _write(found, paths, _formatter(as_format, is_named=len(files) > 1 and out is None))


def _refuse_contradictions(
    base: Path | None, exp: Path | None, submodels: Path | None, speaker: str | None, route: RouteMethod
) -> None:
    """Refuse options that leave open which model and whose weights to use."""
    if exp is None and base is None:
        raise typer.BadParameter("use --base, or --exp with adapters trained on it")
    if exp is not None and submodels is not None:
        raise typer.BadParameter("--exp and --submodels both name adapters; use one of the two")
    if speaker is not None and exp is None and submodels is None:
        raise typer.BadParameter("--speaker needs adapters: --exp or --submodels")
    if speaker is not None and route is not RouteMethod.own:
        raise typer.BadParameter("--speaker and --route both say whose adapters to use; use one of the two")


def _name_outputs(files: Sequence[Path], out: Path | None, suffix: str) -> list[Path] | None:
    """Return where each transcript goes; None if they are printed."""
    if out is None:
        if suffix in ("srt", "vtt") and len(files) > 1:
            raise typer.BadParameter(f"--format {suffix} of several files needs --out, a folder for them")
        return None
    paths = [out / f"{file.stem}.{'txt' if suffix == 'text' else suffix}" for file in files]
    twice = sorted(path.name for path, count in Counter(paths).items() if count > 1)
    if twice:
        raise typer.BadParameter(
            f"--out: several files would be {', '.join(twice[:5])}; use a folder for each"
        )
    beside = [str(path) for path in paths if path.exists()]
    if beside and out.resolve() in {file.parent.resolve() for file in files}:
        raise typer.BadParameter(
            f"--out: {listed(beside, 5)} is beside the audio, perhaps a reference; use another folder"
        )
    return paths


def _formatter(form: TranscriptFormat, *, is_named: bool) -> "Callable[[Transcript], str]":
    """Return what formats a transcript; a line of text begins with the file if `is_named`."""
    from adaptkit.decoding import transcripts

    if form is TranscriptFormat.text:
        return lambda one: f"{one.name} {one.text}" if is_named else one.text
    return {"json": transcripts.format_json, "srt": transcripts.format_srt, "vtt": transcripts.format_vtt}[
        form.value
    ]


def _write(
    found: "Sequence[Transcript]", paths: Sequence[Path] | None, describe: "Callable[[Transcript], str]"
) -> None:
    """Print transcripts, or write each to its file and print the names of the files."""
    from adaptkit.files import write_text

    for index, one in enumerate(found):
        text = describe(one).removesuffix("\n")
        if paths is not None:
            write_text(paths[index], f"{text}\n")
        typer.echo(text if paths is None else paths[index])
