"""`adaptkit score`: compute word and character error rates."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import Command, NormalForm, ScoreFormat

_MOST_SPEAKERS = 100  # that are listed on the screen; RESULT lists all


Hypotheses = Annotated[
    Path,
    typer.Argument(
        metavar="HYP", help="A decode folder, to which score.json and RESULT are written, or a text file."
    ),
]
Speakers = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The speaker of each utterance.", show_default="REF/utt2spk, or one"),
]
Groups = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The group of each utterance.", show_default="REF/utt2group or spk2group"
    ),
]
Compared = Annotated[
    Path | None,
    typer.Option(
        metavar="HYP",
        help="Test the difference to these hypotheses, and count speakers whose WER is lower (improved), "
        "equal or higher (harmed), beside what chance alone would bring.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=Command)(score)


def score(
    ref: Annotated[Path, typer.Argument(metavar="REF", help="A data directory, or a Kaldi text file.")],
    hyp: Hypotheses,
    utt2spk: Speakers = None,
    utt2group: Groups = None,
    normalize: Annotated[
        list[NormalForm] | None,
        typer.Option(help="Ignore case or Unicode form on both sides; repeatable.", show_default="none"),
    ] = None,
    compare: Compared = None,
    allow_unlike: Annotated[
        bool, typer.Option("--allow-unlike", help="Allow --compare across base models or data sets.")
    ] = False,
    alignments: Annotated[
        bool, typer.Option("--alignments", help="Include the word alignment of each utterance.")
    ] = False,
    form: Annotated[ScoreFormat, typer.Option("--format", help="The output format.")] = ScoreFormat.text,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the score as json to this file.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the bootstrap.")] = 0,
) -> None:
    """Compute word and character error rates, overall, by speaker and by group, with confidence intervals.

    Example: adaptkit score data/test exp/residual/decode_test
    """
    from adaptkit.scoring import files as library

    if allow_unlike and compare is None:
        raise typer.BadParameter("needs --compare", param_hint="--allow-unlike")
    forms = tuple(sorted({form.value for form in normalize or ()}))
    report = library.score_files(
        ref,
        hyp,
        utt2spk=utt2spk,
        utt2group=utt2group,
        normalize=forms,
        other=compare,
        allow_unlike=allow_unlike,
        seed=seed,
    )
    if hyp.is_dir():
        library.write(report, hyp, with_alignments=alignments)
    if json_file:
        library.write_json(report, json_file, with_alignments=alignments)
    if form is ScoreFormat.json:
        typer.echo(library.dump_json(report, with_alignments=alignments))
    else:
        shown = library.format_report(report, with_alignments=alignments, most_speakers=_MOST_SPEAKERS)
        typer.echo(shown.rstrip())
