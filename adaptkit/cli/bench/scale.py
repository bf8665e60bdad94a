"""`adaptkit bench scale`: measure how the cost of training grows with the number of speakers."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import Adapter, AdapterOverrides, Command, Device, choose_device

_COLUMNS = {  # of the table, with the field and the decimals of each
    "speakers": ("num_speakers", 0),
    "plan s": ("plan_seconds", 2),
    "ms/utt": ("step_ms", 2),
    "valid ms/utt": ("valid_ms", 2),
    "pause s": ("pause_seconds", 2),
    "save s": ("save_seconds", 2),
    "save MB": ("save_mb", 0),
    "peak MB": ("peak_mb", 0),
    "state MB": ("state_mb", 1),
    "adapter MB": ("adapter_mb", 1),
    "run.json kB": ("record_kb", 1),
    "journal kB": ("journal_kb", 1),
}


def register(group: typer.Typer) -> None:
    """Add the command to the group."""
    group.command(cls=Command)(scale)


def scale(
    speakers: Annotated[
        str, typer.Option(metavar="N,N,...", help="Numbers of speakers, separated by commas.")
    ] = "1,8,128,1000,10000",
    model: Annotated[
        str,
        typer.Option(
            metavar="YAML", help="ESPnet training yaml, or its name in conf/base, for random weights."
        ),
    ] = "conformer_6x64",
    adapter: Adapter = "residual",
    overrides: AdapterOverrides = None,
    utterances: Annotated[
        int, typer.Option(metavar="N", min=1, help="Utterances of each speaker, of 1 to 4 s.")
    ] = 24,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps to time.")] = 20,
    batch_frames: Annotated[
        int, typer.Option(metavar="N", min=1, help="Feature frames of a batch, padding included.")
    ] = 12000,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of json per number of speakers.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="SVG", help="Also draw the costs to this file.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure the cost of training for several numbers of speakers: time, memory and files.

    Example: adaptkit bench scale --speakers 1,8,128 --steps 5
    """
    import json

    from adaptkit.adapters.describe import read
    from adaptkit.bench import scale as library
    from adaptkit.config import find_published

    counts = _read_counts(speakers)
    entry = read(adapter, overrides or (["bottleneck=4"] if adapter == "residual" else []))
    work = library.Workload(
        find_published("base", model), entry, utterances, batch_frames=batch_frames, num_steps=steps
    )
    costs = []
    for cost in library.measure_each(work, counts, choose_device(device)):
        costs.append(cost)
        if as_json:
            typer.echo(json.dumps(asdict(cost)))
            continue
        if len(costs) == 1:
            typer.echo(" ".join(f"{name:>12}" for name in (*_COLUMNS, "ratio")))
        shown = [f"{getattr(cost, name):12,.{digits}f}" for name, digits in _COLUMNS.values()]
        typer.echo(" ".join([*shown, f"{cost.step_ms / library.reference(costs).step_ms:12.2f}"]))
    if plot is not None:
        from adaptkit.bench.scale_plot import draw

        draw(costs, plot)


def _read_counts(text: str) -> list[int]:
    """Read numbers separated by commas."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and 0 < int(word) <= 10**6 for word in words):
        raise typer.BadParameter(f"--speakers {text}: expected numbers from 1 to 1000000, as in 1,8,128")
    return [int(word) for word in words]
