"""`adaptkit feats`: extract log-mel filterbank features."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import AllowPipes, Command, DataDir, Nj, Rate
from adaptkit.errors import counted


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=Command)(feats)


def feats(
    data_dir: DataDir,
    out_dir: Annotated[
        Path, typer.Argument(metavar="OUT", help="The data directory with features to write.")
    ],
    nj: Nj = 4,
    num_bins: Annotated[int, typer.Option(metavar="F", min=4, help="Mel bins.")] = 80,
    rate: Rate = 16000,
    cmvn: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the statistics for global_mvn to this file."),
    ] = None,
    cmd: Annotated[
        str,
        typer.Option(
            metavar="CMD",
            help="Run --nj jobs with Kaldi's run.pl, queue.pl or slurm.pl, given with its options.",
            show_default="threads of this process",
        ),
    ] = "",
    allow_pipes: AllowPipes = False,
    part: Annotated[Path | None, typer.Option(hidden=True, help="Folder of an array of jobs.")] = None,
    job: Annotated[int, typer.Option(hidden=True, help="Number of a job of the array.")] = 0,
) -> None:
    """Extract log-mel filterbank features of a data directory; an interrupted run resumes.

    Example: adaptkit feats data/train dump/train --nj 2 --cmvn dump/train/feats_stats.npz
    """
    from adaptkit.features import archive, extract, fbank

    options = fbank.FbankOptions(rate_hz=rate, num_bins=num_bins)
    if part:
        extract.extract_part(data_dir, part, job, options, allow_pipes=allow_pipes)
        return
    try:
        words = shlex.split(cmd)
    except ValueError as error:
        raise typer.BadParameter(f"--cmd {cmd}: {error}") from error
    data = extract.extract(data_dir, out_dir, options, num_jobs=nj, allow_pipes=allow_pipes, cmd=words)
    if cmvn:
        fbank.write_cmvn(cmvn, fbank.cmvn_stats(map(archive.load_feats, data.feats.values())))
    hours = sum(data.duration_sec.values()) / 3600
    typer.echo(f"{out_dir}: {counted(len(data.utterances), 'utterance')}, {hours:.2f} hours, {num_bins} bins")
