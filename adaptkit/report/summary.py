"""Compare experiments by error rates, parameters and cost, as a table, Markdown or json."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from adaptkit.characters import visible
from adaptkit.errors import counted
from adaptkit.report.notes import list_notes, list_warnings
from adaptkit.report.runs import Comparison, ExperimentResult
from adaptkit.report.sections import (
    Cell,
    Section,
    explain_harmed,
    list_group_sections,
    list_speaker_sections,
    rate_cells,
    rate_head,
)
from adaptkit.report.speakers import find_best, list_rate_sections
from adaptkit.report.worst import find_worst_utterances
from adaptkit.scoring.bootstrap import LEVEL
from adaptkit.scoring.text import align
from adaptkit.scoring.wer import Difference
from adaptkit.tables import aligned, escape_markdown, markdown, quote_code


@dataclass(frozen=True)
class Row:
    """The figures of an experiment; WER and CER in percent, with the 95 % interval of the WER.

    Over several seeds, errors are pooled, durations averaged, and memory is the maximum.
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
    wer_sd: float | None  # standard deviation over the seeds; None for a single seed
    wer_by_seed: dict[int, float]
    cer: float
    by_task: dict[str, float]  # WER of each speaker
    train_seconds: float
    epoch_seconds: float
    peak_mb: float  # of training
    rtf: float
    unimproved: list[str]  # speakers for whom a run kept the weights of its start


def summarise(result: ExperimentResult) -> Row:
    """Compute the figures of an experiment."""
    shared, score = result.record, result.score
    records = [run.record for run in result.runs]
    rates = [run.score.total.rate for run in result.runs]
    epochs = [record.train_seconds / max(1, record.epochs) for record in records]
    return Row(
        name=result.name,
        kind=shared.kind,
        tasks=shared.tasks,
        seeds=result.seeds,
        params_trainable=shared.params_trainable,
        params_per_task=shared.params_per_task,
        params_base=shared.params_base,
        wer=round(score.total.rate, 2),
        wer_low=score.interval.low,
        wer_high=score.interval.high,
        wer_sd=round(statistics.stdev(rates), 2) if len(rates) > 1 else None,
        wer_by_seed={seed: round(rate, 2) for seed, rate in zip(result.seeds, rates, strict=True)},
        cer=round(score.chars.rate, 2),
        by_task={speaker: round(counts.rate, 2) for speaker, counts in score.by_speaker.items()},
        train_seconds=round(statistics.mean(record.train_seconds for record in records), 1),
        epoch_seconds=round(statistics.mean(epochs), 1),
        peak_mb=round(max(record.peak_mb for record in records), 1),
        rtf=round(statistics.mean(run.decode.rtf for run in result.runs), 4),
        unimproved=result.unimproved,
    )


def as_json(comparison: Comparison) -> str:
    """Format a json list of one object per experiment."""
    rows = []
    for result in comparison.results:
        row = asdict(summarise(result)) | {"minus": list_differences(comparison, result)}
        rows.append(row)
    for row, by_group in zip(rows, list_by_group(comparison), strict=True):
        row["by_group"] = by_group
    return json.dumps(rows, indent=1, ensure_ascii=False)


def rates(result: ExperimentResult) -> dict[str, float]:
    """Return the error rates of an experiment with their intervals, in percent."""
    score = result.score
    found = {
        "wer": round(score.total.rate, 2),
        "wer_low": score.interval.low,
        "wer_high": score.interval.high,
    }
    found["cer"] = round(score.chars.rate, 2)
    if score.chars_interval:
        found |= {"cer_low": score.chars_interval.low, "cer_high": score.chars_interval.high}
    return found


def list_by_group(comparison: Comparison) -> list[dict[str, dict[str, object]]]:
    """List for each experiment its rates and differences in each group, as json data."""
    parts = {group: comparison.of_group(group) for group in comparison.groups}
    return [
        {
            group: {**rates(part.results[index]), "minus": list_differences(part, part.results[index])}
            for group, part in parts.items()
        }
        for index in range(len(comparison.results))
    ]


def list_differences(comparison: Comparison, result: ExperimentResult) -> list[dict[str, object]]:
    """List the paired differences of an experiment as json data, with the share of speakers harmed."""
    return [
        asdict(one) | {"share_harmed": _share_harmed(one)} for one in comparison.differences_of(result) if one
    ]


def _share_harmed(difference: Difference) -> float | None:
    speakers = difference.speakers
    return speakers and round(100 * speakers.harmed / speakers.num_speakers, 2)


def as_table(comparison: Comparison) -> str:
    """Format the experiments as aligned text, overall and by group."""
    notes = [*list_notes(comparison.results), *list_warnings(comparison)]
    parts = ["\n".join([aligned(join(as_cells(comparison))), *notes])]
    parts += [f"{one.title}\n{aligned(join(one.rows))}" for one in list_group_sections(comparison)]
    return "\n\n".join(parts)


def as_markdown(comparison: Comparison) -> str:
    """Format the report as Markdown: the experiments, their speakers and groups, and their provenance."""
    parts = [
        f"## Results on {quote_code(comparison.set_name)}",
        explain(comparison),
        markdown(join(as_cells(comparison))),
        *map(escape_markdown, [*list_notes(comparison.results), *list_warnings(comparison)]),
        *markdown_sections(
            [
                *list_speaker_sections(comparison),
                *list_group_sections(comparison),
                *list_rate_sections(comparison.results),
            ]
        ),
        *_list_worst(find_best(comparison.results)),
        *list_provenance(comparison.results),
    ]
    return "\n\n".join(parts)


def _list_worst(result: ExperimentResult) -> list[str]:
    """Return the alignments of the worst utterances in Markdown; empty without any."""
    worst = find_worst_utterances(result)
    if not worst:
        return []
    blocks = [align(one.score) for one in worst]
    lines = "\n\n".join(blocks).split("\n")
    code = "\n".join(f"    {visible(line)}".rstrip() for line in lines)
    return [f"### {escape_markdown(f'Utterances with the most errors of {result.name}')}", code]


def markdown_sections(sections: Sequence[Section]) -> list[str]:
    """Format the titles, tables and notes of sections in Markdown."""
    return [
        part
        for one in sections
        for part in (
            f"### {escape_markdown(one.title)}",
            markdown(join(one.rows)),
            *map(escape_markdown, one.notes),
        )
    ]


def as_cells(comparison: Comparison) -> list[list[Cell]]:
    """Return the table of experiments, head first; a cell is a figure with its small print."""
    interval = f"{LEVEL} % interval"
    head = [
        ("experiment", "adapter"),
        ("WER", interval),
        ("seeds", "sd of WER" if _has_seeds(comparison.results) else ""),
        *rate_head(comparison),
        ("CER", ""),
        ("parameters", "of base"),
        ("per speaker", ""),
        ("s per epoch", ""),
        ("memory", ""),
    ]
    rows = [
        _experiment_cells(summarise(result), rate_cells(comparison, result)) for result in comparison.results
    ]
    return [head, *rows]


def explain(comparison: Comparison) -> str:
    """Explain in a paragraph what the figures mean."""
    costs = (
        "Parameters are the trained ones; seconds per epoch exclude validation; memory is the training peak."
    )
    seeds = "errors are pooled over seeds, and sd is the standard deviation between them"
    return f"{explain_rates(comparison, rates='WER and CER', seeds=seeds)} {costs}"


def explain_rates(comparison: Comparison, *, rates: str, seeds: str) -> str:
    """Explain what was scored and what the rates in a table mean, and the `seeds` where there are several."""
    score = comparison.results[0].runs[0].score
    num_speakers = len(score.by_speaker)
    resampled = "speakers and utterances" if num_speakers > 1 else "utterances"
    pooled = f"{seeds}; " if _has_seeds(comparison.results) else ""
    return (
        f"{counted(len(score.utterances), 'utterance')}, {counted(num_speakers, 'speaker')}, "
        f"{counted(score.total.words // score.num_runs, 'word')}. {rates} in percent; {pooled}{LEVEL} % "
        f"intervals by bootstrap over {resampled}. 'minus' is the paired difference in WER to that "
        f"experiment, * if p < 0.05 (not corrected for multiple comparisons).{explain_harmed(comparison)}"
    )


def list_provenance(results: Sequence[ExperimentResult]) -> list[str]:
    """List in Markdown the commands and versions that produced the experiments."""
    made = [f"- {quote_code(o.name)}{name_seeds(o)}: {quote_code(o.record.command)}" for o in results]
    return ["### Provenance", "\n".join(made), "\n".join(map(escape_markdown, list_versions(results)))]


def list_versions(results: Sequence[ExperimentResult]) -> list[str]:
    """List the software versions and commits of the experiments, a line for all that share them."""
    names: dict[str, list[str]] = {}
    for result in results:
        for run in result.runs:
            versions = dict(run.record.versions)
            versions |= {
                "adaptkit commit": run.record.toolkit_commit or "unknown",
                "recipe commit": run.record.recipe_commit or "unknown",
            }
            written = ", ".join(f"{name} {version}" for name, version in versions.items())
            names.setdefault(written, []).append(result.name)
    if len(names) == 1:
        return [f"Versions: {versions}." for versions in names]
    return [f"Versions of {', '.join(dict.fromkeys(own))}: {versions}." for versions, own in names.items()]


def name_seeds(result: ExperimentResult) -> str:
    """Return the seeds of an experiment in brackets, empty for a single one; its command shows the first."""
    return f" (seeds {', '.join(map(str, result.seeds))})" if len(result.runs) > 1 else ""


def _has_seeds(results: Sequence[ExperimentResult]) -> bool:
    return any(len(result.runs) > 1 for result in results)


def _experiment_cells(row: Row, differences: Sequence[Cell]) -> list[Cell]:
    return [
        (row.name, row.kind if row.kind != row.name else ""),
        (f"{row.wer:.2f}", f"{row.wer_low:.2f} to {row.wer_high:.2f}"),
        (
            str(len(row.seeds)) if row.params_trainable else "–",
            "" if row.wer_sd is None else f"{row.wer_sd:.2f}",
        ),
        *differences,
        (f"{row.cer:.2f}", ""),
        (f"{row.params_trainable:,}", f"{100 * row.params_trainable / row.params_base:.2f} %"),
        (f"{row.params_per_task:,}", ""),
        (f"{row.epoch_seconds:,.1f}" if row.epoch_seconds else "–", ""),
        (f"{row.peak_mb:,.0f} MB" if row.peak_mb else "–", ""),
    ]


def join(rows: Sequence[Sequence[Cell]]) -> list[list[str]]:
    """Join each figure and its small print, the latter in brackets."""
    return [[f"{figure} ({small})" if small else figure for figure, small in row] for row in rows]
