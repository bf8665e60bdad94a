"""`adaptkit bench submodels`: what it costs to serve many speakers at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptkit.cli.options import Device, choose_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adaptkit.adapters.api import AdapterConfig
    from adaptkit.base.checkpoint import BaseModel
    from adaptkit.bench.serving import Served

NUM_TOKENS = 500  # of a model with random weights: those of a small BPE vocabulary
NUM_CLIENTS = 64  # at once


def submodels(
    base: Annotated[Path | None, typer.Option(help="Folder of the base model.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="ESPnet's training yaml instead: that model, with random weights.")
    ] = None,
    kind: Annotated[str, typer.Option(help="The kind of adapter.")] = "residual",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Options of it: bottleneck=32.")
    ] = None,
    speakers: Annotated[int, typer.Option(min=1, help="Submodels, and rows of the batch.")] = 128,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of each row.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is timed, in turns.")] = 5,
    loads: Annotated[int, typer.Option(min=1, help="Submodels loaded from disk.")] = 500,
    resident: Annotated[int, typer.Option(min=0, help="Submodels held in memory, to weigh them.")] = 0,
    serve: Annotated[bool, typer.Option("--serve", help="Also drive 'adaptkit serve' with clients.")] = False,
    clients: Annotated[int | None, typer.Option(min=2, help="Of --serve, at once; 64 if not given.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Of --serve, processes; 1 if not given.")] = None,
    peft: Annotated[bool, typer.Option(help="With --kind lora, also time PEFT.")] = True,
    device: Device = "auto",
) -> None:
    """Time decoding a batch with a Submodel for every row against the base alone, and loading Submodels.

    Example: adaptkit bench submodels --base exp/base --kind hra --speakers 64 --resident 10000
    """
    if (base is None) == (model is None):
        raise typer.BadParameter("give one of --base and --model")
    if (clients or workers) and not serve:
        raise typer.BadParameter("--clients and --workers are those of --serve; give it too")
    from adaptkit.adapters.catalog import read
    from adaptkit.base import checkpoint, create
    from adaptkit.bench import serving
    from adaptkit.bench import submodels as library

    chosen = choose_device(device)
    entry = read(kind, overrides or [])
    loaded = checkpoint.load(base, chosen) if base else create.untrained(model, NUM_TOKENS).to(chosen)
    load = library.Load(speakers, seconds)
    costs = library.time_decoding(
        loaded, entry, load, num_rounds=rounds, has_peft=peft and entry.kind == "lora"
    )
    typer.echo(f"{'decoding':18} {'s/batch':>12} {'ratio':>12} {'rows/s':>12}")
    for cost in costs:
        figures = f"{cost.seconds:12.3f} {cost.ratio:12.2f} {speakers / cost.seconds:12.1f}"
        typer.echo(f"{cost.name:18} {figures}")
    _load(loaded, entry, speakers=speakers, loads=loads)
    if resident:
        _weigh(loaded, entry, resident)
    if serve:
        found = serving.time_serving(
            loaded,
            entry,
            load,
            num_clients=clients or NUM_CLIENTS,
            num_rounds=rounds,
            num_workers=workers or 1,
        )
        _print_served(found)


def _load(base: "BaseModel", entry: "AdapterConfig", *, speakers: int, loads: int) -> None:
    from adaptkit.bench import loading as library

    cost = library.time_loading(base, entry, num_files=speakers, num_loads=loads)
    typer.echo(f"{'loading':18} {'bytes':>12} {'median ms':>12} {'p99 ms':>12} {'most ms':>12}")
    figures = f"{cost.median_ms:12.2f} {cost.p99_ms:12.2f} {cost.max_ms:12.2f}"
    typer.echo(f"{f'{loads:,} loads':18} {cost.bytes_each:12,} {figures}")


def _weigh(base: "BaseModel", entry: "AdapterConfig", num_submodels: int) -> None:
    from adaptkit.bench import loading as library

    found = library.weigh_residents(base, entry, num_submodels)
    typer.echo(f"{'resident':18} {'bytes each':>12} {'MiB before':>12} {'MiB after':>12} {'MiB more':>12}")
    figures = f"{found.before_mib:12.0f} {found.after_mib:12.0f} {found.after_mib - found.before_mib:12.0f}"
    typer.echo(f"{f'{num_submodels:,} in memory':18} {found.bytes_each:12,} {figures}")


def _print_served(found: "Sequence[Served]") -> None:
    columns = ("requests", "requests/s", "ratio", "median ms", "p99 ms", "errors", "wrong")
    typer.echo(f"{'serving':18}" + "".join(f" {column:>12}" for column in columns))
    for one in found:
        typer.echo(
            f"{f'{one.num_clients} at once':18} {one.num_requests:12,} {one.per_sec:12.1f} {one.ratio:12.2f} "
            f"{one.median_ms:12.1f} {one.p99_ms:12.1f} {one.num_errors:12} {one.num_wrong:12}"
        )
