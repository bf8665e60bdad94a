"""The figure of WER against parameters per speaker."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from adaptkit.characters import abridge
from adaptkit.report.charts import (
    MUTED,
    WIDTH,
    Look,
    choose_looks,
    drawing,
    find_rates,
    series,
    to_svg,
)
from adaptkit.report.runs import ExperimentResult, find_baseline


def draw_sizes(results: Sequence[ExperimentResult]) -> str:
    """Draw WER against parameters per speaker, the baseline at 0 with a line; empty if none was trained."""
    base = find_baseline(results)
    pairs = zip(choose_looks(results), results, strict=True)
    trained = [(look, result) for look, result in pairs if result.record.params_trainable]
    if not trained:
        return ""
    with drawing():
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        ax = figure.subplots()
        for look, result in trained:
            rates, reach = find_rates(result, [None])
            colour = series(look.colour)
            style = {"fmt": "o", "markersize": 7, "elinewidth": 1.2, "capsize": 3}
            face = "none" if look.fill == "hollow" else colour
            ax.errorbar(result.record.params_per_task, rates, reach, color=colour, mfc=face, **style)
        ax.set(xlabel="parameters per speaker", ylabel="WER (%)")
        named = list(trained)
        if not base.record.params_trainable and _draw_baseline(ax, base):
            named.append((choose_looks([base])[0], base))
        _scale_sizes(ax, [result.record.params_per_task for _, result in named])
        ax.margins(x=0.12, y=0.15)
        _write_names(ax, named)
        return to_svg(figure, "Word error rate against parameters per speaker")


def _scale_sizes(ax: Axes, sizes: Sequence[int]) -> None:
    """Make the horizontal axis logarithmic where sizes differ by more than 10 times, with a place for 0."""
    least, most = min((size for size in sizes if size), default=1), max(*sizes, 1)
    decades = math.log10(most / least)
    if 0 in sizes:  # left of the others, by a third of what they span
        ax.set_xscale("symlog", linthresh=least, linscale=0.3 * (decades or 1))
    elif decades > 1:
        ax.set_xscale("log")
    if decades > 1:
        digits = (1,) if most > 300 * least else (1, 2, 5)
        ticks = [digit * 10**power for power in range(12) for digit in digits]
        ticks = [size for size in ticks if size in sizes or least / 2 <= size <= 2 * most]
    else:
        found = MaxNLocator(4).tick_values(least, most) if most > least else [least]
        ticks = [size for size in found if least * 0.99 <= size <= most * 1.01] or [least, most]
    ax.set_xticks([0, *ticks] if 0 in sizes else ticks)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.minorticks_off()


def _draw_baseline(ax: Axes, base: ExperimentResult) -> bool:
    """Draw the base model alone as a point at 0 and a line; where these flatten the rest, write a title."""
    low, high = ax.get_ylim()
    rate, colour = base.score.total.rate, series(0)
    if rate >= high + (high - low):
        ax.set_title(f"{base.name}: {rate:.2f}, above this range", color=MUTED)
        return False
    ax.axhspan(base.score.interval.low, base.score.interval.high, color=colour, alpha=0.15, lw=0)
    ax.axhline(rate, color=colour, linestyle="--", linewidth=1.2)
    ax.plot([0], [rate], "o", color=colour, markersize=7)
    return True


def _write_names(ax: Axes, named: Sequence[tuple[Look, ExperimentResult]]) -> None:
    """Label the points with the names of their experiments, avoiding overlaps and the edges."""
    ax.figure.draw_without_rendering()  # fixes the scales
    points = [(result.record.params_per_task, result.score.total.rate) for _, result in named]
    places = ax.transData.transform(points) * 72 / ax.figure.dpi  # typographic points
    edges = ax.get_window_extent().intervalx * 72 / ax.figure.dpi
    taken = [(x - 5.0, x + 5.0, y) for x, y in places]  # left, right, height
    taken += [(*edges, y) for (_, result), (_, y) in zip(named, places, strict=True) if _is_alone(result)]
    for (look, result), point, (x, y) in zip(named, points, places, strict=True):
        name = abridge(result.name)
        left, right, height = _find_room(x, y, 5.5 * len(name), taken, edges)
        taken.append((left, right, height))
        side = {"xytext": (9, height - y)} if left > x else {"xytext": (-9, height - y), "ha": "right"}
        place = {"textcoords": "offset points", "va": "center", **side}
        ax.annotate(name, point, color=series(look.colour), **place).set_in_layout(False)


def _find_room(
    x: float,
    y: float,
    width: float,
    taken: Sequence[tuple[float, float, float]],
    edges: Sequence[float],
) -> tuple[float, float, float]:
    """Find left, right and height for a label beside (x, y) between `edges` that overlaps none of `taken`."""
    lefts = (x + 9, x - 9 - width)
    for shift in range(200):
        for height in (y + shift, y - shift):
            for left in lefts:
                fits = edges[0] <= left and left + width <= edges[1]
                if fits and not any(
                    left < end and start < left + width and abs(height - at) < 11 for start, end, at in taken
                ):
                    return left, left + width, height
    return x + 9, x + 9 + width, y


def _is_alone(result: ExperimentResult) -> bool:
    """Whether this is the base model alone, which has a line across."""
    return not result.record.params_trainable
