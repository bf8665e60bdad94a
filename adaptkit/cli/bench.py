"""`adaptkit bench`: what things cost on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.bench_submodels import NUM_TOKENS, submodels
from adaptkit.cli.options import Device, choose_device

app = typer.Typer(help="Measure what things cost on this machine.", no_args_is_help=True)
app.command()(submodels)


@app.callback()
def bench() -> None:
    """Measure what things cost on this machine."""


@app.command()
def train(
    base: Annotated[Path | None, typer.Option(help="Folder of the base model.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="ESPnet's training yaml instead: that model, with random weights.")
    ] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="A kind; once for each.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Options of them: bottleneck=32.")
    ] = None,
    utterances: Annotated[int, typer.Option(min=1, help="Utterances of the batch.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of each.")] = 5.0,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks among them.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Steps timed of each.")] = 10,
    device: Device = "auto",
) -> None:
    """Time a training step of adapters against one of full fine-tuning, on the same batch.

    Example: adaptkit bench train --base exp/base --adapter residual --adapter hra
    """
    if (base is None) == (model is None):
        raise typer.BadParameter("give one of --base and --model")
    from adaptkit.adapters.catalog import read
    from adaptkit.base import checkpoint, create
    from adaptkit.bench import steps as library

    kinds = [read(kind, overrides or []) for kind in adapter or ["residual"]]
    size = library.Size(utterances, seconds, tasks)
    chosen = choose_device(device)
    loaded = checkpoint.load(base, chosen) if base else create.untrained(model, NUM_TOKENS).to(chosen)
    full, *adapted = library.time_steps(loaded, kinds, size, num_steps=steps)
    columns = ("trained", "s/step", "ratio", "peak MB", "ratio")
    typer.echo(f"{'':14}" + "".join(f" {column:>12}" for column in columns))
    for cost in (full, *adapted):
        ratios = (cost.seconds / full.seconds, cost.peak_mb / full.peak_mb)
        typer.echo(
            f"{cost.name:14} {cost.params_trainable:12,} {cost.seconds:12.3f} {ratios[0]:12.2f} "
            f"{cost.peak_mb:12.0f} {ratios[1]:12.2f}"
        )


@app.command()
def augment(
    policy: Annotated[str, typer.Option(help="The augmentation, by name or yaml.")] = "libri_full_adapt",
    model: Annotated[
        Path | None, typer.Option(help="ESPnet's training yaml; also times a step of that model.")
    ] = None,
    utterances: Annotated[int, typer.Option(min=1, help="Utterances of the batch.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of the shortest.")] = 2.0,
    longest: Annotated[float, typer.Option(min=0.5, help="Length of the longest.")] = 20.0,
    steps: Annotated[int, typer.Option(min=1, help="Rounds timed, each with a step of the model.")] = 5,
    device: Device = "auto",
) -> None:
    """Time SpecAugment against ESPnet's, and against the training step that it comes before.

    Example: adaptkit bench augment --model conf/base/conformer_12x256.yaml --steps 1
    """
    from adaptkit.augment.policy import read_policy
    from adaptkit.base import create
    from adaptkit.bench import augment as library

    spec = read_policy(policy).spec
    if spec is None:
        raise typer.BadParameter(f"--policy {policy}: has no SpecAugment to time")
    chosen = choose_device(device)
    base = create.untrained(model, NUM_TOKENS).to(chosen) if model else None
    spread = library.Spread(utterances, seconds, longest)
    costs = library.time_augmentation(spec, spread, base, num_rounds=steps, device=chosen)
    typer.echo(f"{'':14} {'ms/batch':>12} {'ratio':>12} {'of the step':>12} {'peak MB':>12}")
    for cost in costs:
        ratio, part = cost.seconds / costs[0].seconds, cost.seconds / costs[-1].seconds
        share = f"{100 * part:.2f} %" if base else "-"
        figures = f"{1000 * cost.seconds:12.1f} {ratio:12.2f} {share:>12} {cost.peak_mb:12.0f}"
        typer.echo(f"{cost.name:14} {figures}")
