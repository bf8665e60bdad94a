"""The figures of a report as comma-separated values: a row per experiment, then per group and per speaker.

Names are written as they are, so that programs read back the same ones. Spreadsheet programs take those that
begin with =, +, - or @ for formulas unless the columns are imported as text, so such names are warned of.
"""

import csv
import io
import logging
from collections.abc import Iterator, Sequence

from adaptkit.characters import visible
from adaptkit.errors import listed
from adaptkit.report.by_set import SetComparison
from adaptkit.report.runs import Comparison
from adaptkit.scoring.wer import Difference

_LOG = logging.getLogger(__name__)
_NAMES = slice(0, 4)  # of the columns
_FORMULA = ("=", "+", "-", "@")  # what begins a formula in a spreadsheet
_HEAD = ["set", "experiment", "part", "name", "seeds", "words", "errors", "wer", "wer_low", "wer_high"]
_HEAD += ["parameters", "parameters_per_speaker"]  # words and errors are summed over the seeds


def as_csv(comparison: Comparison) -> str:
    """Format a comparison: rates and differences in percent, `part` is all, group or speaker."""
    return _write([(comparison.set_name, comparison)])


def sets_as_csv(conditions: Sequence[SetComparison]) -> str:
    """Format comparisons on several sets, and on those with the same references pooled."""
    return _write([named for group in conditions for named in group.named])


def _write(comparisons: Sequence[tuple[str, Comparison]]) -> str:
    head = list(_HEAD)
    for base in comparisons[0][1].baselines:
        head += [f"minus {base.name}", f"minus {base.name} low", f"minus {base.name} high"]
        head.append(f"p against {base.name}")
    rows = [[visible(name), *row] for name, comparison in comparisons for row in _list_rows(comparison)]
    _warn_of_formulas(rows)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([map(visible, head), *rows])
    return buffer.getvalue().rstrip("\n")


def _warn_of_formulas(rows: Sequence[Sequence[object]]) -> None:
    """Warn of names that spreadsheet programs take for formulas."""
    names = {name for row in rows for name in row[_NAMES] if name.startswith(_FORMULA)}
    if names:
        what = "spreadsheet programs take these names for formulas; import their columns as text"
        _LOG.warning("%s: %s", listed(sorted(names), 5), what)


def _list_rows(comparison: Comparison) -> Iterator[list[object]]:
    yield from _list_rates(comparison, "all", "")
    for group in comparison.groups:
        yield from _list_rates(comparison.of_group(group), "group", group)
    bases = [base.score.by_speaker for base in comparison.baselines]
    for result in comparison.results:
        score = result.score
        for speaker, counts in score.by_speaker.items():
            interval = score.speaker_intervals[speaker]
            rates = [counts.words, counts.errors, counts.rate, interval.low, interval.high]
            row = [visible(result.name), "speaker", visible(speaker), len(result.runs)]
            row += [*_rounded(rates), "", ""]
            for base, other in zip(comparison.baselines, bases, strict=True):
                points = "" if base is result else round(counts.rate - other[speaker].rate, 2)
                row += [points, "", "", ""]
            yield row


def _list_rates(comparison: Comparison, part: str, name: str) -> Iterator[list[object]]:
    for result in comparison.results:
        total, interval = result.score.total, result.score.interval
        rates = _rounded([total.words, total.errors, total.rate, interval.low, interval.high])
        record, seeds = result.record, len(result.runs)
        sizes = [record.params_trainable, record.params_per_task]
        row: list[object] = [visible(result.name), part, visible(name), seeds, *rates, *sizes]
        for difference in comparison.differences_of(result):
            row += _list_difference(difference)
        yield row


def _list_difference(difference: Difference | None) -> list[object]:
    if difference is None:
        return [""] * 4
    points = (difference.points, difference.interval.low, difference.interval.high)
    return [*_rounded(points), round(difference.p_value, 4)]


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [round(number, 2) for number in numbers]
