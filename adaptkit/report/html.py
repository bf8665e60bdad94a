"""The report as a self-contained html page, with a light and a dark style."""

import html
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from adaptkit.characters import visible
from adaptkit.report import charts
from adaptkit.report.notes import list_notes, list_warnings
from adaptkit.report.runs import Comparison, ExperimentResult
from adaptkit.report.sections import Cell, list_group_sections, list_speaker_sections
from adaptkit.report.summary import (
    as_cells,
    as_speaker_rows,
    explain,
    list_versions,
    summarise,
)
from adaptkit.scoring.bootstrap import LEVEL

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(comparison: Comparison) -> str:
    """Render the page."""
    title, results = f"Word error rates on {comparison.set_name}", comparison.results
    sections = [
        _section("Experiments", _experiments(comparison)),
        *(
            _section(one.title, _cells_table(one.rows) + "".join(map(_note, one.notes)))
            for one in (*list_speaker_sections(comparison), *list_group_sections(comparison))
        ),
        _section("WER against parameters per speaker", _sizes(results)),
        _section("WER by speaker", _bars(results)),
        _section("Training", _curves(results)),
        _section("WER of each speaker, in percent", _speakers(results)),
        _section("Provenance", _provenance(results)),
    ]
    template = Template((_TEMPLATES / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        css=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        text=escape(explain(comparison)),
        cards=_cards(comparison),
        sections="".join(sections),
    )


def escape(text: str) -> str:
    """Escape a text for html; control characters, which html does not allow, show as escapes."""
    return html.escape(visible(text))


def _section(title: str, body: str) -> str:
    """Return a section of the page; empty without a body."""
    return body and f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>\n"


def _cards(comparison: Comparison) -> str:
    """Return the headline figures: the best experiment compared with the first baseline."""
    base = comparison.baselines[0]
    best = min(comparison.results, key=lambda result: (result.score.total.rate, result is not base))
    row, base_wer = summarise(best), base.score.total.rate
    cards = [(f"{row.wer:.2f} %", f"WER of {row.name}, {best.score.interval}")]
    if best is not base:
        relative = f"{100 * (row.wer / base_wer - 1):+.0f} %"
        cards.append((_signed(relative), f"relative to {base.name}, {base_wer:.2f} %"))
    if row.params_trainable:
        share = f"{100 * row.params_trainable / row.params_base:.3g} % of the base model"
        cards.append((_short(row.params_trainable), f"trainable parameters, {share}"))
    if row.params_per_task:
        cards.append((_short(row.params_per_task), "parameters per speaker"))
    shown = (f"<div><b>{escape(figure)}</b><span>{escape(text)}</span></div>" for figure, text in cards)
    return f'<div class="cards">{"".join(shown)}</div>'


def _short(number: int) -> str:
    """Format a count with three significant digits.

    >>> _short(1234567), _short(45600), _short(12)
    ('1.23 M', '45.6 k', '12')
    """
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _swatched(results: Sequence[ExperimentResult]) -> list[str]:
    """Return the name of each experiment, preceded by a swatch of its colour."""
    looks = zip(charts.choose_looks(results), results, strict=True)
    return [
        f'<i class="{look.fill}" style="color: var(--series-{look.colour})"></i>{escape(result.name)}'
        for look, result in looks
    ]


def _experiments(comparison: Comparison) -> str:
    head, *rows = as_cells(comparison)
    rates = [result.score.total.rate for result in comparison.results]
    body = [
        [name + _small(row[0][1]), *(_signed(escape(figure)) + _small(below) for figure, below in row[1:])]
        for name, row in zip(_swatched(comparison.results), rows, strict=True)
    ]
    titles = [escape(title) + _small(below) for title, below in head]
    notes = "".join(map(_note, [*list_notes(comparison.results), *list_warnings(comparison)]))
    return _table(titles, body, best={(rates.index(min(rates)), 1)}) + notes


def _cells_table(rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table of figures with their small print below them, head first."""
    head, *body = [[_signed(escape(figure)) + _small(below) for figure, below in row] for row in rows]
    return _table(head, body, best=set())


def _small(text: str) -> str:
    return f"<small>{_signed(escape(text))}</small>" if text else ""


def _signed(text: str) -> str:
    """Replace the hyphen of negative numbers by a minus sign."""
    return re.sub(r"(?<!\S)-(?=\d)", "−", text)


def _speakers(results: Sequence[ExperimentResult]) -> str:
    head, *rows = as_speaker_rows(results)
    best = set()
    for index, row in enumerate(rows):
        rates = list(map(float, row[1:]))
        best |= {(index, column + 1) for column, rate in enumerate(rates) if rate == min(rates)}
    return _table(list(map(escape, head)), [list(map(escape, row)) for row in rows], best=best)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], best: set[tuple[int, int]]) -> str:
    """Return a table of html cells; the first column holds names, and the best figures stand out."""

    def cell(tag: str, text: str, row: int, column: int) -> str:
        kind = "name" if column == 0 else "best" if (row, column) in best else ""
        return f'<{tag} class="{kind}">{text}</{tag}>' if kind else f"<{tag}>{text}</{tag}>"

    lines = ["".join(cell("th", text, -1, column) for column, text in enumerate(head))]
    for index, row in enumerate(rows):
        lines.append("".join(cell("td", text, index, column) for column, text in enumerate(row)))
    return _scroll("<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>")


def _scroll(body: str) -> str:
    return f'<div class="scroll">{body}</div>\n'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _bars(results: Sequence[ExperimentResult]) -> str:
    bars = _legend(_swatched(results)) + _scroll(charts.draw_speakers(results))
    if len(results[0].score.by_speaker) > charts.MOST_SPEAKERS:
        return bars + _note("The speakers of each experiment are sorted by their WER.")
    return bars + _note(f"Whiskers: {LEVEL} % bootstrap intervals; 'all' pools the speakers.")


def _sizes(results: Sequence[ExperimentResult]) -> str:
    drawn = charts.draw_sizes(results)
    note = (
        f"Whiskers and band: {LEVEL} % bootstrap intervals; dashed line: the base model alone, if in range."
    )
    return drawn and _scroll(drawn) + _note(note)


def _curves(results: Sequence[ExperimentResult]) -> str:
    names = [name for name, o in zip(_swatched(results), results, strict=True) if o.runs[0].progress.loss]
    return _legend(names) + _scroll(charts.draw_training(results)) if names else ""


def _legend(names: Sequence[str]) -> str:
    return f'<div class="legend">{"".join(f"<span>{name}</span>" for name in names)}</div>\n'


def _provenance(results: Sequence[ExperimentResult]) -> str:
    """List the command (of the first seed) and settings of each experiment, and the software versions."""
    items = []
    for result in results:
        steps = ", ".join(dict.fromkeys(f"{run.record.steps:,}" for run in result.runs))
        run, seeds = result.runs[0], ", ".join(map(str, result.seeds))
        facts = f"base {run.record.base_fingerprint}, seed {seeds}, {steps} steps, "
        facts += f"decoded in batches of {run.decode.batch_size}"
        command = escape(run.record.command)
        items.append(f"<dt>{escape(result.name)}</dt><dd><code>{command}</code><br/>{escape(facts)}</dd>")
    versions = "".join(map(_note, list_versions(results)))
    return f"<dl>{''.join(items)}</dl>{versions}"
