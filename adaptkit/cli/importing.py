"""`adaptkit data import`: make a data directory from a corpus in another layout."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.data import CheckAudio, MaxSec, MinSec, Tokens
from adaptkit.cli.options import Command, CorpusLayout, OutDir, suggest
from adaptkit.errors import counted

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="The corpus: its folder or its table.")]
Layout = Annotated[
    CorpusLayout | None,
    typer.Option(
        help="audiofolder: Hugging Face's, with metadata.csv or metadata.jsonl; table: a csv or tsv of path, "
        "text, speaker; lhotse: its manifests; sap: Speech Accessibility Project; folders: one for each "
        "speaker, with texts beside the audio.",
        show_default="recognised from the files",
    ),
]
Speaker = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who speaks, where the corpus does not say.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the group."""
    app.command("import", cls=Command)(import_corpus)


def import_corpus(
    source: Source,
    out_dir: OutDir,
    layout: Layout = None,
    speaker: Speaker = None,
    max_sec: MaxSec = 60.0,
    min_sec: MinSec = 0.1,
    check_audio: CheckAudio = True,
    tokens: Tokens = None,
) -> None:
    """Make a data directory from a corpus in another layout, and validate it; the audio stays where it is.

    Example: adaptkit data import recordings data/own --layout folders
    """
    from adaptkit.corpora import importing as library
    from adaptkit.kaldi.scan import Checks, describe
    from adaptkit.kaldi.validate import find_problems, read_alphabet

    checks = Checks(max_sec, min_sec, check_audio, alphabet=read_alphabet(tokens) if tokens else None)
    done = library.import_corpus(source, out_dir, layout=layout and layout.value, speaker=speaker)
    num_speakers = len({utterance.speaker for utterance in done.data.utterances})
    size = f"{counted(len(done.data.utterances), 'utterance')} of {counted(num_speakers, 'speaker')}"
    typer.echo(f"{out_dir}: {size}")
    if done.left_out:
        typer.echo(f"{source}: {counted(len(done.left_out), 'entry', 'entries')} left out")
    problems = find_problems(out_dir, checks)
    for line in describe(problems):
        typer.echo(line)
    if any(not problem.is_warning for problem in problems):
        raise typer.Exit(1)
    suggest("data", "fix", out_dir, "--base", "DIR")
