"""`adaptkit bench augment`, `submodels` and `decode`: what a model costs beside its training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptkit.cli.options import (
    Adapter,
    AdapterOverrides,
    BaseSearch,
    BatchFrames,
    BenchBase,
    BenchModel,
    Command,
    Device,
    Lm,
    SearchSet,
    Seconds,
    Utterances,
    choose_device,
    load_benched,
    request_search,
)
from adaptkit.cli.refusals import refuse_both
from adaptkit.errors import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adaptkit.adapters.api import AdapterConfig
    from adaptkit.base.checkpoint import BaseModel
    from adaptkit.bench.serving import Served

NUM_CLIENTS = 64  # simultaneous


def register(group: typer.Typer) -> None:
    """Add the commands to the group."""
    group.command(cls=Command)(augment)
    group.command(cls=Command)(submodels)
    group.command(cls=Command)(decode)


def augment(
    policy: Annotated[
        str, typer.Option(metavar="POLICY", help="A policy (name or yaml).")
    ] = "libri_full_adapt",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="YAML", help="Also time a step of this ESPnet training yaml, or its name in conf/base."
        ),
    ] = None,
    utterances: Utterances = 32,
    min_sec: Annotated[float, typer.Option(metavar="SEC", min=0.5, help="Shortest utterance.")] = 2.0,
    max_sec: Annotated[float, typer.Option(metavar="SEC", min=0.5, help="Longest utterance.")] = 20.0,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rounds to time, each with a step of the model.")
    ] = 5,
    device: Device = "auto",
) -> None:
    """Compare the time of SpecAugment with ESPnet's, and with that of a training step.

    Example: adaptkit bench augment --model conformer_12x256 --rounds 1
    """
    from adaptkit.augment.policy import read_policy
    from adaptkit.bench import augment as library

    spec = read_policy(policy).spec
    if spec is None:
        raise typer.BadParameter(f"--policy {policy}: has no SpecAugment to time")
    chosen = choose_device(device)
    base = load_benched(None, model, chosen) if model else None
    spread = library.Spread(utterances, min_sec, max_sec)
    costs = library.time_augmentation(spec, spread, base, num_rounds=rounds, device=chosen)
    typer.echo(f"{'':14} {'ms/batch':>12} {'ratio':>12} {'of step':>12} {'peak MB':>12}")
    for cost in costs:
        ratio, part = cost.seconds / costs[0].seconds, cost.seconds / costs[-1].seconds
        share = f"{100 * part:.2f} %" if base else "-"
        figures = f"{1000 * cost.seconds:12.1f} {ratio:12.2f} {share:>12} {cost.peak_mb:12.0f}"
        typer.echo(f"{cost.name:14} {figures}")


def submodels(
    base: BenchBase = None,
    model: BenchModel = None,
    adapter: Adapter = "residual",
    overrides: AdapterOverrides = None,
    speakers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Submodels, and rows in the batch.")
    ] = 128,
    seconds: Seconds = 2.0,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds to time.")] = 5,
    loads: Annotated[int, typer.Option(metavar="N", min=1, help="Loads from disk to time.")] = 500,
    resident: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also measure the memory of this many Submodels.")
    ] = 0,
    serve: Annotated[bool, typer.Option("--serve", help="Also send requests to 'adaptkit serve'.")] = False,
    clients: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help=f"Simultaneous clients of --serve; {NUM_CLIENTS} if omitted."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes of --serve; 1 if omitted.")
    ] = None,
    peft: Annotated[bool, typer.Option(help="With --adapter lora, also time PEFT.")] = True,
    device: Device = "auto",
) -> None:
    """Compare decoding with a Submodel per row to the base model alone, and time loading and serving.

    Example: adaptkit bench submodels --base exp/base --adapter hra --speakers 64 --resident 10000
    """
    from adaptkit.adapters.describe import read
    from adaptkit.bench import serving
    from adaptkit.bench import submodels as library

    refuse_both(base, model)
    if (clients or workers) and not serve:
        raise typer.BadParameter("--clients and --workers need --serve")
    entry = read(adapter, overrides or [])
    loaded = load_benched(base, model, choose_device(device))
    load = library.Load(speakers, seconds)
    costs = library.time_decoding(
        loaded, entry, load, num_rounds=rounds, has_peft=peft and entry.kind == "lora"
    )
    typer.echo(f"{'decoding':18} {'s/batch':>12} {'ratio':>12} {'rows/s':>12}")
    for cost in costs:
        figures = f"{cost.seconds:12.3f} {cost.ratio:12.2f} {speakers / cost.seconds:12.1f}"
        typer.echo(f"{cost.name:18} {figures}")
    _time_loading(loaded, entry, speakers=speakers, loads=loads)
    if resident:
        _measure_memory(loaded, entry, resident)
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


def decode(
    base: BenchBase = None,
    model: BenchModel = None,
    search: BaseSearch = None,
    search_set: SearchSet = None,
    lm: Lm = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="Take the utterances from this data directory.", show_default="noise"
        ),
    ] = None,
    utterances: Annotated[int, typer.Option(metavar="N", min=1, help="Number of utterances.")] = 8,
    min_sec: Annotated[
        float, typer.Option(metavar="SEC", min=0.5, help="Duration of the shortest noise.")
    ] = 2.0,
    max_sec: Annotated[
        float, typer.Option(metavar="SEC", min=0.5, help="Duration of the longest noise.")
    ] = 15.0,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Timed rounds; the median is reported.")
    ] = 3,
    batch_frames: BatchFrames = 12000,
    espnet: Annotated[bool, typer.Option(help="Also time ESPnet's Speech2Text.")] = True,
    device: Device = "auto",
) -> None:
    """Time a search, one utterance at a time and in batches, against ESPnet's own Speech2Text.

    Example: adaptkit bench decode --base exp/base --search greedy --utterances 4 --rounds 1
    """
    from adaptkit.base.search.choose import new_searcher
    from adaptkit.bench import decoding as library
    from adaptkit.data.dataset import read_examples

    refuse_both(base, model)
    chosen = choose_device(device)
    request = request_search(search, search_set, lm, None)
    first_sec, loaded, searcher = library.time_first(
        lambda: load_benched(base, model, chosen), lambda loaded: new_searcher(loaded, request)
    )
    if data is not None:
        speech = library.take_speech(read_examples(data, loaded, needs_text=False), utterances)
    else:
        speech = library.draw_speech(loaded, utterances, min_sec, max_sec)
    costs = library.time_searches(
        loaded, searcher, speech, num_rounds=rounds, batch_frames=batch_frames, has_espnet=espnet
    )
    size = f"{counted(utterances, 'utterance')}, {speech.seconds:.1f} s"
    typer.echo(f"{size}; first hypothesis after {first_sec:.1f} s")
    columns = ("s", "s per s", "times faster", "same words", "score differs")
    typer.echo(f"{'':14}" + "".join(f" {column:>13}" for column in columns))
    for cost in costs:
        faster = costs[0].seconds / cost.seconds
        typer.echo(
            f"{cost.name:14} {cost.seconds:13.3f} {cost.real_time:13.4f} {faster:13.2f} "
            f"{f'{cost.num_equal} of {utterances}':>13} {cost.largest_difference:13.6f}"
        )


def _time_loading(base: "BaseModel", entry: "AdapterConfig", *, speakers: int, loads: int) -> None:
    from adaptkit.bench import loading as library

    cost = library.time_loading(base, entry, num_files=speakers, num_loads=loads)
    typer.echo(f"{'loading':18} {'bytes':>12} {'median ms':>12} {'p99 ms':>12} {'max ms':>12}")
    figures = f"{cost.median_ms:12.2f} {cost.p99_ms:12.2f} {cost.max_ms:12.2f}"
    typer.echo(f"{f'{loads:,} loads':18} {cost.bytes_each:12,} {figures}")


def _measure_memory(base: "BaseModel", entry: "AdapterConfig", num_submodels: int) -> None:
    from adaptkit.bench import loading as library

    found = library.measure_residents(base, entry, num_submodels)
    typer.echo(f"{'resident':18} {'bytes each':>12} {'MiB before':>12} {'MiB after':>12} {'MiB added':>12}")
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
