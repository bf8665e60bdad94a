"""A score as text, as written to RESULT: rates in Kaldi's format, differences, groups and speakers."""

from collections.abc import Iterable

from adaptkit.errors import counted
from adaptkit.scoring.bootstrap import LEVEL, NUM_RESAMPLES
from adaptkit.scoring.counts import ErrorCounts
from adaptkit.scoring.speakers import SIGNIFICANT, SpeakerChange, SpeakerChanges
from adaptkit.scoring.wer import Difference, ScoreReport, UtteranceScore, group_by_speaker
from adaptkit.tables import aligned

_SPEAKERS_SHOWN = 20  # if there are more than `most_speakers`


def format_report(
    report: ScoreReport, *, with_alignments: bool = False, most_speakers: int | None = None
) -> str:
    """Format a report as text, as written to RESULT.

    If there are more than `most_speakers`, only those with the highest word error rates are listed.
    """
    num_speakers = len(report.by_speaker)
    whom = (
        f"{num_speakers} speakers and their utterances"
        if num_speakers > 1
        else "the utterances of one speaker"
    )
    lines = [
        rate_line("WER", report.total),
        rate_line("CER", report.chars),
        f"WER interval at {LEVEL} %: {report.interval} ({NUM_RESAMPLES} resamples of {whom})",
    ]
    if report.chars_interval:
        lines.append(f"CER interval at {LEVEL} %: {report.chars_interval}")
    if report.normalize:
        lines.append(f"Texts were normalised before: {', '.join(report.normalize)}")
    if report.difference:
        lines += _describe_difference(report.difference)
    if report.groups:
        lines += ["", aligned(group_rows(report))]
    if report.group_differences:
        lines += ["", *_describe_groups(report)]
    lines += ["", *_list_speakers(report, most_speakers)]
    if with_alignments:
        lines += ["", *map(align, report.utterances)]
    return "\n".join(lines) + "\n"


def rate_line(name: str, counts: ErrorCounts) -> str:
    """Format counts as Kaldi's compute-wer does.

    >>> rate_line("WER", ErrorCounts(hits=874, subs=93, dels=30, ins=10))
    '%WER 13.34 [ 133 / 997, 10 ins, 30 del, 93 sub ]'
    """
    edits = f"{counts.ins} ins, {counts.dels} del, {counts.subs} sub"
    return f"%{name} {counts.rate:.2f} [ {counts.errors} / {counts.words}, {edits} ]"


def group_rows(report: ScoreReport) -> list[list[str]]:
    """Return a table of groups, its header first."""
    interval = f"{LEVEL} % interval"
    rows = [["group", "speakers", "utterances", "words", "WER", interval, "CER", interval]]
    for group in report.groups:
        own = report.of_group(group)
        counts = (len(own.by_speaker), len(own.utterances), own.total.words)
        rates = (f"{own.total.rate:.2f}", str(own.interval), f"{own.chars.rate:.2f}", str(own.chars_interval))
        rows.append([group, *map(str, counts), *rates])
    return rows


def speaker_rows(report: ScoreReport) -> list[list[str]]:
    """Return a table of speakers, its header first."""
    rows = [["speaker", "utterances", "words", "ins", "del", "sub", "WER", f"{LEVEL} % interval"]]
    by_speaker = report.by_speaker
    for speaker, own in group_by_speaker(report.utterances).items():
        counts = by_speaker[speaker]
        numbers = (len(own), counts.words, counts.ins, counts.dels, counts.subs, f"{counts.rate:.2f}")
        rows.append([speaker, *map(str, numbers), str(report.speaker_intervals[speaker])])
    return rows


def describe_worst(worst: Iterable[SpeakerChange]) -> str:
    """Describe the most harmed speakers: the rise in WER in points, and the number of words.

    >>> describe_worst([SpeakerChange("ann", points=12.5, p_value=0.0312, words=40)])
    'ann +12.50 (40 words, p = 0.031)'
    """
    return ", ".join(
        f"{one.speaker} {one.points:+.2f} ({counted(one.words, 'word')}, p = {one.p_value:.3f})"
        for one in worst
    )


def _list_speakers(report: ScoreReport, most: int | None) -> list[str]:
    head, *rows = speaker_rows(report)
    if most is None or len(rows) <= most:
        return [aligned([head, *rows])]
    rows.sort(key=lambda row: -float(row[6]))
    others = counted(len(rows) - _SPEAKERS_SHOWN, "speaker")
    more = f"and {others} with lower word error rates; --json FILE lists all"
    return [aligned([head, *rows[:_SPEAKERS_SHOWN]]), more]


def _describe_difference(difference: Difference) -> list[str]:
    numbers = f"{difference.points:+.2f} ({LEVEL} %: {difference.interval}; p = {difference.p_value:.3f})"
    lines = [f"WER minus that of {difference.other}: {numbers}"]
    return lines + (_describe_speakers(difference.speakers) if difference.speakers else [])


def _describe_speakers(speakers: SpeakerChanges) -> list[str]:
    counts = ((getattr(speakers, name), name) for name in ("improved", "equal", "harmed"))
    described = ", ".join(f"{number:g} {name} ({speakers.share(number)})" for number, name in counts)
    chance = f"{speakers.harmed_by_chance:.1f} ({speakers.share(speakers.harmed_by_chance)})"
    surely = f"{speakers.improved_significantly:g} improved, {speakers.harmed_significantly:g} harmed"
    lines = [
        f"Speakers by WER: {described}; chance alone would harm {chance}",
        f"Significantly (p < {SIGNIFICANT:g} by speaker): {surely}; "
        f"chance alone would bring {speakers.significantly_by_chance:.1f} of each",
    ]
    return [*lines, f"Most harmed: {describe_worst(speakers.worst)}"] if speakers.worst else lines


def _describe_groups(report: ScoreReport) -> list[str]:
    """Describe the differences within the groups as a table, and the speakers most harmed in each."""
    head = ["group", "minus", f"{LEVEL} % interval", "p", "improved", "equal", "harmed"]
    rows = [[*head, "by chance", "significantly improved", "harmed"]]
    worst = []
    for group, difference in report.group_differences.items():
        numbers = [f"{difference.points:+.2f}", str(difference.interval), f"{difference.p_value:.3f}"]
        speakers = difference.speakers
        rows.append([group, *numbers, *(_count_cells(speakers) if speakers else ["–"] * 6)])
        if speakers and speakers.worst:
            worst.append(f"Most harmed of {group}: {describe_worst(speakers.worst)}")
    return [aligned(rows), *worst]


def _count_cells(speakers: SpeakerChanges) -> list[str]:
    counts = (speakers.improved, speakers.equal, speakers.harmed)
    surely = (speakers.improved_significantly, speakers.harmed_significantly)
    return [*(f"{n:g}" for n in counts), f"{speakers.harmed_by_chance:.1f}", *(f"{n:g}" for n in surely)]


def align(utterance: UtteranceScore) -> str:
    """Format the word alignment of an utterance like Kaldi's per_utt file.

    The lines are reference words (ref), hypothesis words (hyp), with `***` for none, and operations (op): C
    for correct, S, I or D; the last line has the counts of these four.
    """
    columns = [(ref or "***", hyp or "***", _name_edit(ref, hyp)) for ref, hyp in utterance.alignment]
    widths = [max(map(len, column)) for column in columns]
    rows = [
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    counts = utterance.words
    rows.append(f"{counts.hits} {counts.subs} {counts.ins} {counts.dels}")
    names = ("ref ", "hyp ", "op  ", "#csid")
    return "\n".join(f"{utterance.utt_id} {name} {row}" for name, row in zip(names, rows, strict=True))


def _name_edit(ref: str | None, hyp: str | None) -> str:
    if ref is None:
        return "I"
    if hyp is None:
        return "D"
    return "C" if ref == hyp else "S"
