"""`adaptkit bench corpus`: the cost of a large corpus before training."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptkit.cli.options import Command, Nj

if TYPE_CHECKING:
    from adaptkit.bench.corpus import CorpusCost


def register(group: typer.Typer) -> None:
    """Add the command to the group."""
    group.command(cls=Command)(corpus)


def corpus(
    utterances: Annotated[int, typer.Option(metavar="N", min=1, help="Utterances of the corpus.")] = 100_000,
    files: Annotated[
        bool, typer.Option("--files", help="One file per utterance instead of segments of long recordings.")
    ] = False,
    model: Annotated[
        str,
        typer.Option(metavar="YAML", help="ESPnet training yaml of a model that reads speech, or its name."),
    ] = "conformer_6x96_hybrid",
    nj: Nj = 1,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to make the corpus; if omitted, where temporary files go."),
    ] = None,
) -> None:
    """Make a large corpus, and measure reading, checking and planning it.

    Example: adaptkit bench corpus --utterances 2000 --nj 2
    """
    from adaptkit.bench import corpus as library
    from adaptkit.config import find_published

    yaml = find_published("base", model)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        data = library.make_corpus(Path(place).resolve(), utterances, has_segments=not files)
        typer.echo(f"{'':22} {'s':>10} {'CPU s':>10} {'us/utt':>10} {'peak MB':>10}")
        _print(library.measure_corpus(data, num_jobs=nj), utterances)
        from adaptkit.bench.corpus_start import measure_start

        _print(library.in_new_process(measure_start, data, yaml), utterances)


def _print(costs: "Iterable[CorpusCost]", utterances: int) -> None:
    for cost in costs:
        each = 1e6 * cost.cpu_sec / utterances
        figures = f"{cost.seconds:10.2f} {cost.cpu_sec:10.2f} {each:10.1f} {cost.peak_mb:10.0f}"
        typer.echo(f"{cost.name:22} {figures}")
