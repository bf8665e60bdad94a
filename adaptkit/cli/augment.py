"""`adaptkit augment`: what augmentation does to a corpus."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import Overrides

app = typer.Typer(
    help="Show what augmentation does to a corpus, and write noisy copies.", no_args_is_help=True
)


@app.callback()
def augment() -> None:
    """Show what augmentation does to a corpus, and write noisy copies."""


@app.command()
def show(
    policies: Annotated[
        list[str],
        typer.Argument(
            help="Names of conf/augment, yaml files of policies or of experiments.", metavar="POLICY..."
        ),
    ],
    data: Annotated[Path, typer.Option(help="A data directory, with features or without.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for policies.png and policy.yaml and table.md of each.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Tabulate how much of a corpus policies mask and warp, by the length of its utterances.

    Example: adaptkit augment show libri_full_adapt --data dump/train --out exp/augment
    """
    from adaptkit.augment import plot
    from adaptkit.augment import survey as show
    from adaptkit.augment.corpus import read_corpus
    from adaptkit.training import policies as library

    chosen = library.resolve_all(policies, overrides or [])
    corpus = read_corpus(data)
    shown = [show.show(name, policy, corpus) for name, policy in chosen.items()]
    typer.echo("\n\n".join(map(show.render, shown)) or "nothing is augmented")
    if out and shown:
        for one in shown:
            show.write(one, out / one.name)
        plot.draw(shown, corpus, out / "policies.png")
