"""The report as one html page: tables and figures inline, nothing fetched, legible in light and dark."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from adaptkit.report import charts
from adaptkit.report.runs import Comparison, Outcome
from adaptkit.report.summary import as_cells, as_speaker_rows, describe, describe_versions, summarise
from adaptkit.scoring.bootstrap import LEVEL

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(comparison: Comparison) -> str:
    """Give the whole page."""
    title, outcomes = f"Word error rates on {comparison.set_name}", comparison.outcomes
    sections = [
        _section("Experiments", _experiments(comparison)),
        _section("WER against parameters per task", _sizes(outcomes)),
        _section("WER by speaker", _bars(outcomes)),
        _section("Training", _curves(outcomes)),
        _section("WER of each speaker, in percent", _speakers(outcomes)),
        _section("How these were made", _provenance(outcomes)),
    ]
    template = Template((_TEMPLATES / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        css=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        text=escape(describe(comparison)),
        cards=_cards(comparison),
        sections="".join(sections),
    )


def _section(title: str, body: str) -> str:
    """Give a part of the page; nothing where it has no body."""
    return body and f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>\n"


def _cards(comparison: Comparison) -> str:
    """Give the headline figures: the best experiment against the first baseline."""
    base = comparison.baselines[0]
    best = min(comparison.outcomes, key=lambda outcome: (outcome.score.total.rate, outcome is not base))
    row, base_wer = summarise(best), base.score.total.rate
    cards = [(f"{row.wer:.2f} %", f"WER of {row.name}, {best.score.interval}")]
    if best is not base:
        relative = f"{100 * (row.wer / base_wer - 1):+.0f} %"
        cards.append((_signed(relative), f"relative to {base.name}, {base_wer:.2f} %"))
    if row.params_trainable:
        share = f"{100 * row.params_trainable / row.params_base:.3g} % of the base"
        cards.append((_short(row.params_trainable), f"trainable parameters, {share}"))
    if row.params_per_task:
        cards.append((_short(row.params_per_task), "parameters for each further task"))
    shown = (f"<div><b>{escape(figure)}</b><span>{escape(text)}</span></div>" for figure, text in cards)
    return f'<div class="cards">{"".join(shown)}</div>'


def _short(number: int) -> str:
    """Write a count in three digits.

    >>> _short(1234567), _short(45600), _short(12)
    ('1.23 M', '45.6 k', '12')
    """
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _swatched(outcomes: Sequence[Outcome]) -> list[str]:
    """Give the name of each experiment after a swatch of its colour."""
    looks = zip(charts.choose_looks(outcomes), outcomes, strict=True)
    return [
        f'<i class="{look.fill}" style="color: var(--series-{look.colour})"></i>{escape(outcome.name)}'
        for look, outcome in looks
    ]


def _experiments(comparison: Comparison) -> str:
    head, *rows = as_cells(comparison)
    rates = [outcome.score.total.rate for outcome in comparison.outcomes]
    body = [
        [name + _small(row[0][1]), *(_signed(escape(figure)) + _small(below) for figure, below in row[1:])]
        for name, row in zip(_swatched(comparison.outcomes), rows, strict=True)
    ]
    titles = [escape(title) + _small(below) for title, below in head]
    return _table(titles, body, best={(rates.index(min(rates)), 1)})


def _small(text: str) -> str:
    return f"<small>{_signed(escape(text))}</small>" if text else ""


def _signed(text: str) -> str:
    """Write the sign of negative numbers as a minus."""
    return re.sub(r"(?<!\S)-(?=\d)", "−", text)


def _speakers(outcomes: Sequence[Outcome]) -> str:
    head, *rows = as_speaker_rows(outcomes)
    best = set()
    for index, row in enumerate(rows):
        rates = list(map(float, row[1:]))
        best |= {(index, column + 1) for column, rate in enumerate(rates) if rate == min(rates)}
    return _table(list(map(escape, head)), [list(map(escape, row)) for row in rows], best=best)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], best: set[tuple[int, int]]) -> str:
    """Give a table of cells that are html already; the first of a row is its name, the best stand out."""

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


def _bars(outcomes: Sequence[Outcome]) -> str:
    bars = _legend(_swatched(outcomes)) + _scroll(charts.draw_speakers(outcomes))
    return bars + _note(f"Whiskers: {LEVEL} % bootstrap intervals; 'all' pools every speaker.")


def _sizes(outcomes: Sequence[Outcome]) -> str:
    drawn = charts.draw_sizes(outcomes)
    note = f"Whiskers and band: {LEVEL} % bootstrap intervals; dashed: the base alone, where it is near."
    return drawn and _scroll(drawn) + _note(note)


def _curves(outcomes: Sequence[Outcome]) -> str:
    names = [name for name, o in zip(_swatched(outcomes), outcomes, strict=True) if o.runs[0].progress.loss]
    return _legend(names) + _scroll(charts.draw_training(outcomes)) if names else ""


def _legend(names: Sequence[str]) -> str:
    return f'<div class="legend">{"".join(f"<span>{name}</span>" for name in names)}</div>\n'


def _provenance(outcomes: Sequence[Outcome]) -> str:
    """List how each experiment was made, by the command of its first seed, and what it ran on."""
    items = []
    for outcome in outcomes:
        steps = ", ".join(dict.fromkeys(f"{run.record.steps:,}" for run in outcome.runs))
        run, seeds = outcome.runs[0], ", ".join(map(str, outcome.seeds))
        facts = f"base {run.record.base_fingerprint}, seed {seeds}, {steps} steps, "
        facts += f"decoded in batches of {run.decode.batch_size}"
        command = escape(run.record.command)
        items.append(f"<dt>{escape(outcome.name)}</dt><dd><code>{command}</code><br/>{escape(facts)}</dd>")
    versions = "".join(map(_note, describe_versions(outcomes)))
    return f"<dl>{''.join(items)}</dl>{versions}"
