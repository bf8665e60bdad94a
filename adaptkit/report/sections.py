"""What a report says beside its main table: speakers improved and harmed, and the results of each group."""

from collections.abc import Sequence
from dataclasses import dataclass

from adaptkit.report.runs import Comparison, ExperimentResult
from adaptkit.scoring.bootstrap import LEVEL
from adaptkit.scoring.speakers import SIGNIFICANT, SpeakerChanges
from adaptkit.scoring.text import describe_worst
from adaptkit.scoring.wer import Difference

Cell = tuple[str, str]  # a figure, and its small print


@dataclass(frozen=True)
class Section:
    """A table with its title, head first, and sentences below it."""

    title: str
    rows: list[list[Cell]]
    notes: list[str]


def list_speaker_sections(comparison: Comparison) -> list[Section]:
    """Count the speakers improved and harmed against each baseline; no section for a set of one speaker."""
    sections = []
    for index, base in enumerate(comparison.baselines):
        compared = [
            (result.name, difference.speakers)
            for result, own in zip(comparison.results, comparison.differences, strict=True)
            if (difference := own[index]) and difference.speakers
        ]
        if compared:
            sections.append(_section(f"Speakers compared with {base.name}", compared))
    return sections


def list_group_sections(comparison: Comparison) -> list[Section]:
    """Return a table for each group of utterances; none if the data has no groups."""
    return [_group_section(group, comparison.of_group(group)) for group in comparison.groups]


def rate_head(comparison: Comparison) -> list[Cell]:
    """Return the titles of the paired differences, and of the shares of speakers harmed."""
    head = []
    for index, base in enumerate(comparison.baselines):
        head.append((f"minus {base.name}", f"{LEVEL} % interval"))
        if _counts_speakers(comparison, index):
            head.append((f"harmed vs {base.name}", "by chance"))
    return head


def rate_cells(comparison: Comparison, result: ExperimentResult) -> list[Cell]:
    """Return the paired differences of an experiment, and the shares of speakers harmed."""
    cells = []
    for index, difference in enumerate(comparison.differences_of(result)):
        cells.append(difference_cell(difference))
        if _counts_speakers(comparison, index):
            cells.append(_harmed_cell(difference.speakers if difference else None))
    return cells


def difference_cell(difference: Difference | None) -> Cell:
    """Format a paired difference, with * if p < 0.05."""
    if difference is None:
        return "–", ""
    star = "*" if difference.p_value < 0.05 else ""
    return f"{difference.points:+.2f}{star}", str(difference.interval)


def explain_harmed(comparison: Comparison) -> str:
    """Explain the share of speakers harmed; empty if no speakers are counted."""
    if not any(_counts_speakers(comparison, index) for index in range(len(comparison.baselines))):
        return ""
    over = ", a mean over the seeds" if any(len(one.runs) > 1 for one in comparison.results) else ""
    return (
        f" 'harmed' is the share of speakers whose WER is higher than with that experiment{over}, and "
        "'by chance' what it would be if each utterance's change were as likely to be its opposite."
    )


def _counts_speakers(comparison: Comparison, index: int) -> bool:
    return any(own[index] and own[index].speakers for own in comparison.differences)


def _harmed_cell(speakers: SpeakerChanges | None) -> Cell:
    if speakers is None:
        return "–", ""
    return speakers.share(speakers.harmed), speakers.share(speakers.harmed_by_chance)


def _section(title: str, compared: Sequence[tuple[str, SpeakerChanges]]) -> Section:
    names = ("improved", "equal", "harmed", "harmed_by_chance")
    significantly = ("improved_significantly", "harmed_significantly", "significantly_by_chance")
    head = ["experiment", "improved", "equal", "harmed", "harmed by chance"]
    head += ["significantly improved", "significantly harmed", "either by chance"]
    rows = [[(title, "") for title in head]]
    for name, speakers in compared:
        numbers = [getattr(speakers, field) for field in (*names, *significantly)]
        rows.append([(name, ""), *((_count(number), speakers.share(number)) for number in numbers)])
    note = (
        f"Numbers and shares of {compared[0][1].num_speakers:,} speakers. Significantly: p < {SIGNIFICANT:g} "
        "by a randomisation test over the utterances of the speaker, one-sided, not corrected for the number "
        "of speakers."
    )
    worst = [
        f"Most harmed by {name}: {describe_worst(speakers.worst)}."
        for name, speakers in compared
        if speakers.worst
    ]
    return Section(title, rows, [note, *worst])


def _group_section(group: str, comparison: Comparison) -> Section:
    interval = f"{LEVEL} % interval"
    rows = [[("experiment", ""), ("WER", interval), *rate_head(comparison), ("CER", interval)]]
    for result in comparison.results:
        own = result.score
        rates = (
            (f"{own.total.rate:.2f}", str(own.interval)),
            (f"{own.chars.rate:.2f}", str(own.chars_interval)),
        )
        rows.append([(result.name, ""), rates[0], *rate_cells(comparison, result), rates[1]])
    return Section(describe_group(group, comparison), rows, [])


def describe_group(group: str, comparison: Comparison) -> str:
    """Describe a group and its size in a title; `comparison` is on its utterances."""
    score = comparison.results[0].runs[0].score
    sizes = (len(score.by_speaker), len(score.utterances), score.total.words)
    return "Group {}: speakers {:,}, utterances {:,}, words {:,}".format(group, *sizes)


def _count(number: float) -> str:
    """Format a number of speakers, with a decimal unless it is whole.

    >>> _count(1200.0), _count(4 / 3)
    ('1,200', '1.3')
    """
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"
