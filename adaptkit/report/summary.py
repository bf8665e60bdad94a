"""Compare experiments: error rates, parameters and cost, as a table, Markdown or json (html: page.py)."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from adaptkit.report.runs import Comparison, Outcome
from adaptkit.scoring.bootstrap import LEVEL
from adaptkit.scoring.wer import Difference, compare
from adaptkit.tables import aligned, markdown

Cell = tuple[str, str]  # a figure, and what stands in small print by it


@dataclass(frozen=True)
class Row:
    """The figures of an experiment; WER and CER in percent, with the bounds of the WER at 95 %.

    Over several seeds errors are pooled, durations are means, and memory is the highest.
    """

    name: str
    kind: str
    tasks: list[str]
    seeds: list[int]
    params_trainable: int
    params_per_task: int
    params_base: int
    wer: float
    wer_low: float
    wer_high: float
    wer_sd: float | None  # standard deviation over the seeds; None where there is one
    wer_by_seed: dict[int, float]
    cer: float
    by_task: dict[str, float]  # WER of each speaker
    train_seconds: float
    epoch_seconds: float
    peak_mb: float  # of training
    rtf: float


def summarise(outcome: Outcome) -> Row:
    """Give the figures of an experiment."""
    shared, score = outcome.record, outcome.score
    records = [run.record for run in outcome.runs]
    rates = [run.score.total.rate for run in outcome.runs]
    epochs = [record.train_seconds / max(1, record.epochs) for record in records]
    return Row(
        name=outcome.name,
        kind=shared.kind,
        tasks=shared.tasks,
        seeds=outcome.seeds,
        params_trainable=shared.params_trainable,
        params_per_task=shared.params_per_task,
        params_base=shared.params_base,
        wer=round(score.total.rate, 2),
        wer_low=score.interval.low,
        wer_high=score.interval.high,
        wer_sd=round(statistics.stdev(rates), 2) if len(rates) > 1 else None,
        wer_by_seed={seed: round(rate, 2) for seed, rate in zip(outcome.seeds, rates, strict=True)},
        cer=round(score.chars.rate, 2),
        by_task={speaker: round(counts.rate, 2) for speaker, counts in score.by_speaker.items()},
        train_seconds=round(statistics.mean(record.train_seconds for record in records), 1),
        epoch_seconds=round(statistics.mean(epochs), 1),
        peak_mb=round(max(record.peak_mb for record in records), 1),
        rtf=round(statistics.mean(run.decode.rtf for run in outcome.runs), 4),
    )


def subtract(outcome: Outcome, baselines: Sequence[Outcome]) -> list[Difference | None]:
    """Compare an experiment with others, utterance by utterance; None where it is compared with itself."""
    return [
        None if base is outcome else compare(outcome.score, base.score, name=base.name) for base in baselines
    ]


def as_json(comparison: Comparison) -> str:
    """Give one json object per experiment, in a list."""
    rows = []
    for outcome in comparison.outcomes:
        differences = [asdict(one) for one in subtract(outcome, comparison.baselines) if one]
        rows.append({**asdict(summarise(outcome)), "minus": differences})
    return json.dumps(rows, indent=1, ensure_ascii=False)


def as_table(comparison: Comparison) -> str:
    """Give the experiments as aligned text."""
    return aligned(join(as_cells(comparison)))


def as_markdown(comparison: Comparison) -> str:
    """Give the report as Markdown: the experiments, their speakers, and how to make them again."""
    parts = [
        f"## Results on `{comparison.set_name}`",
        describe(comparison),
        markdown(join(as_cells(comparison))),
        "### WER by speaker",
        markdown(as_speaker_rows(comparison.outcomes)),
        *describe_making(comparison.outcomes),
    ]
    return "\n\n".join(parts)


def as_cells(comparison: Comparison) -> list[list[Cell]]:
    """Give the table of experiments, its head first; a cell is a figure with its small print."""
    interval = f"{LEVEL} % interval"
    head = [
        ("experiment", "kind"),
        ("WER", interval),
        ("seeds", "sd of WER" if _has_seeds(comparison.outcomes) else ""),
        *((f"minus {base.name}", interval) for base in comparison.baselines),
        ("CER", ""),
        ("trainable", "of base"),
        ("per task", ""),
        ("s per epoch", ""),
        ("memory", ""),
    ]
    rows = [
        _experiment_cells(summarise(outcome), subtract(outcome, comparison.baselines))
        for outcome in comparison.outcomes
    ]
    return [head, *rows]


def as_speaker_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Give the WER of each speaker as text: a row per speaker, a column per experiment."""
    rows = [summarise(outcome) for outcome in outcomes]
    head = ["speaker", *(row.name for row in rows)]
    return [
        head,
        *([speaker, *(f"{row.by_task[speaker]:.2f}" for row in rows)] for speaker in rows[0].by_task),
    ]


def describe(comparison: Comparison) -> str:
    """Say in a paragraph what was measured and how to read it."""
    costs = "Seconds per epoch leave validation out; memory is the peak of training."
    return f"{describe_rates(comparison)} {costs}"


def describe_rates(comparison: Comparison) -> str:
    """Say what was scored and how to read the rates."""
    score = comparison.outcomes[0].runs[0].score
    num_speakers = len(score.by_speaker)
    resampled = "speakers and utterances" if num_speakers > 1 else "utterances"
    seeds = "over several seeds errors are pooled, and sd is the deviation between them; "
    pooled = seeds if _has_seeds(comparison.outcomes) else ""
    return (
        f"{len(score.utterances)} utterances, {num_speakers} speaker{'s' if num_speakers > 1 else ''}, "
        f"{score.total.words} words. WER and CER in percent; {pooled}intervals at {LEVEL} % "
        f"are bootstrapped over {resampled}. 'minus' is the paired difference of WER from that experiment, "
        f"* where p < 0.05 (each by itself)."
    )


def describe_making(outcomes: Sequence[Outcome]) -> list[str]:
    """Say in paragraphs of Markdown which commands and versions made the experiments."""
    made = [f"- `{o.name}`{name_seeds(o)}: `{o.record.command}`" for o in outcomes]
    return ["### How these were made", "\n".join(made), "\n".join(describe_versions(outcomes))]


def describe_versions(outcomes: Sequence[Outcome]) -> list[str]:
    """Say which versions and commit made the experiments, one line for all that share them."""
    names: dict[str, list[str]] = {}
    for outcome in outcomes:
        for run in outcome.runs:
            versions = dict(run.record.versions)
            versions |= {
                "adaptkit commit": run.record.toolkit_commit or "unknown",
                "recipe commit": run.record.recipe_commit or "unknown",
            }
            written = ", ".join(f"{name} {version}" for name, version in versions.items())
            names.setdefault(written, []).append(outcome.name)
    if len(names) == 1:
        return [f"Versions: {versions}." for versions in names]
    return [f"Versions of {', '.join(dict.fromkeys(own))}: {versions}." for versions, own in names.items()]


def name_seeds(outcome: Outcome) -> str:
    """Name the seeds of an experiment in brackets, where there are several; its command is of the first."""
    return f" (seeds {', '.join(map(str, outcome.seeds))})" if len(outcome.runs) > 1 else ""


def _has_seeds(outcomes: Sequence[Outcome]) -> bool:
    return any(len(outcome.runs) > 1 for outcome in outcomes)


def _experiment_cells(row: Row, differences: Sequence[Difference | None]) -> list[Cell]:
    return [
        (row.name, row.kind if row.kind != row.name else ""),
        (f"{row.wer:.2f}", f"{row.wer_low:.2f} to {row.wer_high:.2f}"),
        (
            str(len(row.seeds)) if row.params_trainable else "–",
            "" if row.wer_sd is None else f"{row.wer_sd:.2f}",
        ),
        *map(difference_cell, differences),
        (f"{row.cer:.2f}", ""),
        (f"{row.params_trainable:,}", f"{100 * row.params_trainable / row.params_base:.2f} %"),
        (f"{row.params_per_task:,}", ""),
        (f"{row.epoch_seconds:,.1f}" if row.epoch_seconds else "–", ""),
        (f"{row.peak_mb:,.0f} MB" if row.peak_mb else "–", ""),
    ]


def difference_cell(difference: Difference | None) -> Cell:
    """Give a paired difference, with * where p < 0.05."""
    if difference is None:
        return "–", ""
    star = "*" if difference.p_value < 0.05 else ""
    return f"{difference.points:+.2f}{star}", str(difference.interval)


def join(rows: Sequence[Sequence[Cell]]) -> list[list[str]]:
    """Write cells in one line, the small print in brackets."""
    return [[f"{figure} ({small})" if small else figure for figure, small in row] for row in rows]
