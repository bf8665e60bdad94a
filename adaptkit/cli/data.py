"""`adaptkit data`: make, validate, fix, divide, combine, join, perturb and summarise data directories."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptkit.cli import split
from adaptkit.cli.options import AllowPipes, Command, DataDir, Nj, OutDir, Rate, new_group
from adaptkit.errors import counted

if TYPE_CHECKING:
    from adaptkit.kaldi import datadir
    from adaptkit.kaldi.scan import Checks, Problem
    from adaptkit.kaldi.summary import Summary
    from adaptkit.tokens import TokenList

app = new_group("Make, validate, fix, divide, combine, join, perturb and summarise data directories.")
log = logging.getLogger(__name__)

MaxSec = Annotated[float, typer.Option(metavar="SEC", min=0, help="Longest utterance.")]
MinSec = Annotated[float, typer.Option(metavar="SEC", min=0, help="Shortest utterance.")]
CheckAudio = Annotated[
    bool, typer.Option("--audio/--no-audio", help="Decode the recordings too, or check only the tables.")
]
Tokens = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Check that texts use only characters of this token list.")
]


@app.command(cls=Command)
def validate(
    data_dirs: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Data directories.")],
    max_sec: MaxSec = 60.0,
    min_sec: MinSec = 0.1,
    check_audio: CheckAudio = True,
    allow_pipes: AllowPipes = False,
    tokens: Tokens = None,
    nj: Nj = 1,
) -> None:
    """List all problems of data directories by their cause, and exit with 1 if there is any.

    Example: adaptkit data validate data/train data/test --max-sec 30
    """
    from adaptkit.kaldi.validate import find_problems

    checks = replace(_checks(max_sec, min_sec, check_audio, allow_pipes, tokens), num_jobs=nj)
    valid = [_report(path, find_problems(path, checks)) for path in data_dirs]
    if not all(valid):
        raise typer.Exit(1)


@app.command(cls=Command)
def fix(
    data_dir: Annotated[Path, typer.Argument(metavar="DATA", help="A data directory, changed in place.")],
    max_sec: MaxSec = 60.0,
    min_sec: MinSec = 0.1,
    check_audio: CheckAudio = True,
    allow_pipes: AllowPipes = False,
    tokens: Tokens = None,
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Respell texts as this base model does: in its case, without punctuation that it lacks; "
            "utterances with anything else that it lacks, such as digits, are dropped.",
        ),
    ] = None,
    nj: Nj = 1,
) -> None:
    """Sort a data directory and drop unusable utterances, with a backup.

    Example: adaptkit data fix data/train --base exp/base
    """
    from adaptkit.kaldi.fix import fix as repair

    checks = replace(_checks(max_sec, min_sec, check_audio, allow_pipes, tokens), num_jobs=nj)
    done = repair(data_dir, checks, tokens=None if base is None else _load_tokens(base))
    for utt_id, reason in done.dropped.items():
        typer.echo(f"dropped {utt_id}: {reason}")
    total = len(done.dropped) + done.num_kept
    share = 100 * len(done.dropped) / total
    typer.echo(f"{data_dir}: kept {done.num_kept} of {counted(total, 'utterance')}, dropped {share:.1f} %")
    log.info("%s: rewrote %s", data_dir, ", ".join(done.changed) or "nothing")


@app.command(cls=Command)
def subset(
    source: DataDir,
    out_dir: OutDir,
    first: Annotated[int | None, typer.Option(metavar="N", min=1, help="The first N utterances.")] = None,
    random: Annotated[int | None, typer.Option(metavar="N", min=1, help="N random utterances.")] = None,
    per_spk: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Up to N utterances per speaker.")
    ] = None,
    utt_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Utterance ids, the first word of each line.")
    ] = None,
    spk_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Speakers, the first word of each line.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of --random.", show_default="0")] = None,
) -> None:
    """Write a subset of a data directory as a new one.

    Example: adaptkit data subset data/train data/train_5 --per-spk 5
    """
    from adaptkit.kaldi import datadir
    from adaptkit.kaldi import subset as parts

    choosers = {"--first": first, "--random": random, "--per-spk": per_spk, "--utt-list": utt_list,
            "--spk-list": spk_list}  # fmt: skip
    given = [name for name, value in choosers.items() if value is not None]
    if len(given) != 1:
        raise typer.BadParameter(f"use one of {', '.join(choosers)}, not {', '.join(given) or 'none'}")
    if seed is not None and random is None:
        raise typer.BadParameter(f"--seed has no effect with {given[0]}, only with --random")
    data = datadir.read(source, needs_text=False)
    choices = {
        "--first": lambda: parts.choose_first(data, first),
        "--random": lambda: parts.choose_random(data, random, seed=seed or 0),
        "--per-spk": lambda: parts.choose_per_speaker(data, per_spk),
        "--utt-list": lambda: _first_words(utt_list),
        "--spk-list": lambda: parts.choose_speakers(data, _first_words(spk_list)),
    }
    made = parts.subset(data, choices[given[0]](), path=out_dir)
    parts.save(made, [data])
    _say_size(made)


split.register(app)


@app.command(cls=Command)
def combine(
    out_dir: OutDir,
    sources: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Data directories.")],
) -> None:
    """Combine data directories with distinct ids.

    Example: adaptkit data combine data/all data/train data/dev
    """
    from adaptkit.kaldi import datadir
    from adaptkit.kaldi import subset as parts

    read = [datadir.read(source, needs_text=False) for source in sources]
    made = parts.combine(read, path=out_dir)
    parts.save(made, read)
    _say_size(made)


@app.command(cls=Command)
def join(
    source: DataDir,
    out_dir: OutDir,
    max_sec: Annotated[float, typer.Option(metavar="SEC", min=0, help="Longest joined utterance.")] = 15.0,
    rate: Rate = 16000,
    allow_pipes: AllowPipes = False,
) -> None:
    """Join short utterances of a speaker into longer ones.

    Example: adaptkit data join data/test data/test_long --max-sec 20
    """
    from adaptkit.kaldi import datadir
    from adaptkit.kaldi import join as library
    from adaptkit.kaldi import subset as parts

    read = datadir.read(source, needs_text=False)
    made = library.join(read, path=out_dir, most_sec=max_sec, rate_hz=rate, allow_pipes=allow_pipes)
    parts.save(made, [read])
    _say_size(made)


@app.command(cls=Command)
def perturb(
    source: DataDir,
    out_dir: OutDir,
    speeds: Annotated[
        list[float] | None,
        typer.Option(
            "--speed",
            metavar="X",
            help="A speed; repeatable; 1 for the originals. If omitted, 0.9, 1 and 1.1.",
        ),
    ] = None,
    same_speaker: Annotated[
        bool,
        typer.Option("--same-speaker", help="Keep the speakers rather than name new ones sp0.9-<speaker>."),
    ] = False,
    nj: Nj = 1,
    rate: Rate = 16000,
    allow_pipes: AllowPipes = False,
) -> None:
    """Write copies of all utterances at other speeds, by default 0.9 and 1.1 beside the originals.

    Example: adaptkit data perturb data/train data/train_sp --speed 0.9 --speed 1.0 --speed 1.1
    """
    from adaptkit.kaldi import perturb as library

    chosen = speeds or library.SPEEDS
    made = library.perturb(
        source, out_dir, chosen, same_speaker=same_speaker, num_jobs=nj, rate_hz=rate, allow_pipes=allow_pipes
    )
    _say_size(made)


@app.command(cls=Command)
def info(
    data_dir: DataDir,
    allow_pipes: AllowPipes = False,
    nj: Nj = 1,
) -> None:
    """Print the counts, durations and sampling rates of a data directory.

    Example: adaptkit data info data/train
    """
    from adaptkit.kaldi import datadir
    from adaptkit.kaldi.summary import summarise

    data = datadir.read(data_dir, needs_text=False)
    for name, value in _rows(summarise(data, allow_pipes=allow_pipes, num_jobs=nj)):
        typer.echo(f"{name:12} {value}")


def _checks(
    max_sec: float, min_sec: float, check_audio: bool, allow_pipes: bool, tokens: Path | None
) -> "Checks":
    from adaptkit.kaldi.scan import Checks
    from adaptkit.kaldi.validate import read_alphabet

    alphabet = read_alphabet(tokens) if tokens else None
    return Checks(max_sec, min_sec, check_audio, allow_pipes, alphabet)


def _load_tokens(base: Path) -> "TokenList":
    from adaptkit.base import checkpoint

    return checkpoint.load(base).tokens


def _report(path: Path, problems: Sequence["Problem"]) -> bool:
    """Print the causes of a directory's problems, and return whether it is valid."""
    from adaptkit.kaldi.scan import describe

    for line in describe(problems):
        typer.echo(line)
    num_warnings = sum(problem.is_warning for problem in problems)
    figures = counted(len(problems) - num_warnings, "problem"), counted(num_warnings, "warning")
    log.info("%s: %s, %s", path, *figures)
    return len(problems) == num_warnings


def _first_words(path: Path) -> list[str]:
    from adaptkit.files import read_text, split_lines
    from adaptkit.kaldi.tables import split_line

    keys = (split_line(line)[0] for line in split_lines(read_text(path)))
    return [key for key in keys if key]


def _say_size(data: "datadir.DataDir") -> None:
    speakers = counted(len(data.utterances.speakers.used()), "speaker")
    typer.echo(f"{data.path}: {counted(len(data.utterances), 'utterance')} of {speakers}")


def _rows(summary: "Summary") -> list[tuple[str, object]]:
    rates = (f"{count} at {rate_hz} Hz" for rate_hz, count in sorted(summary.num_recordings_by_hz.items()))
    return [
        ("utterances", summary.num_utterances),
        ("speakers", summary.num_speakers),
        ("tasks", summary.num_tasks),
        ("groups", summary.num_groups),
        ("words", summary.num_words),
        ("hours", f"{summary.total_sec / 3600:.2f}"),
        ("seconds", f"{summary.mean_sec:.2f} mean, {summary.min_sec:.2f} to {summary.max_sec:.2f}"),
        ("recordings", ", ".join(rates) or "pipes, not run"),
        ("feats", "yes" if summary.has_feats else "no"),
    ]
