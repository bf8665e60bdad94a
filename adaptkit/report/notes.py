"""What a report says of single trainings: what validation chose, and for whom it found nothing better."""

import statistics
from collections import Counter
from collections.abc import Sequence

from adaptkit.adapters.per_task import SHARED
from adaptkit.errors import counted, listed
from adaptkit.report.runs import Comparison, ExperimentResult
from adaptkit.scoring.bootstrap import NUM_RESAMPLES, lowest_p
from adaptkit.scoring.origin import describe_searches
from adaptkit.scoring.wer import ScoreReport

_FEWEST_SPEAKERS = 10  # for intervals over speakers
_LOWEST_P = 2 / (NUM_RESAMPLES + 1)


def list_notes(results: Sequence[ExperimentResult]) -> list[str]:
    """Return a sentence for each experiment with such a choice, then for each with such speakers."""
    return [
        *(
            _describe_choices(result)
            for result in results
            if any(run.record.selection for run in result.runs)
        ),
        *(_describe_unimproved(result) for result in results if result.unimproved),
    ]


def list_warnings(comparison: Comparison) -> list[str]:
    """Warn of few speakers, of different searches, and of p-values as low as resampling allows."""
    score = comparison.results[0].score
    warnings = [*_warn_of_few_speakers(score), *_warn_of_small_groups(score)]
    searches = describe_searches({result.name: result.runs[0].decode for result in comparison.results})
    if searches:
        described = "; ".join(f"{name} by {how}" for name, how in searches.items())
        warnings.append(f"Decoded differently: {described}.")
    lowest = [
        f"{result.name} minus {difference.other}"
        for result in comparison.results
        for difference in comparison.differences_of(result)
        if difference and difference.p_value <= _LOWEST_P
    ]
    if lowest:
        warnings.append(
            f"p is at most {_LOWEST_P:.3f}, the lowest that {NUM_RESAMPLES:,} resamples can show: "
            f"{listed(lowest)}."
        )
    return warnings


def _warn_of_few_speakers(score: ScoreReport) -> list[str]:
    num_speakers = len(score.by_speaker)
    if num_speakers >= _FEWEST_SPEAKERS:
        return []
    if num_speakers > 1:
        what = f"Intervals over {num_speakers} speakers are unreliable, and say little of other speakers"
    else:
        what = "Intervals over the utterances of a single speaker say nothing of other speakers"
    have = f"have {_FEWEST_SPEAKERS} or more{' speakers' * (num_speakers == 1)}"
    return [f"{what}: {have}.{_describe_lowest_p(score)}"]


def _describe_lowest_p(score: ScoreReport) -> str:
    """Name the p-value below which no difference can be, in a sentence; empty if resamples set it."""
    num_speakers, num_utterances = len(score.by_speaker), len(score.utterances)
    units = (num_speakers, "speaker") if num_speakers > 1 else (num_utterances, "utterance")
    lowest = lowest_p(units[0])
    return f" With {counted(*units)}, p cannot be below {lowest:.3f}." if lowest > _LOWEST_P else ""


def _warn_of_small_groups(score: ScoreReport) -> list[str]:
    sizes = {group: len(score.of_group(group).by_speaker) for group in score.groups}
    small = [f"{group} ({counted(n, 'speaker')})" for group, n in sizes.items() if n < _FEWEST_SPEAKERS]
    if not small:
        return []
    what = f"Groups of fewer than {_FEWEST_SPEAKERS} speakers, whose intervals say little of other speakers"
    return [f"{what}: {listed(small)}."]


def _describe_choices(result: ExperimentResult) -> str:
    """Describe the learning rates and numbers of epochs that trials chose, over all seeds."""
    rates, epochs = _count(result, "lr"), _count(result, "epochs")
    chosen = ", ".join(
        f"{rate} ({_describe_count(count, result)})"
        for rate, count in sorted(rates.items(), key=lambda item: float(item[0]))
    )
    rate = f"a learning rate of {chosen}, and " if chosen else ""
    taken = sorted(int(number) for number in epochs.elements())
    span = f"{taken[0]} to {taken[-1]} epochs, {statistics.median_low(taken)} in the median"
    span = span if taken[0] < taken[-1] else f"{counted(taken[0], 'epoch')} for all"
    over = f" over {len(result.runs)} seeds," if len(result.runs) > 1 else ""
    return f"{result.name}:{over} validation chose {rate}{span}."


def _describe_count(count: int, result: ExperimentResult) -> str:
    """Describe how often a value was chosen: once per speaker and seed."""
    if len(result.runs) > 1:
        return "once" if count == 1 else f"{count:,} times"
    return f"{count:,} speaker{'s' * (count > 1)}"


def _count(result: ExperimentResult, what: str) -> Counter[str]:
    return sum((Counter(run.record.selection.get(what, {})) for run in result.runs), Counter())


def _describe_unimproved(result: ExperimentResult) -> str:
    names, num_runs = result.unimproved, len(result.runs)
    times = Counter(name for run in result.runs for name in run.record.unimproved)
    seeds = {name: f"{times[name]} of {num_runs} seeds" for name in names}
    if result.record.tasks == [SHARED]:
        over = f" with {seeds[names[0]]}" if num_runs > 1 else ""
        return f"{result.name}: kept the weights of its start{over}, as no validation was better."
    over = " with one or more of the seeds" if num_runs > 1 else ""
    kept = [f"{name} ({seeds[name]})" for name in names] if num_runs > 1 else names
    return (
        f"{result.name}: {len(names)} of {len(result.record.tasks)} speakers kept the weights of their "
        f"start{over}, as no validation was better: {listed(kept)}."
    )
