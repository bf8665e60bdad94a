"""Compare experiments over several conditions: the same utterances clean, in noise, and in more of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adaptkit.report import runs, summary
from adaptkit.report.runs import Comparison, Outcome
from adaptkit.report.summary import Cell
from adaptkit.scoring.wer import pool
from adaptkit.tables import aligned, markdown

_ALL = "all"  # the conditions together


@dataclass(frozen=True)
class Conditions:
    """Experiments on sets of the same references, and on all of these together."""

    by_set: tuple[Comparison, ...]
    together: Comparison


def load(folders: Sequence[Path], set_names: Sequence[str], *, minus: Sequence[str] = ()) -> list[Conditions]:
    """Read scored runs on several sets; those with the same references come together, in their order."""
    groups: dict[tuple, list[Comparison]] = {}
    for name in dict.fromkeys(set_names):
        comparison = runs.load(folders, name, minus=minus)
        score = comparison.outcomes[0].score
        refs = tuple((u.utt_id, u.speaker, u.words.words) for u in score.utterances)
        groups.setdefault(refs, []).append(comparison)
    return [Conditions(tuple(group), _join(group)) for group in groups.values()]


def as_table(conditions: Sequence[Conditions]) -> str:
    """Give a table for each group of sets as aligned text."""
    return "\n\n".join(aligned(summary.join(as_cells(group))) for group in conditions)


def as_markdown(conditions: Sequence[Conditions]) -> str:
    """Give a table for each group of sets in Markdown, and say how to read it."""
    parts = [
        part for group in conditions for part in (_describe(group), markdown(summary.join(as_cells(group))))
    ]
    return "\n\n".join([*parts, *summary.describe_making(conditions[0].together.outcomes)])


def as_json(conditions: Sequence[Conditions]) -> str:
    """Give one json object per experiment and set, `all` among these, in a list."""
    rows = []
    for group in conditions:
        for comparison in (*group.by_set, group.together):
            for one in comparison.outcomes:
                row = summary.summarise(one)
                minus = [asdict(d) for d in summary.subtract(one, comparison.baselines) if d]
                rates = {"wer": row.wer, "wer_low": row.wer_low, "wer_high": row.wer_high}
                rows.append({"name": row.name, "set": _name(comparison, group), **rates, "minus": minus})
    return json.dumps(rows, indent=1, ensure_ascii=False)


def as_cells(conditions: Conditions) -> list[list[Cell]]:
    """Give WER by experiment and set, then of all sets and its difference from others, head first."""
    names = [comparison.set_name for comparison in conditions.by_set]
    several = [_ALL] if len(names) > 1 else []
    baselines = conditions.together.baselines
    head = [("experiment", ""), *((name, "") for name in [*names, *several])]
    head += [(f"minus {base.name}", "") for base in baselines]
    rows = []
    for index, one in enumerate(conditions.together.outcomes):
        scores = [comparison.outcomes[index].score for comparison in conditions.by_set]
        scores += [one.score] if several else []
        rates = [(f"{score.total.rate:.2f}", str(score.interval)) for score in scores]
        differences = map(summary.difference_cell, summary.subtract(one, baselines))
        rows.append([(one.name, ""), *rates, *differences])
    return [head, *rows]


def _describe(group: Conditions) -> str:
    pooled = f" '{_ALL}' counts the errors of the {len(group.by_set)} sets together, and so does 'minus'."
    return summary.describe_rates(group.together) + (pooled if len(group.by_set) > 1 else "")


def _name(comparison: Comparison, group: Conditions) -> str:
    return _ALL if comparison is group.together else comparison.set_name


def _join(comparisons: Sequence[Comparison]) -> Comparison:
    """Count the errors of all sets together."""
    outcomes = tuple(
        Outcome(same[0].runs, pool([one.score for one in same]))
        for same in zip(*(comparison.outcomes for comparison in comparisons), strict=True)
    )
    named = {one.name: one for one in outcomes}
    return Comparison(outcomes, tuple(named[base.name] for base in comparisons[0].baselines))
