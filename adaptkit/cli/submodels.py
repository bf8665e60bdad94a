"""`adaptkit submodels`: per-speaker weights of trained adapters, one file per speaker."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import (
    AllowPipes,
    Base,
    BatchFrames,
    Command,
    Device,
    Exp,
    Overrides,
    Start,
    TableFormat,
    choose_device,
    new_group,
)
from adaptkit.errors import counted

app = new_group("Enroll speakers; export, pack, list and compare Submodels, one small file per speaker.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of Submodels.")]


@app.command(cls=Command)
def enroll(
    exp: Exp,
    data: Annotated[Path, typer.Option(metavar="DATA", help="A data directory of the new speakers.")],
    speaker: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A speaker to enroll; repeatable.", show_default="all"),
    ] = None,
    valid: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="A validation set to select the best weights.",
            show_default="cross-validate on --data with 5 folds; '--set train.folds=null' keeps the last "
            "weights",
        ),
    ] = None,
    start: Annotated[
        Start | None,
        typer.Option(
            help="Start from the shared adapter, from the mean or the nearest of the known speakers, or from "
            "scratch.",
            show_default="shared if EXP has or started from a shared adapter, else mean",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder for the extended adapter file.", show_default="EXP"),
    ] = None,
    base: Base = None,
    overrides: Overrides = None,
    allow_pipes: AllowPipes = False,
    device: Device = "auto",
) -> None:
    """Enroll new speakers: train their per-speaker weights, with everything else frozen.

    Example: adaptkit submodels enroll exp/residual --speaker anna --data dump/anna --start nearest
    """
    from adaptkit.training import enroll as library

    options = library.EnrollOptions(
        exp=exp,
        data=data,
        valid=valid,
        speakers=tuple(speaker or ()),
        start=start and start.value,
        out=out,
        base=base,
        overrides=tuple(overrides or ()),
        allow_pipes=allow_pipes,
    )
    typer.echo(library.enroll(options, device=choose_device(device)))


@app.command(cls=Command)
def export(
    exp: Exp,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder for the Submodels; others in it are kept.")
    ],
    speaker: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A speaker to export; repeatable.", show_default="all"),
    ] = None,
    base: Base = None,
) -> None:
    """Write the weights of each speaker in trained adapters to a separate file.

    Example: adaptkit submodels export exp/residual submodels
    """
    import logging

    from adaptkit.folders import RunFolder
    from adaptkit.model.load import load_base_of
    from adaptkit.submodels import export as library

    loaded = load_base_of(exp, base=base)
    written = library.export(RunFolder(exp).adapter, loaded, folder, tasks=speaker)
    logging.getLogger(__name__).info("%s: %s written", folder, counted(len(written), "Submodel"))
    typer.echo(folder)


@app.command(cls=Command)
def pack(
    folder: Folder,
    out: Annotated[Path, typer.Argument(metavar="EXP", help="The folder for the resulting experiment.")],
    base: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The folder of the base model the Submodels were trained on."),
    ],
    skip_problems: Annotated[
        bool, typer.Option("--skip-problems", help="Leave out files with problems, and list them.")
    ] = False,
) -> None:
    """Pack all Submodels of a folder into one experiment.

    Example: adaptkit submodels pack submodels exp/packed --base exp/base
    """
    import logging

    from adaptkit.base import checkpoint
    from adaptkit.submodels import export as library

    packed = library.pack(folder, checkpoint.load(base), out, skip_problems=skip_problems)
    log = logging.getLogger(__name__)
    for entry in packed.left_out:
        log.warning("%s: left out: %s", entry.path, entry.problem)
    others = library.describe_fallback(packed.tasks)
    figures = counted(len(packed.tasks), "Submodel"), len(packed.left_out)
    log.info("%s: %s packed, %d left out%s", out, *figures, others)
    typer.echo(out)


@app.command(name="list", cls=Command)
def list_files(
    folder: Folder,
    base: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Report Submodels that do not match the base model in this folder."),
    ] = None,
    form: Annotated[TableFormat, typer.Option("--format", help="The output format.")] = TableFormat.table,
) -> None:
    """List the Submodels of a folder with their base model, size and problems.

    Example: adaptkit submodels list submodels --base exp/base
    """
    import json
    import logging
    from dataclasses import asdict

    from adaptkit.base import checkpoint
    from adaptkit.submodels import export as library

    entries = library.check(folder, checkpoint.load(base) if base else None)
    if form is TableFormat.json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=1, default=str))
    else:
        typer.echo(library.format_entries(entries))
    logging.getLogger(__name__).info("%s: %s", folder, library.summarise(entries))


@app.command(cls=Command)
def cross(
    exp: Exp,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="The set to transcribe, of known or other speakers.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to write to.", show_default="EXP/cross_<set>"),
    ] = None,
    base: Base = None,
    per_speaker: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N utterances per speaker.")
    ] = None,
    batch_frames: BatchFrames = 12000,
    allow_pipes: AllowPipes = False,
    device: Device = "auto",
) -> None:
    """Transcribe every speaker with every Submodel, and write the errors as a table and a plot.

    Example: adaptkit submodels cross exp/residual dump/test --per-speaker 2
    """
    from adaptkit.folders import named
    from adaptkit.submodels import cross as library

    data = named(data)
    out = out or exp / f"cross_{data.name}"
    matrix = library.cross(
        exp,
        data,
        out,
        device=choose_device(device),
        base=base,
        per_speaker=per_speaker,
        batch_frames=batch_frames,
        allow_pipes=allow_pipes,
    )
    for name, rate in matrix.summary().items():
        typer.echo(f"{name:24} {rate:7.2f} % WER")
    typer.echo(out)


@app.command(cls=Command)
def embed(
    folder: Annotated[
        Path, typer.Argument(metavar="EXP|DIR", help="A folder of trained adapters, or of Submodels.")
    ],
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA...", help="Data directories that its speakers were trained on."),
    ],
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder of the base model; needed for Submodels.",
            show_default="EXP's",
        ),
    ] = None,
    block: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="The block of the encoder to read; later ones distinguish words, not voices.",
        ),
    ] = 0,
    per_speaker: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N utterances per speaker.")
    ] = None,
    allow_pipes: AllowPipes = False,
    device: Device = "auto",
) -> None:
    """Embed the voice of every speaker, to find the nearest one to utterances of unknown speakers.

    Example: adaptkit submodels embed exp/residual dump/train dump/anna
    """
    from adaptkit.submodels import embeddings as library

    options = library.EmbedOptions(
        folder=folder,
        sets=tuple(data),
        base=base,
        block=block,
        per_speaker=per_speaker,
        allow_pipes=allow_pipes,
    )
    typer.echo(library.write_embeddings(options, device=choose_device(device)))


@app.command(cls=Command)
def cost(
    one: Annotated[Path, typer.Argument(metavar="EXP", help="The folder of the job for all speakers.")],
    jobs: Annotated[
        list[Path], typer.Argument(metavar="EXP...", help="The folders of jobs for one speaker each.")
    ],
) -> None:
    """Compare the training time of one job for all speakers with one job per speaker.

    Example: adaptkit submodels cost exp/submodels/one_job exp/submodels/jobs/*
    """
    from adaptkit.report import cost as library

    typer.echo(library.format_cost(library.read([one]), library.read(jobs)))
