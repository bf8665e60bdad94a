"""Plot policies: one utterance before and after each, and the masked share by utterance length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from adaptkit.augment.corpus import Corpus
from adaptkit.augment.coverage import expected_share
from adaptkit.augment.keyed_random import make_key
from adaptkit.augment.noise import NoiseBank
from adaptkit.augment.policy import Policy
from adaptkit.augment.specaugment import SpecAugment, augment
from adaptkit.augment.survey import PolicySurvey, has_closed_form, measure
from adaptkit.features.fbank import log_mel
from adaptkit.files import replacing

WIDTH = 11.0  # inches
COLUMNS = 3  # of spectrograms, at most
SHORTEST_SEC = 0.5  # start of the curves
NUM_DOTS = 12  # lengths at which the share is measured
NUM_POINTS = 200  # of a curve
SPREAD = 3.0  # standard deviations at the ends of the colour scale
DPI = 120
_STYLE = {
    "text.parse_math": False,  # a name may contain a dollar
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Panel:
    """One spectrogram; `feats` (T, F) are normalised by mean and deviation of the original utterance."""

    title: str
    feats: Tensor


def draw(shown: Sequence[PolicySurvey], corpus: Corpus, path: Path) -> None:
    """Plot surveys of policies on a corpus to a PNG file; the same input gives the same bytes."""
    panels = make_panels({one.name: one.policy for one in shown}, corpus)
    curves = [one for one in shown if one.policy.spec]
    num_columns = min(COLUMNS, len(panels))
    num_rows = -(-len(panels) // num_columns)
    heights = [2.1 * num_rows + 0.3, *([3.4] if curves else [])]  # inches
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained", dpi=DPI)
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        _draw_panels(parts[0], panels, corpus, (num_rows, num_columns))
        if curves:
            _draw_shares(parts[1].subplots(), curves, corpus)
        with replacing(path) as temporary:
            figure.savefig(temporary, metadata={"Software": None})


def make_panels(policies: dict[str, Policy], corpus: Corpus) -> list[Panel]:
    """Return spectrograms of the utterance of median length: original, and masked or noisy by each policy."""
    utterance = corpus.median()
    feats = corpus.load(utterance)
    mean, deviation = feats.mean(dim=0), feats.std(dim=0).clamp(min=1e-5)
    before = (feats - mean) / deviation
    panels = [Panel(f"{utterance.utt_id}, original", before)]
    for name, policy in policies.items():
        if policy.spec:
            keys = torch.tensor([make_key(0, 0, utterance.utt_id)])
            masked = augment(policy.spec, before[None], torch.tensor([len(before)]), keys)[0]
            panels.append(Panel(f"{name}: masked", masked))
        if policy.noise and corpus.options:
            bank = NoiseBank(policy.noise, corpus.options.rate_hz)
            noisy = bank.perturb(corpus.load_speech(utterance), make_key(0, 0, utterance.utt_id))
            place = ", in a room" if noisy.room else ""
            after = (log_mel(noisy.speech, corpus.options) - mean) / deviation
            panels.append(Panel(f"{name}: noisy, {noisy.snr_db:.0f} dB{place}", after))
    return panels


def _draw_panels(part: Figure, panels: Sequence[Panel], corpus: Corpus, shape: tuple[int, int]) -> None:
    """Draw spectrograms with a common time axis and colour scale."""
    grid = part.subplots(*shape, squeeze=False, sharex=True, sharey=True)
    image = None
    for panel, ax in zip(panels, grid.flat, strict=False):
        image = _draw_feats(ax, panel, corpus.frame_sec)
    for ax in grid.flat[len(panels) :]:
        ax.set_axis_off()
    for ax in grid[:, 0]:
        ax.set_ylabel("mel bin")
    for column in range(shape[1]):
        lowest = (len(panels) - 1 - column) // shape[1]
        grid[lowest, column].set_xlabel("time (s)")
        grid[lowest, column].tick_params(labelbottom=True)
    part.colorbar(image, ax=grid, label="standard deviations", aspect=30, extend="both")
    part.suptitle(f"Utterance of median length in {corpus.path}, each bin normalised", fontsize=10)


def _draw_feats(ax: Axes, panel: Panel, frame_sec: float) -> AxesImage:
    ax.set_title(panel.title)
    num_frames, num_bins = panel.feats.shape
    return ax.imshow(
        panel.feats.T.numpy(),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="RdBu_r",  # white is zero, the value of masks
        vmin=-SPREAD,
        vmax=SPREAD,
        extent=(0, num_frames * frame_sec, 0, num_bins),
    )


def _draw_shares(ax: Axes, shown: Sequence[PolicySurvey], corpus: Corpus) -> None:
    """Plot masked shares by length, lines expected and dots measured, over a histogram of lengths."""
    dots = list(_choose_dots(corpus))
    for index, one in enumerate(shown):
        spec, colour = one.policy.spec, f"C{index % 10}"
        wider = 3 * (1 - (index + 1) / len(shown))  # lower lines are wider, so that equal curves show
        drawn = [(length, measure(spec, corpus, chosen)) for length, chosen in dots]
        curve = list(_expect_curve(spec, corpus)) if has_closed_form(spec) else drawn
        ax.plot(*_scaled(curve, corpus), "-", lw=1.5 + wider, color=colour, label=one.name)
        ax.plot(*_scaled(drawn, corpus), "o", ms=4.5 + 2 * wider, color=colour)
    ax.set(xlabel="utterance length (s)", ylabel="masked values (%)", xlim=(0, None), ylim=(0, None))
    ax.set_title("Masked share by utterance length (lines: expected, dots: measured, grey: corpus)")
    ax.legend(loc="center left", bbox_to_anchor=(1.06, 0.5), frameon=False)
    _draw_lengths(ax, corpus)


def _draw_lengths(ax: Axes, corpus: Corpus) -> None:
    """Draw a histogram of the utterance lengths in the background."""
    behind = ax.twinx()
    behind.hist(corpus.num_frames[corpus.num_frames > 0] * corpus.frame_sec, bins=40, color="0.88")
    behind.set_ylabel("utterances", color="0.5")
    behind.tick_params(axis="y", colors="0.5")
    ax.set_zorder(behind.get_zorder() + 1)
    ax.patch.set_visible(False)


def _scaled(points: Sequence[tuple[int, float]], corpus: Corpus) -> tuple[Tensor, Tensor]:
    """Convert frames to seconds and shares to percent."""
    frames, shares = torch.tensor(points, dtype=torch.float64).T
    return frames * corpus.frame_sec, 100 * shares


def _expect_curve(spec: SpecAugment, corpus: Corpus) -> Iterator[tuple[int, float]]:
    """Yield lengths, up to the longest in the corpus, and the share expected at each."""
    frames = corpus.num_frames[corpus.num_frames > 0]
    shortest = min(int(frames.min()), round(SHORTEST_SEC / corpus.frame_sec))
    for length in torch.linspace(shortest, int(frames.max()), NUM_POINTS).long().unique().tolist():
        yield length, expected_share(spec, length, corpus.num_bins)


def _choose_dots(corpus: Corpus) -> Iterator[tuple[int, Tensor]]:
    """Yield evenly spaced lengths that occur in the corpus, each with an utterance of that length."""
    lengths = corpus.num_frames[corpus.num_frames > 0].unique()
    places = torch.linspace(0, len(lengths) - 1, min(NUM_DOTS, len(lengths))).round().long()
    for length in lengths[places]:
        yield int(length), (corpus.num_frames == length).nonzero()[:1, 0]
