"""`adaptkit bench`: what things cost on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import Device, choose_device

app = typer.Typer(help="Measure what things cost on this machine.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure what things cost on this machine."""


@app.command()
def train(
    base: Annotated[Path, typer.Option(help="Folder of the base model.")],
    adapter: Annotated[str, typer.Option(help="Kind of adapter.")] = "residual",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Its options: bottleneck=32.")
    ] = None,
    utterances: Annotated[int, typer.Option(min=1, help="Utterances of the batch.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of each.")] = 5.0,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks among them.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Steps timed of each.")] = 10,
    device: Device = "auto",
) -> None:
    """Time a training step of adapters against one of full fine-tuning, on the same batch.

    Example: adaptkit bench train --base exp/base --adapter residual
    """
    from adaptkit import bench as library
    from adaptkit import config
    from adaptkit.adapters.api import load_kind
    from adaptkit.base import checkpoint

    entry = {"kind": adapter}
    for word in overrides or []:
        config.apply(entry, word)
    chosen = config.check(load_kind(adapter).Config, entry, "--set")
    size = library.Size(utterances, seconds, tasks)
    loaded = checkpoint.load(base, choose_device(device))
    full, adapted = library.time_steps(loaded, [chosen], size, num_steps=steps)
    typer.echo(f"{'':12} {'trained':>12} {'s/step':>8} {'peak MB':>8}")
    for cost in (full, adapted):
        typer.echo(f"{cost.name:12} {cost.params_trainable:12,} {cost.seconds:8.3f} {cost.peak_mb:8.0f}")
    ratios = (adapted.seconds / full.seconds, adapted.peak_mb / full.peak_mb)
    typer.echo(f"{'ratio':12} {'':12} {ratios[0]:8.2f} {ratios[1]:8.2f}")
