"""`adaptkit augment`: show the effect of augmentation on a corpus, and write noisy copies."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import AllowPipes, Command, DataDir, OutDir, Overrides, Rate, new_group

app = new_group("Show the effect of augmentation on a corpus, and write noisy copies.")


@app.command(cls=Command)
def show(
    policies: Annotated[
        list[str],
        typer.Argument(
            help="Names in conf/augment, or yaml files of policies or experiments.", metavar="POLICY..."
        ),
    ],
    data: Annotated[Path, typer.Option(metavar="DATA", help="A data directory, with or without features.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write policies.png, and policy.yaml and table.md of each policy, to this folder.",
        ),
    ] = None,
    overrides: Overrides = None,
    allow_pipes: AllowPipes = False,
) -> None:
    """Tabulate how much of a corpus is masked and warped, by utterance length.

    Example: adaptkit augment show libri_full_adapt --data dump/train --out exp/augment
    """
    from adaptkit.augment import plot, survey
    from adaptkit.augment.corpus import read_corpus
    from adaptkit.training.augmentation import resolve_all

    chosen = resolve_all(policies, overrides or [])
    corpus = read_corpus(data, allow_pipes=allow_pipes)
    shown = [survey.survey_policy(name, policy, corpus) for name, policy in chosen.items()]
    typer.echo("\n\n".join(map(survey.format_survey, shown)) or "no augmentation")
    if out and shown:
        for one in shown:
            survey.write(one, out / one.name)
        plot.draw(shown, corpus, out / "policies.png")


@app.command(cls=Command)
def copy(
    data_dir: DataDir,
    out_dir: OutDir,
    policy: Annotated[
        str, typer.Option(metavar="POLICY", help="A policy (name or yaml), of which only 'noise' is used.")
    ],
    overrides: Overrides = None,
    copies: Annotated[int, typer.Option(metavar="N", min=1, help="Noisy copies per utterance.")] = 1,
    without_clean: Annotated[
        bool, typer.Option("--without-clean", help="Omit the clean utterances.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the noise.")] = 0,
    rate: Rate = 16000,
    allow_pipes: AllowPipes = False,
) -> None:
    """Write noisy copies of every utterance, in addition to the clean ones or instead of them.

    Example: adaptkit augment copy data/test data/noisy --policy mtr --set noise.snr_db=[10,10]
    """
    from adaptkit.augment import copies as library
    from adaptkit.augment.policy import read_policy
    from adaptkit.errors import ConfigError, counted

    noise = read_policy(policy, overrides or ()).noise
    if noise is None:
        raise ConfigError(f"augmentation '{policy}': has no noise; add some with --set noise.noises=[FOLDER]")
    which = library.Copies(copies, not without_clean, seed)
    made = library.copy(data_dir, out_dir, noise, which, rate_hz=rate, allow_pipes=allow_pipes)
    typer.echo(f"{out_dir}: {counted(len(made.utterances), 'utterance')}")
