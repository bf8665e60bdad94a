"""Compare experiments over several test sets, such as the same utterances in clean and noisy versions."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adaptkit.report import runs, summary
from adaptkit.report.runs import Comparison, ExperimentResult
from adaptkit.report.summary import Cell
from adaptkit.scoring.wer import pool
from adaptkit.tables import aligned, markdown

_ALL = "all"  # the sets pooled


@dataclass(frozen=True)
class SetComparison:
    """Experiments on sets with the same references, and on all of these pooled."""

    by_set: tuple[Comparison, ...]
    together: Comparison


def load(
    folders: Sequence[Path], set_names: Sequence[str], *, minus: Sequence[str] = ()
) -> list[SetComparison]:
    """Read scored runs on several sets, and group the sets that have the same references, in order."""
    groups: dict[tuple, list[Comparison]] = {}
    for name in dict.fromkeys(set_names):
        comparison = runs.load(folders, name, minus=minus)
        score = comparison.results[0].score
        refs = tuple((u.utt_id, u.speaker, u.words.words) for u in score.utterances)
        groups.setdefault(refs, []).append(comparison)
    return [SetComparison(tuple(group), _join(group)) for group in groups.values()]


def as_table(conditions: Sequence[SetComparison]) -> str:
    """Format a table for each group of sets as aligned text."""
    return "\n\n".join(aligned(summary.join(as_cells(group))) for group in conditions)


def as_markdown(conditions: Sequence[SetComparison]) -> str:
    """Format a table for each group of sets in Markdown, with an explanation."""
    parts = [
        part for group in conditions for part in (_explain(group), markdown(summary.join(as_cells(group))))
    ]
    return "\n\n".join([*parts, *summary.list_provenance(conditions[0].together.results)])


def as_json(conditions: Sequence[SetComparison]) -> str:
    """Format a json list of one object per experiment and set, including the pooled set `all`."""
    rows = []
    for group in conditions:
        for comparison in (*group.by_set, group.together):
            for one in comparison.results:
                row = summary.summarise(one)
                minus = [asdict(d) for d in summary.subtract(one, comparison.baselines) if d]
                rates = {"wer": row.wer, "wer_low": row.wer_low, "wer_high": row.wer_high}
                rows.append({"name": row.name, "set": _name(comparison, group), **rates, "minus": minus})
    return json.dumps(rows, indent=1, ensure_ascii=False)


def as_cells(conditions: SetComparison) -> list[list[Cell]]:
    """Return the table, head first: WER by experiment and set, pooled WER, and its paired differences."""
    names = [comparison.set_name for comparison in conditions.by_set]
    several = [_ALL] if len(names) > 1 else []
    baselines = conditions.together.baselines
    head = [("experiment", ""), *((name, "") for name in [*names, *several])]
    head += [(f"minus {base.name}", "") for base in baselines]
    rows = []
    for index, one in enumerate(conditions.together.results):
        scores = [comparison.results[index].score for comparison in conditions.by_set]
        scores += [one.score] if several else []
        rates = [(f"{score.total.rate:.2f}", str(score.interval)) for score in scores]
        differences = map(summary.difference_cell, summary.subtract(one, baselines))
        rows.append([(one.name, ""), *rates, *differences])
    return [head, *rows]


def _explain(group: SetComparison) -> str:
    pooled = f" '{_ALL}' pools the errors of the {len(group.by_set)} sets, and so does 'minus'."
    return summary.explain_rates(group.together) + (pooled if len(group.by_set) > 1 else "")


def _name(comparison: Comparison, group: SetComparison) -> str:
    return _ALL if comparison is group.together else comparison.set_name


def _join(comparisons: Sequence[Comparison]) -> Comparison:
    """Pool the errors of all sets."""
    results = tuple(
        ExperimentResult(same[0].runs, pool([one.score for one in same]))
        for same in zip(*(comparison.results for comparison in comparisons), strict=True)
    )
    named = {one.name: one for one in results}
    return Comparison(results, tuple(named[base.name] for base in comparisons[0].baselines))
