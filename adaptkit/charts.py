"""The figures of the html report, as inline SVG that takes its colours from the page.

Each figure is drawn with stand-in colours which then become CSS variables: `--ink`, `--muted`, `--line` and
one `--series-<n>` per experiment. So the same drawing is legible on a light and on a dark page.
"""

import io
import math
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from adaptkit.report import Outcome, find_baseline
from adaptkit.score import ONE_SPEAKER, ErrorCounts, Interval

NUM_COLOURS = 8  # the page defines --series-0 (the baseline) to --series-8
INK, MUTED, LINE = "#010101", "#020202", "#030303"  # stand-ins, see `_to_svg`
WIDTH = 10.0  # inches
_POINTS = 150  # of a loss curve; each is the mean of its share of the steps
_STYLE = {
    "text.parse_math": False,  # a name may hold a dollar
    "svg.fonttype": "none",  # text stays text: it can be selected, and takes the page's font
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


def colour_indices(outcomes: Sequence[Outcome]) -> list[int]:
    """Give each experiment its colour of the page: 0 for the baseline, the others in turn from 1."""
    base = find_baseline(outcomes)
    others = iter(range(len(outcomes)))
    return [0 if outcome is base else 1 + next(others) % NUM_COLOURS for outcome in outcomes]


def draw_speakers(outcomes: Sequence[Outcome]) -> str:
    """Draw the WER of all speakers and of each as grouped bars, with whiskers for the intervals."""
    speakers = list(outcomes[0].score.by_speaker)
    names = [ONE_SPEAKER, *speakers] if len(speakers) > 1 else speakers
    most = max(4, 80 // (len(outcomes) + 1))  # groups beside each other
    num_rows = math.ceil(len(names) / most)
    size = math.ceil(len(names) / num_rows)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 2.7 * num_rows), layout="constrained")
        axes = figure.subplots(num_rows, squeeze=False, sharey=True)[:, 0]
        for row, ax in enumerate(axes):
            _draw_groups(ax, outcomes, names[row * size : (row + 1) * size], width=size)
        return _to_svg(figure, "Word error rate by speaker")


def draw_training(outcomes: Sequence[Outcome]) -> str:
    """Draw training loss and validation WER over the steps; empty where no experiment was trained."""
    curves = {"training loss": "loss", "validation WER (%)": "wer"}
    shown = {
        title: name for title, name in curves.items() if any(getattr(o.progress, name) for o in outcomes)
    }
    if not shown:
        return ""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        for ax, (title, name) in zip(
            figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
        ):
            ax.set_title(title, color=MUTED)
            for colour, outcome in zip(colour_indices(outcomes), outcomes, strict=True):
                _draw_curve(ax, getattr(outcome.progress, name), _series(colour))
            ax.set_xlabel("optimiser step")
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.margins(x=0.02)
        return _to_svg(figure, "Training curves")


def draw_sizes(outcomes: Sequence[Outcome]) -> str:
    """Draw WER against trainable parameters, the baseline as a line; empty where nothing was trained."""
    base = find_baseline(outcomes)
    pairs = zip(colour_indices(outcomes), outcomes, strict=True)
    trained = [(colour, outcome) for colour, outcome in pairs if outcome.run.params_trainable]
    if not trained:
        return ""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        ax = figure.subplots()
        if not base.run.params_trainable:
            ax.axhspan(base.score.interval.low, base.score.interval.high, color=_series(0), alpha=0.15, lw=0)
            ax.axhline(base.score.total.rate, color=_series(0), linestyle="--", linewidth=1.2)
        for colour, outcome in trained:
            rates, reach = _rates(outcome, [ONE_SPEAKER])
            style = {"fmt": "o", "markersize": 7, "elinewidth": 1.4, "capsize": 3}
            ax.errorbar(outcome.run.params_trainable, rates, reach, color=_series(colour), **style)
        ax.set(xscale="log", xlabel="trainable parameters", ylabel="WER (%)")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.margins(x=0.15, y=0.15)
        _write_names(ax, trained)
        return _to_svg(figure, "Word error rate against trainable parameters")


def _draw_groups(ax: Axes, outcomes: Sequence[Outcome], names: Sequence[str], width: int) -> None:
    """Draw one group of bars per name, a bar per experiment, on an axis as wide as `width` groups."""
    bar = 0.8 / len(outcomes)
    places = np.arange(len(names))
    for index, (colour, outcome) in enumerate(zip(colour_indices(outcomes), outcomes, strict=True)):
        rates, errors = _rates(outcome, names)
        x = places + (index - (len(outcomes) - 1) / 2) * bar
        ax.bar(x, rates, bar * 0.9, color=_series(colour))
        ax.errorbar(x, rates, errors, fmt="none", color=INK, elinewidth=0.8, capsize=1.5, alpha=0.65)
    crowded = max(map(len, names)) * 0.075 > WIDTH / width  # inches: of the longest name, of a group
    ax.set_xticks(places, names, rotation=35 if crowded else 0, ha="right" if crowded else "center")
    ax.tick_params(axis="x", length=0)
    ax.set(xlim=(-0.6, width - 0.4), ylim=(0, None), ylabel="WER (%)")


def _rates(outcome: Outcome, names: Sequence[str]) -> tuple[list[float], np.ndarray]:
    """Give the WER of each name and how far its interval reaches below and above, (2, names)."""
    score = outcome.score
    known: dict[str, tuple[ErrorCounts, Interval]] = {
        name: (counts, score.speaker_intervals[name]) for name, counts in score.by_speaker.items()
    }
    known[ONE_SPEAKER] = (score.total, score.interval)
    rates = [known[name][0].rate for name in names]
    bounds = [(known[name][1].low, known[name][1].high) for name in names]
    reach = [
        (max(0.0, rate - low), max(0.0, high - rate)) for rate, (low, high) in zip(rates, bounds, strict=True)
    ]
    return rates, np.array(reach).T


def _draw_curve(ax: Axes, points: Sequence[tuple[int, float]], colour: str) -> None:
    """Draw a curve, thinned to means where it has many points."""
    if points:
        blocks = np.array_split(np.array(points), min(len(points), _POINTS))
        steps, values = np.array([block.mean(axis=0) for block in blocks]).T
        ax.plot(steps, values, color=colour, linewidth=1.6, marker="o" if len(points) < 30 else None, ms=3)


def _write_names(ax: Axes, trained: Sequence[tuple[int, Outcome]]) -> None:
    """Write the names of experiments in their colours beside their points, moved up where two overlap."""
    ax.figure.draw_without_rendering()  # fixes the scales
    placed: list[tuple[float, float, float]] = []  # left, right, height of a name, in typographic points
    for colour, outcome in sorted(trained, key=lambda pair: pair[1].score.total.rate):
        point = (outcome.run.params_trainable, outcome.score.total.rate)
        x, y = ax.transData.transform(point) * 72 / ax.figure.dpi
        left, right, height = x + 9, x + 9 + 5.5 * len(outcome.run.name), y
        while any(left < end and start < right and abs(height - at) < 11 for start, end, at in placed):
            height += 1
        placed.append((left, right, height))
        place = {"xytext": (9, height - y), "textcoords": "offset points", "va": "center"}
        ax.annotate(outcome.run.name, point, color=_series(colour), **place)


def _series(index: int) -> str:
    """Give the stand-in for the page's colour number `index`."""
    return f"#0400{index:02x}"


def _to_svg(figure: Figure, title: str) -> str:
    """Give a figure as an svg element whose stand-in colours are CSS variables."""
    variables = {INK: "--ink", MUTED: "--muted", LINE: "--line"}
    variables |= {_series(index): f"--series-{index}" for index in range(NUM_COLOURS + 1)}
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": title}):  # the same input gives the same page
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    for stand_in, variable in variables.items():
        svg = svg.replace(stand_in, f"var({variable})")
    svg = re.sub(r"<svg ", f'<svg role="img" aria-label="{title}" ', svg[svg.index("<svg ") :], count=1)
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
