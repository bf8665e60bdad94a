"""The report as a self-contained html page, with a light and a dark style."""

import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

from adaptkit.characters import visible
from adaptkit.report import charts
from adaptkit.report.notes import list_notes, list_warnings
from adaptkit.report.runs import Comparison, ExperimentResult
from adaptkit.report.sections import Section, list_group_sections, list_speaker_sections
from adaptkit.report.sizes import draw_sizes
from adaptkit.report.speakers import find_best, has_many, list_rate_sections
from adaptkit.report.summary import (
    as_cells,
    explain,
    list_versions,
    summarise,
)
from adaptkit.report.worst import find_worst_utterances
from adaptkit.scoring.bootstrap import LEVEL

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(comparison: Comparison) -> str:
    """Render the page."""
    results = comparison.results
    looks, best = charts.choose_looks(results), find_best(results)
    rates = [result.score.total.rate for result in results]
    names = [(look, result.name) for look, result in zip(looks, results, strict=True)]
    trained = [name for name, result in zip(names, results, strict=True) if result.runs[0].progress.loss]
    template = _environment().get_template("report.html")
    return template.render(
        title=f"Word error rates on {comparison.set_name}",
        text=explain(comparison),
        level=LEVEL,
        headline=_list_cards(comparison),
        experiments=as_cells(comparison),
        best_experiment={(1 + rates.index(min(rates)), 1)},
        warnings=[*list_notes(results), *list_warnings(comparison)],
        sections=[*list_speaker_sections(comparison), *list_group_sections(comparison)],
        looks=looks,
        names=names,
        trained=trained,
        sizes=draw_sizes(results),
        bars=charts.draw_speakers(results),
        is_many=has_many(results),
        bars_note=_explain_bars(results),
        curves=charts.draw_training(results) if trained else "",
        rates=[(section, _find_lowest(section)) for section in list_rate_sections(results)],
        best=best.name,
        worst=find_worst_utterances(best),
        made=list(map(_describe_run, results)),
        versions=list_versions(results),
    )


def _environment() -> jinja2.Environment:
    """Return the templates, which escape every text; control characters, which html forbids, are shown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # markup is no plain str
    )
    environment.filters["signed"] = _signed
    return environment


def _signed(text: str) -> str:
    """Replace the hyphen of negative numbers by a minus sign."""
    return re.sub(r"(?<!\S)-(?=\d)", "−", text)


def _list_cards(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the headline figures: the best experiment compared with the first baseline."""
    base = comparison.baselines[0]
    best = min(comparison.results, key=lambda result: (result.score.total.rate, result is not base))
    row, base_wer = summarise(best), base.score.total.rate
    cards = [(f"{row.wer:.2f} %", f"WER of {row.name}, {best.score.interval}")]
    if best is not base:
        relative = f"{100 * (row.wer / base_wer - 1):+.0f} %"
        cards.append((relative, f"relative to {base.name}, {base_wer:.2f} %"))
    if row.params_trainable:
        share = f"{100 * row.params_trainable / row.params_base:.3g} % of the base model"
        cards.append((_short(row.params_trainable), f"trainable parameters, {share}"))
    if row.params_per_task:
        cards.append((_short(row.params_per_task), "parameters per speaker"))
    return cards


def _short(number: int) -> str:
    """Format a count with three significant digits.

    >>> _short(1234567), _short(45600), _short(12)
    ('1.23 M', '45.6 k', '12')
    """
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _find_lowest(section: Section) -> set[tuple[int, int]]:
    """Find row and column of the lowest rate of each row below the head."""
    best = set()
    for index, row in enumerate(section.rows[1:], 1):
        rates = [float(figure) for figure, _ in row[1:]]
        best |= {(index, column) for column, rate in enumerate(rates, 1) if rate == min(rates)}
    return best


def _explain_bars(results: Sequence[ExperimentResult]) -> str:
    if has_many(results):
        return "Each curve shows the share of speakers whose WER is at most the one below it."
    return f"Whiskers: {LEVEL} % bootstrap intervals; 'all' pools the speakers."


def _describe_run(result: ExperimentResult) -> dict[str, str]:
    """Return name, command (of the first seed) and settings of an experiment."""
    steps = ", ".join(dict.fromkeys(f"{run.record.steps:,}" for run in result.runs))
    run, seeds = result.runs[0], ", ".join(map(str, result.seeds))
    facts = f"base {run.record.base_fingerprint}, seed {seeds}, {steps} steps, "
    facts += f"decoded in batches of {run.decode.batch_size}"
    return {"name": result.name, "command": run.record.command, "facts": facts}
