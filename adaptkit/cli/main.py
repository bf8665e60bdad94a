"""The `adaptkit` command with all its groups."""

from typing import Annotated

import typer

from adaptkit.cli import (
    adapters,
    augment,
    base,
    bench,
    config,
    data,
    decode,
    feats,
    importing,
    init,
    report,
    score,
    serve,
    submodels,
    train,
    transcribe,
)
from adaptkit.cli.script import run, set_up_messages

app = typer.Typer(
    name="adaptkit",
    help="Adapt ESPnet Conformer speech recognisers to many speakers and domains with small adapters.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (init, feats, train, decode, transcribe, score, report, serve):
    module.register(app)
importing.register(data.app)
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
app.add_typer(base.app, name="base")
app.add_typer(adapters.app, name="adapters")
app.add_typer(augment.app, name="augment")
app.add_typer(submodels.app, name="submodels")
app.add_typer(bench.app, name="bench")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from adaptkit import __version__

        typer.echo(f"adaptkit {__version__}")
        raise typer.Exit


@app.callback()
def adaptkit(
    context: typer.Context,
    trust_config: Annotated[
        bool,
        typer.Option(
            "--trust-config",
            help="Let base models name any class of ESPnet, which may run code, unpickle files and download "
            "models; ADAPTKIT_TRUST_CONFIG=1 does the same.",
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Adapt ESPnet Conformer speech recognisers to many speakers and domains with small adapters."""
    from adaptkit.base.trust import trusting

    context.with_resource(trusting(trust_config))


def main() -> None:
    """Run a command, with messages on stderr."""
    set_up_messages()
    run(app, "adaptkit")
