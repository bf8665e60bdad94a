"""The figures of the html report, as inline SVG in the colours of the page.

Figures are drawn with placeholder colours, which are then replaced by CSS variables: `--ink`, `--muted`,
`--line` and one `--series-<n>` per experiment. This makes them legible on light and dark pages.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from adaptkit.characters import abridge, visible
from adaptkit.report.runs import ExperimentResult, find_baseline
from adaptkit.report.speakers import has_many
from adaptkit.scoring.counts import ErrorCounts
from adaptkit.scoring.wer import ONE_SPEAKER, Interval

NUM_COLOURS = 8  # the page defines --series-0 (the baseline) to --series-8
INK, MUTED, LINE = "#010101", "#020202", "#030303"  # placeholders, see `to_svg`
WIDTH = 10.0  # inches
_POINTS = 150  # per curve; of losses, each is the mean over a range of steps
_STYLE = {
    "text.parse_math": False,  # names may contain a dollar sign
    "svg.fonttype": "none",  # keep text as text: selectable, and in the page's font
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Look:
    """How an experiment is drawn: its colour, and hollow or dashed once all colours are used."""

    colour: int
    fill: Literal["filled", "hollow"]


def choose_looks(results: Sequence[ExperimentResult]) -> list[Look]:
    """Assign a look to each experiment: colour 0 to the baseline, colours from 1 to the others in turn."""
    base = find_baseline(results)
    others = iter(range(len(results)))
    looks = []
    for result in results:
        turn, index = (0, -1) if result is base else divmod(next(others), NUM_COLOURS)
        looks.append(Look(1 + index, ("filled", "hollow")[turn % 2]))
    return looks


def draw_speakers(results: Sequence[ExperimentResult]) -> str:
    """Draw the overall and per-speaker WER as grouped bars, with whiskers for the intervals.

    Of many, the shares of speakers up to each WER are drawn instead.
    """
    speakers = list(results[0].score.by_speaker)
    if has_many(results):
        return _draw_distribution(results)
    names = [None, *speakers] if len(speakers) > 1 else speakers
    most = max(4, 120 // (len(results) + 1))  # groups beside each other
    num_rows = math.ceil(len(names) / most)
    size = math.ceil(len(names) / num_rows)
    with drawing():
        figure = Figure(figsize=(WIDTH, 3.2 * num_rows), layout="constrained")
        axes = figure.subplots(num_rows, squeeze=False, sharey=True)[:, 0]
        for row, ax in enumerate(axes):
            _draw_groups(ax, results, names[row * size : (row + 1) * size], width=size)
        axes[0].set_ylim(0, None)  # shared by all rows, so set after the last one
        return to_svg(figure, "Word error rate by speaker")


def _draw_distribution(results: Sequence[ExperimentResult]) -> str:
    """Draw the empirical distribution function of the speakers' WER."""
    with drawing():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        ax = figure.subplots()
        for look, result in zip(choose_looks(results), results, strict=True):
            rates = [counts.rate for counts in result.score.by_speaker.values()]
            style = "--" if look.fill == "hollow" else "-"
            ax.ecdf(rates, linestyle=style, color=series(look.colour), linewidth=1.6)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.set(xlabel="WER (%)", ylabel="speakers up to this WER", ylim=(0, 1))
        ax.set_xlim(0, None)
        return to_svg(figure, "Distribution of the word error rates of speakers")


def draw_training(results: Sequence[ExperimentResult]) -> str:
    """Draw training loss and validation rates of every run over the steps; empty if none was trained."""
    curves = {"training loss": "loss", "validation WER (%)": "wer", "validation CER (%)": "cer"}
    runs = [
        (look, run)
        for look, result in zip(choose_looks(results), results, strict=True)
        for run in result.runs
    ]
    shown = {title: name for title, name in curves.items() if any(getattr(r.progress, name) for _, r in runs)}
    if not shown:
        return ""
    with drawing():
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        for ax, (title, name) in zip(
            figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
        ):
            ax.set_title(title, color=MUTED)
            for look, run in runs:
                _draw_curve(ax, getattr(run.progress, name), look)
            ax.set_xlabel("optimizer step")
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.margins(x=0.02)
        return to_svg(figure, "Training curves")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in our style; the page brings the font, so that what matplotlib's own lacks is no matter."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        yield


def _draw_groups(
    ax: Axes, results: Sequence[ExperimentResult], names: Sequence[str | None], width: int
) -> None:
    """Draw a group of bars per name, with a bar per experiment, on an axis of `width` groups."""
    labels = [ONE_SPEAKER if name is None else abridge(visible(name)) for name in names]
    bar = 0.8 / len(results)
    places = np.arange(len(names))
    for index, (look, result) in enumerate(zip(choose_looks(results), results, strict=True)):
        rates, errors = find_rates(result, names)
        x = places + (index - (len(results) - 1) / 2) * bar
        colour = series(look.colour)
        face = "none" if look.fill == "hollow" else colour
        ax.bar(x, rates, bar * 0.8, facecolor=face, edgecolor=colour, linewidth=0.8)
        ax.errorbar(x, rates, errors, fmt="none", color=INK, elinewidth=0.8, capsize=1.5, alpha=0.65)
    crowded = max(map(len, labels)) * 0.075 > WIDTH / width  # inches: of the longest name, of a group
    ax.set_xticks(places, labels, rotation=35 if crowded else 0, ha="right" if crowded else "center")
    ax.tick_params(axis="x", length=0)
    ax.set(xlim=(-0.6, width - 0.4), ylabel="WER (%)")


def find_rates(result: ExperimentResult, names: Sequence[str | None]) -> tuple[list[float], np.ndarray]:
    """Return the WER of each speaker, None for all, and the reach of its interval down and up (2, names)."""
    score = result.score
    known: dict[str | None, tuple[ErrorCounts, Interval]] = {
        name: (counts, score.speaker_intervals[name]) for name, counts in score.by_speaker.items()
    }
    known[None] = (score.total, score.interval)
    rates = [known[name][0].rate for name in names]
    bounds = [(known[name][1].low, known[name][1].high) for name in names]
    reach = [
        (max(0.0, rate - low), max(0.0, high - rate)) for rate, (low, high) in zip(rates, bounds, strict=True)
    ]
    return rates, np.array(reach).T


def _draw_curve(ax: Axes, points: Sequence[tuple[int, float]], look: Look) -> None:
    """Draw a curve, reduced to means over ranges of steps if it has many points."""
    if points:
        blocks = np.array_split(np.array(points), min(len(points), _POINTS))
        steps, values = np.array([block.mean(axis=0) for block in blocks]).T
        style = {
            "linestyle": "--" if look.fill == "hollow" else "-",
            "marker": "o" if len(points) < 30 else None,
        }
        ax.plot(steps, values, color=series(look.colour), linewidth=1.4, ms=3, **style)


def series(index: int) -> str:
    """Return the placeholder for the page's colour number `index`."""
    return f"#0400{index:02x}"


def to_svg(figure: Figure, title: str) -> str:
    """Return a figure as an svg element, with its placeholder colours replaced by CSS variables."""
    variables = {INK: "--ink", MUTED: "--muted", LINE: "--line"}
    variables |= {series(index): f"--series-{index}" for index in range(NUM_COLOURS + 1)}
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": title}):  # makes the page reproducible
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    for stand_in, variable in variables.items():
        svg = svg.replace(stand_in, f"var({variable})")
    svg = re.sub(r"<svg ", f'<svg role="img" aria-label="{title}" ', svg[svg.index("<svg ") :], count=1)
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
