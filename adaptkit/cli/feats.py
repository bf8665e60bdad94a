"""`adaptkit feats`: the log-mel filterbanks of a set."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import AllowPipes


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(name="feats")(feats)


def feats(
    data_dir: Annotated[Path, typer.Argument(help="A data directory.")],
    out_dir: Annotated[Path, typer.Argument(help="The folder to write it to with its features.")],
    nj: Annotated[int, typer.Option(min=1, help="Threads.")] = 4,
    num_bins: Annotated[int, typer.Option(min=4, help="Mel bins F.")] = 80,
    rate: Annotated[int, typer.Option(min=1000, help="Rate to bring recordings to, in Hz.")] = 16000,
    cmvn: Annotated[Path | None, typer.Option(help="Write the statistics of global_mvn here.")] = None,
    allow_pipes: AllowPipes = False,
) -> None:
    """Make log-mel filterbanks of a data directory, going on where a killed run stopped.

    Example: adaptkit feats data/train dump/train --nj 2 --cmvn dump/train/feats_stats.npz
    """
    from adaptkit.features import extract, fbank

    options = fbank.FbankOptions(rate_hz=rate, num_bins=num_bins)
    data = extract.extract(data_dir, out_dir, options, num_jobs=nj, allow_pipes=allow_pipes)
    if cmvn:
        fbank.write_cmvn(cmvn, fbank.cmvn_stats(map(fbank.load_feats, data.feats.values())))
    hours = sum(data.duration_sec.values()) / 3600
    typer.echo(f"{out_dir}: {len(data.utterances)} utterances, {hours:.2f} hours, {num_bins} bins")
