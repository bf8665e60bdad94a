"""`adaptkit score`: word and character error rates of a set."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(name="score")(score)


def score(
    ref: Annotated[Path, typer.Argument(help="A data directory, or a Kaldi text file.")],
    hyp: Annotated[
        Path, typer.Argument(help="A decode folder, which gets score.json and RESULT, or a text file.")
    ],
    utt2spk: Annotated[
        Path | None, typer.Option(help="Who speaks; else REF/utt2spk, else one speaker.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Other hypotheses of the set, to test against.")
    ] = None,
    alignments: Annotated[
        bool, typer.Option("--alignments", help="Show each utterance word by word.")
    ] = False,
    output_format: Annotated[
        Literal["text", "json"], typer.Option("--format", help="What to print.")
    ] = "text",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write json to this file too.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Count the word and character errors of hypotheses, per speaker, with confidence intervals.

    Example: adaptkit score data/test exp/residual/decode_test
    """
    from adaptkit.scoring import files as score_files

    report = score_files.score_files(ref, hyp, utt2spk=utt2spk, other=compare, seed=seed)
    if hyp.is_dir():
        score_files.write(report, hyp, with_alignments=alignments)
    if json_file:
        score_files.write_json(report, json_file, with_alignments=alignments)
    show = score_files.dump_json if output_format == "json" else score_files.render
    typer.echo(show(report, with_alignments=alignments).rstrip())
