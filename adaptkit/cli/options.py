"""Options that mean the same in every command."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(help="An experiment's yaml.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as in train.lr=1e-4.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Replaces the seed of the training.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")]
Augment = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Another augmentation, by name or yaml; it names the experiment."),
]
AllowPipes = Annotated[bool, typer.Option("--allow-pipes", help="Run commands of wav.scp.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes CUDA where there is one.")]


def choose_device(wanted: str) -> str:
    """Resolve `auto`, and under torchrun the GPU of this process; a device that is not there is refused."""
    import os

    import torch

    from adaptkit.errors import ConfigError

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and "LOCAL_RANK" in os.environ:
        wanted = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {wanted}: not on this machine: {str(error).splitlines()[0]}") from error
    return wanted
