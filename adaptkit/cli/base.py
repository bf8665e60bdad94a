"""`adaptkit base`: train, import and inspect base models."""

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
    new_group,
    suggest,
)
from adaptkit.cli.refusals import refuse_twice

app = new_group("Train, import and inspect base models.")


@app.command(cls=Command)
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    augment: Augment = None,
    exp: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to write to.", show_default="base.dir")
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    resume: Resume = False,
    allow_pipes: AllowPipes = False,
) -> None:
    """Train a base model, from scratch or from another, with the section 'base' of an experiment.

    Example: adaptkit base train conf/mini.yaml --set base.train.max_epochs=30 --resume
    """
    from adaptkit import experiment
    from adaptkit.training.base_run import train_base

    own = {"base.train.seed": ("--seed", seed), "base.dir": ("--exp", exp)}
    refuse_twice(overrides, {**own, "base.augment": ("--augment", augment)})
    words = [*(overrides or []), *([f"base.train.seed={seed}"] if seed is not None else [])]
    words += [f"base.dir={exp}"] if exp is not None else []
    settings = experiment.load_base(config, words, augment=augment)
    train_base(settings, device=choose_device(device), resume=resume, allow_pipes=allow_pipes)
    typer.echo(settings.base.dir)


@app.command("import", cls=Command)
def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A released ESPnet model: folder, zip, .pth or tag (user/name)."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    model_file: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model file to use if the folder has several."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download a model given by its tag (needs the extra 'hub').")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="R", help="Branch, tag or commit of a model given by its tag.", show_default="the newest"
        ),
    ] = None,
) -> None:
    """Turn a released ESPnet model into one self-contained folder, for use as a base model.

    Example: adaptkit base import asr_model.zip --out exp/imported
    """
    from adaptkit.base import importing

    importing.import_model(source, out, model_file=model_file, revision=revision, download=download)
    typer.echo(out)
    suggest("decode", out, "DATA", "--out", "exp/none/decode_test")


@app.command(cls=Command)
def info(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder, archive or model file of a base model.")
    ],
    sites: Annotated[bool, typer.Option("--sites", help="List every site instead of counting them.")] = False,
) -> None:
    """Print the source, architecture, sites, tokens and fingerprint of a base model.

    Example: adaptkit base info exp/base
    """
    from adaptkit.base import checkpoint
    from adaptkit.base.info import describe

    base = checkpoint.load(folder)
    if sites:
        typer.echo(f"{'kind':15} block    in   out name")
        for site in base.sites:
            typer.echo(f"{site.kind:15} {site.block:5} {site.dim_in:5} {site.dim_out:5} {site.name}")
        return
    for name, value in describe(base).items():
        typer.echo(f"{name:12} {value}")
