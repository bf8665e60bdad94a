"""`adaptkit augment`: what augmentation does to a corpus, and noisy copies of it."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import AllowPipes, Command, DataDir, OutDir, Overrides, Rate, new_group

app = new_group("Show what augmentation does to a corpus, and write noisy copies.")


@app.command(cls=Command)
def show(
    policies: Annotated[
        list[str],
        typer.Argument(
            help="Names of conf/augment, yaml files of policies or of experiments.", metavar="POLICY..."
        ),
    ],
    data: Annotated[Path, typer.Option(metavar="DATA", help="A data directory, with features or without.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The folder for policies.png, and policy.yaml and table.md of each."
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Tabulate how much of a corpus policies mask and warp, by the length of its utterances.

    Example: adaptkit augment show libri_full_adapt --data dump/train --out exp/augment
    """
    from adaptkit.augment import plot, survey
    from adaptkit.augment.corpus import read_corpus
    from adaptkit.training.augmentation import resolve_all

    chosen = resolve_all(policies, overrides or [])
    corpus = read_corpus(data)
    shown = [survey.show(name, policy, corpus) for name, policy in chosen.items()]
    typer.echo("\n\n".join(map(survey.render, shown)) or "no augmentation")
    if out and shown:
        for one in shown:
            survey.write(one, out / one.name)
        plot.draw(shown, corpus, out / "policies.png")


@app.command(cls=Command)
def copy(
    data_dir: DataDir,
    out_dir: OutDir,
    policy: Annotated[
        str, typer.Option(metavar="NAME", help="A policy by name or yaml; its section 'noise' is used.")
    ],
    overrides: Overrides = None,
    copies: Annotated[int, typer.Option(metavar="N", min=1, help="Noisy copies of each utterance.")] = 1,
    without_clean: Annotated[
        bool, typer.Option("--without-clean", help="Leave the clean utterances out.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the noise.")] = 0,
    rate: Rate = 16000,
    allow_pipes: AllowPipes = False,
) -> None:
    """Write noisy copies of every utterance, beside the clean ones or in their place.

    Example: adaptkit augment copy data/test data/noisy --policy mtr --set noise.snr_db=[10,10]
    """
    from adaptkit.augment import copies as library
    from adaptkit.augment.policy import read_policy
    from adaptkit.errors import ConfigError

    noise = read_policy(policy, overrides or ()).noise
    if noise is None:
        raise ConfigError(f"augmentation '{policy}' has no noise; --set noise.noises=[FOLDER] gives it some")
    which = library.Copies(copies, not without_clean, seed)
    made = library.copy(data_dir, out_dir, noise, which, rate_hz=rate, allow_pipes=allow_pipes)
    typer.echo(f"{out_dir}: {len(made.utterances)} utterances")
