"""`adaptkit augment copy`: noisy copies of a data directory."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import AllowPipes, Overrides


def copy(
    data_dir: Annotated[Path, typer.Argument(help="A data directory.")],
    out_dir: Annotated[Path, typer.Argument(help="The data directory to make.")],
    policy: Annotated[str, typer.Option(help="A policy or its yaml; its section 'noise' is used.")],
    overrides: Overrides = None,
    copies: Annotated[int, typer.Option(min=1, help="Noisy copies of each utterance.")] = 1,
    without_clean: Annotated[bool, typer.Option("--without-clean", help="Leave the clean ones out.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other noise.")] = 0,
    rate: Annotated[int, typer.Option(min=1000, help="Rate to bring recordings to, in Hz.")] = 16000,
    allow_pipes: AllowPipes = False,
) -> None:
    """Write noisy copies of every utterance beside the clean ones or, without those, in their place.

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
