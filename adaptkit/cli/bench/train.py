"""`adaptkit bench train` and `gpu`: training steps, and all benchmarks in one run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptkit.cli.options import (
    AdapterOverrides,
    BenchBase,
    BenchModel,
    Command,
    Device,
    Seconds,
    Utterances,
    choose_device,
    load_benched,
)
from adaptkit.cli.refusals import refuse_both

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adaptkit.bench.timed import Cost


def register(group: typer.Typer) -> None:
    """Add the commands to the group."""
    group.command(cls=Command)(train)
    group.command(cls=Command)(gpu)


def train(
    base: BenchBase = None,
    model: BenchModel = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER",
            help="An adapter type, or the name or path of a yaml with one; repeatable.",
            show_default="residual, with --peers lora",
        ),
    ] = None,
    overrides: AdapterOverrides = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also time ESPnet's own trainer, and PEFT's LoRA beside ours.")
    ] = False,
    upper_half: Annotated[
        bool, typer.Option("--upper-half", help="Also time adapters in the upper half of the blocks alone.")
    ] = False,
    utterances: Utterances = 16,
    seconds: Seconds = 5.0,
    speakers: Annotated[int, typer.Option(metavar="N", min=1, help="Speakers in the batch.")] = 8,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps to time per model.")] = 10,
    device: Device = "auto",
) -> None:
    """Compare a training step with adapters to full fine-tuning, and to the least that the step can cost.

    Example: adaptkit bench train --base exp/base --adapter residual --adapter hra
    """
    from adaptkit.adapters.describe import read
    from adaptkit.bench import steps as library
    from adaptkit.bench.peft import refuse_missing

    refuse_both(base, model)
    entries = [read(name, overrides or []) for name in adapter or (["lora"] if peers else ["residual"])]
    if peers and not any(entry.kind == "lora" for entry in entries):
        raise typer.BadParameter("--peers compares PEFT with our LoRA: add --adapter lora")
    if peers:
        refuse_missing("leave out --peers")
    size = library.Size(utterances, seconds, speakers)
    loaded = load_benched(base, model, choose_device(device))
    if upper_half:
        halves = [library.in_upper_half(entry, loaded.sites) for entry in entries]
        entries += [entry for entry in halves if entry is not None]
    _print(library.time_steps(loaded, entries, size, num_steps=steps, has_peers=peers))


def gpu(
    small: Annotated[
        bool, typer.Option("--small", help="Use a small model and few rounds, which a CPU can run.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write bench.md and bench.json to this folder.")
    ] = None,
    peft: Annotated[bool, typer.Option(help="Also time ESPnet's trainer and PEFT.")] = True,
    device: Device = "auto",
) -> None:
    """Run every benchmark on a GPU, in under 8 minutes: a Conformer of 12x512 in float32 and bfloat16.

    Example: adaptkit bench gpu --small --no-peft --out exp/bench
    """
    import dataclasses
    import json

    from adaptkit.bench import gpu as library
    from adaptkit.bench.peft import refuse_missing
    from adaptkit.errors import ConfigError
    from adaptkit.files import write_text

    chosen = choose_device(device)
    if chosen == "cpu" and not small:
        raise ConfigError(f"--device {device}: there is no GPU; --small runs a small model on the CPU")
    if peft:
        refuse_missing("use --no-peft")
    found = library.measure(library.SMALL if small else library.LARGE, chosen, has_peft=peft)
    if out is not None:
        write_text(out / "bench.json", json.dumps(dataclasses.asdict(found), indent=2) + "\n")
        write_text(out / "bench.md", library.as_markdown(found))
    typer.echo(library.as_markdown(found), nl=False)


def _print(costs: "Sequence[Cost]") -> None:
    width = max(14, *(len(cost.name) for cost in costs))
    columns = ("trained", "s/step", "ratio", "peak MB", "ratio", "of floor")
    typer.echo(f"{'':{width}}" + "".join(f" {column:>12}" for column in columns))
    for cost in costs:
        floor = "-" if cost.of_floor is None else f"{cost.of_floor:.2f}"
        typer.echo(
            f"{cost.name:{width}} {cost.params_trainable:12,} {cost.seconds:12.3f} {cost.ratio:12.2f} "
            f"{cost.peak_mb:12.0f} {cost.peak_mb / costs[0].peak_mb:12.2f} {floor:>12}"
        )
