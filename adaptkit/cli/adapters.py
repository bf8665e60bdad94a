"""`adaptkit adapters`: list the adapter types, and prune or fold trained adapters."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import (
    AdapterOverrides,
    Base,
    Command,
    Device,
    Exp,
    choose_device,
    new_group,
)

app = new_group("List the adapter types; prune trained adapters, or fold them into the base model.")

Speaker = Annotated[str, typer.Option(metavar="NAME", help="The speaker whose adapters to use.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="The folder for the resulting base model.")]


@app.command(name="list", cls=Command)
def list_types() -> None:
    """List the adapter types with their parameter counts and papers.

    Example: adaptkit adapters list
    """
    from rich.console import Console
    from rich.table import Table

    from adaptkit.adapters.catalog import read_catalog

    table = Table("type", "what it adds", "parameters", "paper", box=None, pad_edge=False)
    for info in read_catalog().values():
        table.add_row(info.kind, info.title, info.closed_form, info.cited)
    console = Console(width=None if sys.stdout.isatty() else 500, markup=False, highlight=False)
    console.print(table)


@app.command(cls=Command)
def show(
    adapter: Annotated[
        str,
        typer.Argument(metavar="ADAPTER", help="An adapter type, or the name or path of a yaml with one."),
    ],
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Count parameters for the base model in this folder.")
    ] = None,
    overrides: AdapterOverrides = None,
) -> None:
    """Print the paper, equation, parameter count and options of an adapter type.

    Example: adaptkit adapters show hra --base exp/base --set controller_width=128
    """
    from adaptkit.adapters.catalog import read_catalog

    info = read_catalog().get(adapter)
    if info is not None and base is None and not overrides:
        typer.echo(info.as_text())
        return
    from adaptkit import config
    from adaptkit.adapters import describe

    entry = describe.read(adapter, overrides or [])
    typer.echo(describe.describe_adapter(entry.kind).as_text(config.dump(entry)))
    if base is None:
        return
    from adaptkit.base import checkpoint

    size = describe.measure(entry, checkpoint.load(base).sites)
    rows = {
        "sites": ", ".join(f"{count} {name}" for name, count in size.sites.items()),
        "per speaker": f"{size.per_task:,}",
        "shared": f"{size.shared:,}",
    }
    typer.echo(f"\nOn {base}:")
    for name, value in rows.items():
        typer.echo(f"{name:12} {value}")


@app.command(cls=Command)
def prune(
    exp: Annotated[
        Path,
        typer.Argument(metavar="EXP", help="The folder of trained adapters that have an option 'blocks'."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="The set to measure on.", show_default="the validation set"),
    ] = None,
    from_bottom: Annotated[
        bool, typer.Option("--from-bottom/--from-top", help="Which blocks to prune first.")
    ] = True,
    retrain_epochs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Also train the remaining adapters for N more epochs."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to write to.", show_default="EXP/pruned_from_bottom"),
    ] = None,
    device: Device = "auto",
) -> None:
    """Remove adapters block by block, and tabulate WER against parameters.

    Example: adaptkit adapters prune exp/tpa --data dump/test --retrain-epochs 2
    """
    from adaptkit.decoding.run import decode_and_score
    from adaptkit.training import prune as library

    chosen = choose_device(device)
    rows = library.prune(
        exp,
        measure=lambda folder, test, frames: (
            decode_and_score(folder, test, batch_frames=frames, device=chosen).rate
        ),
        device=chosen,
        data=data,
        out=out,
        from_bottom=from_bottom,
        retrain_epochs=retrain_epochs,
    )
    typer.echo(library.format_rows(rows))


@app.command(cls=Command)
def fold(exp: Exp, speaker: Speaker, out: Out, base: Base = None) -> None:
    """Fold a speaker's adapters into the base model, as an archive that ESPnet's Speech2Text can read;
    if the base model reads features of 'adaptkit feats', pass those to Speech2Text instead of speech.

    Example: adaptkit adapters fold exp/lora --speaker spk1 --out exp/base_spk1
    """
    from adaptkit.base import fold as library
    from adaptkit.model.load import load_experiment

    loaded = load_experiment(exp, base=base)
    library.write(library.fold(loaded.base, loaded.adapters, speaker), out)
    typer.echo(out)


@app.command(cls=Command)
def unfold(
    folded: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a model made by 'fold'.")],
    exp: Exp,
    speaker: Speaker,
    out: Out,
) -> None:
    """Remove a speaker's folded adapters from a base model.

    Example: adaptkit adapters unfold exp/base_spk1 exp/lora --speaker spk1 --out exp/base_again
    """
    import logging

    from adaptkit.base import checkpoint as base_checkpoint
    from adaptkit.base import fold as library
    from adaptkit.folders import RunFolder
    from adaptkit.model import checkpoint

    path = RunFolder(exp).adapter
    file = checkpoint.load(path)
    narrowed = library.narrow(base_checkpoint.load(folded))
    restored = library.unfold(narrowed, checkpoint.restore(file, narrowed, path), speaker)
    library.write(restored, out)
    is_same = restored.fingerprint == narrowed.fingerprint
    how = (
        "bit-identical"
        if is_same
        else "restored up to rounding; adapters trained on the original do not load on it"
    )
    logging.getLogger(__name__).info("%s: base model %s, %s", out, narrowed.fingerprint, how)
    typer.echo(out)
