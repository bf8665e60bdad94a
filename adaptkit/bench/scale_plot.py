"""Plot the costs of training against the number of speakers."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from adaptkit.bench.scale import ScaleCost
from adaptkit.files import replacing

_STYLE = {"svg.hashsalt": "scale", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
_PANELS = {
    "per utterance (ms)": {"step_ms": "step", "valid_ms": "validation"},
    "once (s)": {"plan_seconds": "planning an epoch", "save_seconds": "save", "pause_seconds": "its pause"},
    "size (MB)": {"peak_mb": "peak memory", "state_mb": "state", "adapter_mb": "adapters"},
}


def draw(costs: Sequence[ScaleCost], path: Path) -> None:
    """Draw the costs per utterance, those of an epoch or a save, and sizes to an SVG file."""
    counts = [cost.num_speakers for cost in costs]
    with matplotlib.rc_context(_STYLE), replacing(path) as temporary:
        figure = Figure(figsize=(10, 3), layout="constrained")
        for ax, (title, fields) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
            for name, label in fields.items():
                ax.plot(counts, [getattr(cost, name) for cost in costs], "o-", markersize=3, label=label)
            ax.set(xscale="log", xlabel="speakers", title=title)
            if title != "per utterance (ms)":
                ax.set_yscale("log")
            else:
                ax.set_ylim(bottom=0)
            ax.legend(frameon=False)
        figure.savefig(temporary, format="svg", metadata={"Date": None})
