"""What a policy does to a corpus: how much of its utterances is masked and warped, by their length.

Adaptive policies mask little of short utterances (Park et al., 2020, arXiv:1912.05533), and fixed ones much;
which of the two a corpus meets depends on its lengths.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from adaptkit import config
from adaptkit.augment.corpus import Corpus
from adaptkit.augment.coverage import expected_share, measured_share
from adaptkit.augment.describe import Shares, describe, find_faults
from adaptkit.augment.keyed_random import make_key
from adaptkit.augment.policy import Policy
from adaptkit.augment.specaugment import SpecAugment, check_bins, count_time_masks, time_widths
from adaptkit.errors import ConfigError
from adaptkit.files import write_text
from adaptkit.tables import aligned, markdown

NUM_DRAWS = (
    2500  # for a mean; a share deviates by 1/2 at most, so the error is below 1 % = 1 / (2 sqrt(2500))
)
NUM_ROWS = 8  # at most, and one of all utterances
_STEPS_SEC = tuple(digit * 10.0**power for power in (-1, 0, 1) for digit in (1, 2, 5))  # between edges
_CHUNK = 256  # utterances that are drawn at a time
_MOST_LENGTHS, _DRAWS_EACH = 64, 256  # where there is no closed form

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """Utterances of like length and what a policy does to those of them that it masks; means over them."""

    name: str  # their lengths
    num_utterances: int
    num_frames: float
    num_time_masks: float = 0.0
    frames_masked: float = 0.0  # share of the frames, expected of time masks
    expected: float = 0.0  # share of the values, in closed form
    measured: float = 0.0  # share of the values, drawn
    warped: float = 0.0  # share of the utterances


@dataclass(frozen=True)
class Shown:
    """A policy on a corpus; the last row is of all utterances."""

    name: str
    policy: Policy
    corpus: Path
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]


def show(name: str, policy: Policy, corpus: Corpus) -> Shown:
    """Work out what a policy does to a corpus, and warn of utterances that it changes too little or much."""
    groups = [*_divide(corpus), ("all", torch.arange(len(corpus.num_frames)))]
    spec = policy.spec
    if spec is None:
        rows = [Row(label, len(chosen), _mean(corpus.num_frames[chosen])) for label, chosen in groups]
        return Shown(name, policy, corpus.path, tuple(rows), ())
    _refuse_wide(name, spec, corpus)
    shares = expect(spec, corpus)
    rows = [_survey(label, spec, corpus, shares, chosen) for label, chosen in groups]
    warnings = tuple(find_faults(spec, corpus, shares))
    for warning in warnings:
        log.warning("%s: %s", name, warning)
    return Shown(name, policy, corpus.path, tuple(rows), warnings)


def render(shown: Shown) -> str:
    """Give what was found as text for a terminal; its warnings go to the log."""
    lines = [f"{shown.name} on {shown.corpus}", *(f"  {line}" for line in describe(shown.policy))]
    return "\n".join([*lines, "", aligned(_cells(shown)), "", *_explain(shown)])


def write(shown: Shown, folder: Path) -> None:
    """Write policy.yaml, with every default, and table.md."""
    config.write_yaml(folder / "policy.yaml", config.dump(shown.policy))
    warnings = [f"- warning: {warning}" for warning in shown.warnings]
    paragraphs = [
        f"## `{shown.name}` on `{shown.corpus}`",
        "\n".join(f"- {line}" for line in describe(shown.policy)),
        markdown(_cells(shown)),
        " ".join(_explain(shown)),
        "\n".join(warnings),
    ]
    write_text(folder / "table.md", "\n\n".join(filter(None, paragraphs)) + "\n")


def expect(spec: SpecAugment, corpus: Corpus) -> Shares:
    """Work out what is expected to be masked of each utterance, or draw it where there is no closed form."""
    lengths, places = corpus.num_frames.unique(return_inverse=True)
    by_time = spec.model_copy(update={"freq_masks": 0, "most_masked": 1.0})
    frames = _expect_closed(by_time, lengths, corpus)
    find = _expect_closed if has_closed_form(spec) else _expect_drawn
    values = find(spec, lengths, corpus)
    return Shares(values[places], frames[places])


def has_closed_form(spec: SpecAugment) -> bool:
    """Say whether there is a closed form of the expected share."""
    return spec.most_masked == 1


def measure(spec: SpecAugment, corpus: Corpus, chosen: Tensor) -> float:
    """Draw masks of the chosen utterances and give the mean share of masked values, its error below 1 %.

    Few utterances are drawn in several epochs; of many, as many as are needed, evenly over the lengths.
    """
    chosen = chosen[corpus.num_frames[chosen].argsort(stable=True)]
    if len(chosen) > NUM_DRAWS:
        chosen = chosen[torch.arange(NUM_DRAWS) * len(chosen) // NUM_DRAWS]
    epochs = range(math.ceil(NUM_DRAWS / len(chosen)))
    utt_ids = corpus.utt_ids
    keys = torch.tensor([[make_key(0, epoch, utt_ids[u]) for epoch in epochs] for u in chosen]).flatten()
    lengths = corpus.num_frames[chosen].repeat_interleave(len(epochs))
    chunks = zip(lengths.split(_CHUNK), keys.split(_CHUNK), strict=True)
    return _mean(torch.cat([measured_share(spec, some, corpus.num_bins, theirs) for some, theirs in chunks]))


def _expect_closed(spec: SpecAugment, lengths: Tensor, corpus: Corpus) -> Tensor:
    shares = [expected_share(spec, int(length), corpus.num_bins) for length in lengths]
    return torch.tensor(shares, dtype=torch.float64)


def _expect_drawn(spec: SpecAugment, lengths: Tensor, corpus: Corpus) -> Tensor:
    """Draw the shares of rising lengths (L,); of many, those of some, for all up to the next."""
    drawn = lengths[torch.linspace(0, len(lengths) - 1, min(_MOST_LENGTHS, len(lengths))).long()]
    keys = torch.tensor([make_key(0, epoch, "") for epoch in range(_DRAWS_EACH)])
    shares = [measured_share(spec, x.expand(_DRAWS_EACH), corpus.num_bins, keys).mean() for x in drawn]
    return torch.stack(shares)[torch.searchsorted(drawn, lengths, right=True) - 1]


def _survey(label: str, spec: SpecAugment, corpus: Corpus, shares: Shares, chosen: Tensor) -> Row:
    frames = corpus.num_frames[chosen]
    lowest, end = time_widths(spec, frames)
    is_seen = (end > lowest) & (end > 1)  # else every one of them is 0 wide
    return Row(
        name=label,
        num_utterances=len(chosen),
        num_frames=_mean(frames),
        num_time_masks=_mean(count_time_masks(spec, frames) * is_seen),
        frames_masked=_mean(shares.frames[chosen]),
        expected=_mean(shares.values[chosen]),
        measured=measure(spec, corpus, chosen),
        warped=_mean((frames > 2 * spec.time_warp) & bool(spec.time_warp)),
    )


def _divide(corpus: Corpus) -> Iterator[tuple[str, Tensor]]:
    """Divide the utterances by their lengths into groups of about one size, between round edges."""
    seconds = corpus.num_frames.double() * corpus.frame_sec
    low, high = float(seconds.min()), float(seconds.max())
    step = next((step for step in _STEPS_SEC if step >= (high - low) / 20), _STEPS_SEC[-1])
    parts = torch.arange(1, NUM_ROWS, dtype=torch.float64) / NUM_ROWS
    inner = {round(float(part) / step) * step for part in seconds.quantile(parts)}
    edges = [low, *sorted(edge for edge in inner if low < edge <= high), math.inf]
    for start, end in pairwise(edges):
        chosen = ((start <= seconds) & (seconds < end)).nonzero()[:, 0]
        if len(chosen):
            yield f"{start:.4g} to {min(end, high):.4g}", chosen


def _cells(shown: Shown) -> list[list[str]]:
    """Give the table, its head first; without masks there is nothing to say but how long utterances are."""
    head = ["length (s)", "utterances", "frames"]
    more = ["time masks", "frames masked (%)", "values masked (%)", "measured (%)", "warped (%)"]
    plain = [[row.name, str(row.num_utterances), f"{row.num_frames:.1f}"] for row in shown.rows]
    if shown.policy.spec is None:
        return [head, *plain]
    masks = [
        [f"{row.num_time_masks:.1f}"]
        + [f"{100 * share:.1f}" for share in (row.frames_masked, row.expected, row.measured, row.warped)]
        for row in shown.rows
    ]
    return [[*head, *more], *(cells + found for cells, found in zip(plain, masks, strict=True))]


def _explain(shown: Shown) -> list[str]:
    """Say how to read the table."""
    if shown.policy.spec is None:
        return []
    how = "expected by a closed form, then" if has_closed_form(shown.policy.spec) else "expected and"
    return [
        "Means over utterances of a length, where they are masked. Frames masked: expected of time masks.",
        f"Values masked: {how} measured in {NUM_DRAWS} draws or more.",
    ]


def _refuse_wide(name: str, spec: SpecAugment, corpus: Corpus) -> None:
    """Refuse masks that could hide every bin."""
    try:
        check_bins(spec, corpus.num_bins)
    except ConfigError as error:
        raise ConfigError(f"{name} on {corpus.path}: {error}") from error


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
