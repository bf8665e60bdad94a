"""Compare experiments over several test sets, such as the same utterances in clean and noisy versions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adaptkit.errors import ScoringError, listed
from adaptkit.report import runs, summary
from adaptkit.report.notes import list_warnings
from adaptkit.report.runs import Comparison, ExperimentResult, Run
from adaptkit.report.sections import (
    Cell,
    Section,
    describe_group,
    list_speaker_sections,
    rate_cells,
    rate_head,
)
from adaptkit.scoring.wer import pool
from adaptkit.tables import aligned, escape_markdown, markdown

_ALL = "all"  # the sets pooled


@dataclass(frozen=True)
class SetComparison:
    """Experiments on sets with the same references, and on all of these pooled."""

    by_set: tuple[Comparison, ...]
    together: Comparison
    pooled_name: str = _ALL  # of the sets together

    @property
    def named(self) -> list[tuple[str, Comparison]]:
        """The sets with their names, and if there are several, these pooled."""
        named = [(comparison.set_name, comparison) for comparison in self.by_set]
        return [*named, (self.pooled_name, self.together)] if len(named) > 1 else named

    def of_group(self, group: str) -> "SetComparison":
        """Return the same experiments and sets on the utterances of a group."""
        by_set = tuple(comparison.of_group(group) for comparison in self.by_set)
        return SetComparison(by_set, self.together.of_group(group), self.pooled_name)


def load(
    folders: Sequence[Path], set_names: Sequence[str], *, minus: Sequence[str] = ()
) -> list[SetComparison]:
    """Read scored runs on several sets; those of the same references, speakers and groups are together."""
    groups: dict[tuple, list[Comparison]] = {}
    for name in dict.fromkeys(set_names):
        comparison = runs.load(folders, name, minus=minus)
        score = comparison.results[0].score
        refs = tuple((u.utt_id, u.speaker, u.group, u.words.words) for u in score.utterances)
        groups.setdefault(refs, []).append(comparison)
    has_one = len(groups) == 1 and _ALL not in set_names
    return [
        SetComparison(tuple(group), _join(group), _ALL if has_one else _join_names(group))
        for group in groups.values()
    ]


def as_table(conditions: Sequence[SetComparison]) -> str:
    """Format a table for each group of sets as aligned text, and one for each group of utterances."""
    parts = []
    for group in conditions:
        parts.append("\n".join([aligned(summary.join(as_cells(group))), *list_warnings(group.together)]))
        parts += [f"{one.title}\n{aligned(summary.join(one.rows))}" for one in list_group_sections(group)]
    return "\n\n".join(parts)


def as_markdown(conditions: Sequence[SetComparison]) -> str:
    """Format a table for each group of sets in Markdown, with an explanation, speakers and groups."""
    parts = []
    for group in conditions:
        parts += [_explain(group), markdown(summary.join(as_cells(group)))]
        parts += map(escape_markdown, list_warnings(group.together))
        sections = [*list_speaker_sections(group.together), *list_group_sections(group)]
        parts += summary.markdown_sections(sections)
    return "\n\n".join([*parts, *summary.list_provenance(conditions[0].together.results)])


def as_json(conditions: Sequence[SetComparison]) -> str:
    """Format a json list of one object per experiment and set, those that are pooled included."""
    rows = []
    for group in conditions:
        for name, comparison in group.named:
            pairs = zip(comparison.results, summary.list_by_group(comparison), strict=True)
            for one, by_group in pairs:
                row = {"name": one.name, "set": name, **summary.rates(one)}
                row["minus"] = summary.list_differences(comparison, one)
                rows.append(row | {"by_group": by_group})
    return json.dumps(rows, indent=1, ensure_ascii=False)


def as_cells(conditions: SetComparison) -> list[list[Cell]]:
    """Return the table, head first: WER by experiment and set, pooled WER, and its paired differences."""
    names = [(name, "") for name, _ in conditions.named]
    head = [("experiment", ""), *names, *rate_head(conditions.together)]
    rows = []
    for index, one in enumerate(conditions.together.results):
        scores = [comparison.results[index].score for _, comparison in conditions.named]
        rates = [(f"{score.total.rate:.2f}", str(score.interval)) for score in scores]
        rows.append([(one.name, ""), *rates, *rate_cells(conditions.together, one)])
    return [head, *rows]


def list_group_sections(conditions: SetComparison) -> list[Section]:
    """Return a table for each group of utterances; none if the data has no groups."""
    parts = {group: conditions.of_group(group) for group in conditions.together.groups}
    return [
        Section(describe_group(group, part.by_set[0]), as_cells(part), []) for group, part in parts.items()
    ]


def list_remarks(group: SetComparison) -> list[str]:
    """Return what the figures mean, and warnings."""
    return [_explain(group), *list_warnings(group.together)]


def _explain(group: SetComparison) -> str:
    pooled = f" '{group.pooled_name}' pools the errors of the {len(group.by_set)} sets, and so does 'minus'."
    explained = summary.explain_rates(group.together, rates="WER", seeds="errors are pooled over seeds")
    return explained + (pooled if len(group.by_set) > 1 else "")


def _join_names(comparisons: Sequence[Comparison]) -> str:
    return "+".join(comparison.set_name for comparison in comparisons)


def _join(comparisons: Sequence[Comparison]) -> Comparison:
    """Pool the errors of all sets."""
    _refuse_other_forms(comparisons)
    results = tuple(
        ExperimentResult(_join_runs(same), pool([one.score for one in same]))
        for same in zip(*(comparison.results for comparison in comparisons), strict=True)
    )
    named = {one.name: one for one in results}
    return Comparison(results, tuple(named[base.name] for base in comparisons[0].baselines))


def _join_runs(results: Sequence[ExperimentResult]) -> tuple[Run, ...]:
    """Pool the errors of all sets in each run."""
    return tuple(
        replace(same[0], score=pool([run.score for run in same]))
        for same in zip(*(result.runs for result in results), strict=True)
    )


def _refuse_other_forms(comparisons: Sequence[Comparison]) -> None:
    """Refuse to pool sets that were normalised differently for their scores."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for comparison in comparisons:
        sets.setdefault(comparison.results[0].score.normalize, []).append(comparison.set_name)
    if len(sets) > 1:
        described = " and ".join(
            f"{listed(names)} with --normalize {', '.join(forms) or 'none'}" for forms, names in sets.items()
        )
        raise ScoringError(
            f"sets of the same references: scored {described}; run 'adaptkit score' on all of them alike, or "
            "report one --test-set at a time"
        )
