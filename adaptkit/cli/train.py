"""`adaptkit train`: train the adapters of an experiment."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import (
    AllowPipes,
    Augment,
    Command,
    ConfigFile,
    Device,
    Overrides,
    Resume,
    Seed,
    choose_device,
    suggest,
)
from adaptkit.cli.refusals import refuse_twice


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=Command)(train)


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            metavar="ADAPTER",
            help="Replace the adapters by an entry of the section 'compare', a yaml by name or path, or an "
            "adapter type; the experiment is named after it, and its present name means its own adapters.",
        ),
    ] = None,
    augment: Augment = None,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Train one adapter for all speakers, from which --set train.start=EXP starts per-speaker "
            "weights; '_shared' is added to the experiment's name.",
        ),
    ] = False,
    exp: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to write to.", show_default="exp/<name>")
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    resume: Resume = False,
    allow_pipes: AllowPipes = False,
) -> None:
    """Train the adapters of an experiment on its frozen base model.

    Example: adaptkit train conf/mini.yaml --adapter hra --resume
    """
    from adaptkit import experiment
    from adaptkit.training.run import train_adapters

    own = {"train.seed": ("--seed", seed), "train.shared": ("--shared", shared)}
    refuse_twice(overrides, {**own, "augment": ("--augment", augment)})
    words = [*(overrides or []), *([f"train.seed={seed}"] if seed is not None else [])]
    settings = experiment.load(config, words, adapter=adapter, augment=augment, shared=shared)
    folder = exp or Path("exp") / settings.name
    chosen = choose_device(device)
    train_adapters(settings, folder, device=chosen, resume=resume, allow_pipes=allow_pipes)
    typer.echo(folder)
    suggest("decode", folder, "DATA")
