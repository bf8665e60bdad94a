"""Compare experiments: error rates, parameters and cost, as a table, Markdown or json (html: page.py)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adaptkit import result
from adaptkit.bootstrap import LEVEL
from adaptkit.errors import AdaptkitError, ScoringError, listed, nearest
from adaptkit.layout import aligned, markdown
from adaptkit.record import DecodeRecord, Progress, RunRecord, read_progress
from adaptkit.score import Difference, ScoreReport, compare

Cell = tuple[str, str]  # a figure, and what stands in small print by it


@dataclass(frozen=True)
class Outcome:
    """All that an experiment left behind about its training and about one decoded set."""

    run: RunRecord
    decode: DecodeRecord
    score: ScoreReport
    progress: Progress


@dataclass(frozen=True)
class Row:
    """The figures of an experiment; WER and CER in percent, with the bounds of the WER at 95 %."""

    name: str
    kind: str
    tasks: list[str]
    params_trainable: int
    params_per_task: int
    params_base: int
    wer: float
    wer_low: float
    wer_high: float
    cer: float
    by_task: dict[str, float]  # WER of each speaker
    train_seconds: float
    peak_mb: float  # of training
    rtf: float


def load(folders: Sequence[Path], set_name: str | None = None) -> list[Outcome]:
    """Read experiments and their scores on one set, which may go unnamed where each has decoded only that."""
    if not folders:
        raise AdaptkitError("no experiment to report; name folders such as exp/none exp/residual")
    scored = [_find_decoded(Path(folder), set_name) for folder in folders]
    if len({decoded.name for decoded in scored}) > 1:
        seen = listed(str(decoded) for decoded in scored)
        raise ScoringError(f"experiments decoded different sets: {seen}; choose one with --set")
    outcomes = [_load(Path(folder), decoded) for folder, decoded in zip(folders, scored, strict=True)]
    _refuse_unlike(outcomes, scored)
    return outcomes


def summarise(outcome: Outcome) -> Row:
    """Give the figures of an experiment."""
    run, score = outcome.run, outcome.score
    return Row(
        name=run.name,
        kind=run.kind,
        tasks=run.tasks,
        params_trainable=run.params_trainable,
        params_per_task=run.params_per_task,
        params_base=run.params_base,
        wer=round(score.total.rate, 2),
        wer_low=score.interval.low,
        wer_high=score.interval.high,
        cer=round(score.chars.rate, 2),
        by_task={speaker: round(counts.rate, 2) for speaker, counts in score.by_speaker.items()},
        train_seconds=round(run.train_seconds, 1),
        peak_mb=round(run.peak_mb, 1),
        rtf=round(outcome.decode.rtf, 4),
    )


def find_baseline(outcomes: Sequence[Outcome]) -> Outcome:
    """Give the experiment that others are compared with: that of kind `none`, else the first."""
    return next((outcome for outcome in outcomes if outcome.run.kind == "none"), outcomes[0])


def compare_all(outcomes: Sequence[Outcome]) -> list[Difference | None]:
    """Compare each experiment with the baseline, utterance by utterance; None for the baseline itself."""
    base = find_baseline(outcomes)
    return [
        None if outcome is base else compare(outcome.score, base.score, name=base.run.name)
        for outcome in outcomes
    ]


def as_json(outcomes: Sequence[Outcome]) -> str:
    """Give one json object per experiment, in a list."""
    return json.dumps([asdict(summarise(outcome)) for outcome in outcomes], indent=1, ensure_ascii=False)


def as_table(outcomes: Sequence[Outcome]) -> str:
    """Give the experiments as aligned text."""
    return aligned(_join(as_cells(outcomes)))


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """Give the report as Markdown: the experiments, their speakers, and how to make them again."""
    made = [f"- `{o.run.name}`: `{o.run.command}` (commit {o.run.commit or 'unknown'})" for o in outcomes]
    parts = [
        f"## Results on `{outcomes[0].decode.set_name}`",
        describe(outcomes),
        markdown(_join(as_cells(outcomes))),
        "### WER by speaker",
        markdown(as_speaker_rows(outcomes)),
        "### How these were made",
        "\n".join(made),
        "\n".join(describe_versions(outcomes)),
    ]
    return "\n\n".join(parts)


def as_cells(outcomes: Sequence[Outcome]) -> list[list[Cell]]:
    """Give the table of experiments, its head first; a cell is a figure with its small print."""
    interval = f"{LEVEL} % interval"
    head = [
        ("experiment", "kind"),
        ("WER", interval),
        (f"minus {find_baseline(outcomes).run.name}", interval),
    ]
    head += [("CER", ""), ("trainable", "of base")]
    head += [(name, "") for name in ("per task", "tasks", "training", "memory", "RTF")]
    differences = compare_all(outcomes)
    return [head, *map(_experiment_cells, map(summarise, outcomes), differences)]


def as_speaker_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Give the WER of each speaker as text: a row per speaker, a column per experiment."""
    rows = [summarise(outcome) for outcome in outcomes]
    head = ["speaker", *(row.name for row in rows)]
    return [
        head,
        *([speaker, *(f"{row.by_task[speaker]:.2f}" for row in rows)] for speaker in rows[0].by_task),
    ]


def describe(outcomes: Sequence[Outcome]) -> str:
    """Say in a paragraph what was measured and how to read it."""
    score, base = outcomes[0].score, find_baseline(outcomes)
    num_speakers = len(score.by_speaker)
    resampled = "speakers and utterances" if num_speakers > 1 else "utterances"
    return (
        f"{len(score.utterances)} utterances, {num_speakers} speaker{'s' if num_speakers > 1 else ''}, "
        f"{score.total.words} words. WER and CER in percent; intervals at {LEVEL} % are bootstrapped over "
        f"{resampled}. 'minus {base.run.name}' is the paired difference of WER with its "
        f"interval, * where p < 0.05. Memory is the peak of training. RTF: seconds of decoding per second of "
        f"recording."
    )


def describe_versions(outcomes: Sequence[Outcome]) -> list[str]:
    """Say which versions made the experiments, one line for all that share them."""
    names: dict[str, list[str]] = {}
    for outcome in outcomes:
        versions = ", ".join(f"{name} {version}" for name, version in outcome.run.versions.items())
        names.setdefault(versions, []).append(outcome.run.name)
    if len(names) == 1:
        return [f"Versions: {versions}." for versions in names]
    return [f"Versions of {', '.join(sharing)}: {versions}." for versions, sharing in names.items()]


def _find_decoded(folder: Path, set_name: str | None) -> Path:
    """Find the folder of an experiment that holds the set's hypotheses and score."""
    if not folder.is_dir():
        known = [str(path) for path in folder.parent.glob("*") if path.is_dir()]
        raise AdaptkitError(f"{folder}: no such experiment{nearest(str(folder), known)}")
    found = sorted(path for path in folder.glob("decode_*") if path.is_dir())
    names = listed(path.name.removeprefix("decode_") for path in found)
    if not found:
        raise ScoringError(f"{folder}: holds no decode_<set>; 'adaptkit decode' makes it")
    if set_name is None and len(found) > 1:
        raise ScoringError(f"{folder}: several sets are decoded; choose one with --set: {names}")
    if set_name is None:
        return found[0]
    if folder / f"decode_{set_name}" not in found:
        raise ScoringError(
            f"{folder}: set {set_name} is not decoded, only: {names}; 'adaptkit decode' does it"
        )
    return folder / f"decode_{set_name}"


def _load(folder: Path, decoded: Path) -> Outcome:
    decode = DecodeRecord.read(decoded / "run.json")
    if not (decoded / "score.json").exists():
        remedy = f"'adaptkit score data/{decode.set_name} {decoded}' makes it"
        raise ScoringError(f"{decoded}/score.json: no such file; {remedy}")
    log = folder / "train.jsonl"
    return Outcome(
        run=RunRecord.read(folder / "run.json"),
        decode=decode,
        score=result.read(decoded / "score.json"),
        progress=read_progress(log) if log.exists() else Progress(),  # the base alone has no training
    )


def _refuse_unlike(outcomes: Sequence[Outcome], scored: Sequence[Path]) -> None:
    """Refuse experiments that were not scored on the same references and speakers."""
    refs = [{u.utt_id: (u.speaker, u.words.words) for u in outcome.score.utterances} for outcome in outcomes]
    unlike = [str(path) for path, own in zip(scored, refs, strict=True) if own != refs[0]]
    if unlike:
        what = f"{listed(unlike)}: references or speakers are not those of {scored[0]}"
        raise ScoringError(f"{what}; run 'adaptkit score' on all of them with one data directory")


def _experiment_cells(row: Row, difference: Difference | None) -> list[Cell]:
    gain = ("–", "")
    if difference:
        star = "*" if difference.p_value < 0.05 else ""
        gain = (f"{difference.points:+.2f}{star}", str(difference.interval))
    return [
        (row.name, row.kind if row.kind != row.name else ""),
        (f"{row.wer:.2f}", f"{row.wer_low:.2f} to {row.wer_high:.2f}"),
        gain,
        (f"{row.cer:.2f}", ""),
        (f"{row.params_trainable:,}", f"{100 * row.params_trainable / row.params_base:.2f} %"),
        (f"{row.params_per_task:,}", ""),
        (str(len(row.tasks)), ""),
        (_write_duration(row.train_seconds), ""),
        (f"{row.peak_mb:,.0f} MB" if row.peak_mb else "–", ""),
        (f"{row.rtf:.3f}", ""),
    ]


def _join(rows: Sequence[Sequence[Cell]]) -> list[list[str]]:
    """Write cells in one line, the small print in brackets."""
    return [[f"{figure} ({small})" if small else figure for figure, small in row] for row in rows]


def _write_duration(seconds: float) -> str:
    """Write a duration in hours and minutes, or minutes and seconds; a dash where nothing was done.

    >>> _write_duration(4000), _write_duration(61.4), _write_duration(0.0)
    ('1 h 07 min', '1 min 01 s', '–')
    """
    if not seconds:
        return "–"
    if seconds >= 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes:02d} min"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
