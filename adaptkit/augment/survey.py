"""Survey the effect of a policy on a corpus: the masked and warped share of its utterances, by length.

Adaptive policies mask little of short utterances (Park et al., 2020, arXiv:1912.05533), and fixed ones much,
so the effect on a corpus depends on the lengths of its utterances.
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
from adaptkit.augment.describe import Shares, describe_policy, find_faults
from adaptkit.augment.keyed_random import make_key
from adaptkit.augment.policy import Policy
from adaptkit.augment.specaugment import SpecAugment, check_bins, count_time_masks, time_widths
from adaptkit.errors import ConfigError
from adaptkit.files import write_text
from adaptkit.tables import aligned, markdown

NUM_DRAWS = 2500  # per mean; a share deviates by at most 1/2, so the error is below 1 % = 1 / (2 sqrt(2500))
NUM_ROWS = 8  # at most, plus one for all utterances
_STEPS_SEC = tuple(digit * 10.0**power for power in (-1, 0, 1) for digit in (1, 2, 5))  # between edges
_CHUNK = 256  # utterances drawn at a time
_MOST_LENGTHS, _DRAWS_EACH = 64, 256  # if there is no closed form

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """Means over utterances of similar length, and the effect of a policy on the masked ones."""

    name: str  # range of lengths
    num_utterances: int
    num_frames: float
    num_time_masks: float = 0.0
    frames_masked: float = 0.0  # expected share of the frames, under time masks
    expected: float = 0.0  # share of the values, in closed form
    measured: float = 0.0  # share of the values, in random draws
    warped: float = 0.0  # share of the utterances


@dataclass(frozen=True)
class PolicySurvey:
    """The effect of a policy on a corpus; the last row is for all utterances."""

    name: str
    policy: Policy
    corpus: Path
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]


def survey_policy(name: str, policy: Policy, corpus: Corpus) -> PolicySurvey:
    """Survey the effect of a policy on a corpus, and warn of utterances changed too little or too much."""
    groups = [*_divide(corpus), ("all", torch.arange(len(corpus.num_frames)))]
    spec = policy.spec
    if spec is None:
        rows = [Row(label, len(chosen), _mean(corpus.num_frames[chosen])) for label, chosen in groups]
        return PolicySurvey(name, policy, corpus.path, tuple(rows), ())
    _refuse_wide(name, spec, corpus)
    shares = expect(spec, corpus)
    rows = [_survey(label, spec, corpus, shares, chosen) for label, chosen in groups]
    warnings = tuple(find_faults(spec, corpus, shares))
    for warning in warnings:
        log.warning("%s: %s", name, warning)
    return PolicySurvey(name, policy, corpus.path, tuple(rows), warnings)


def format_survey(shown: PolicySurvey) -> str:
    """Format a survey for a terminal; its warnings went to the log."""
    lines = [f"{shown.name} on {shown.corpus}", *(f"  {line}" for line in describe_policy(shown.policy))]
    return "\n".join([*lines, "", aligned(_cells(shown)), "", *_explain(shown)])


def write(shown: PolicySurvey, folder: Path) -> None:
    """Write a survey's policy.yaml, with every default, and table.md."""
    config.write_yaml(folder / "policy.yaml", config.dump(shown.policy))
    warnings = [f"- warning: {warning}" for warning in shown.warnings]
    paragraphs = [
        f"## `{shown.name}` on `{shown.corpus}`",
        "\n".join(f"- {line}" for line in describe_policy(shown.policy)),
        markdown(_cells(shown)),
        " ".join(_explain(shown)),
        "\n".join(warnings),
    ]
    write_text(folder / "table.md", "\n\n".join(filter(None, paragraphs)) + "\n")


def expect(spec: SpecAugment, corpus: Corpus) -> Shares:
    """Compute the expected masked share of each utterance, by random draws if there is no closed form."""
    lengths, places = corpus.num_frames.unique(return_inverse=True)
    by_time = spec.model_copy(update={"freq_masks": 0, "most_masked": 1.0})
    frames = _expect_closed(by_time, lengths, corpus)
    find = _expect_closed if has_closed_form(spec) else _expect_drawn
    values = find(spec, lengths, corpus)
    return Shares(values[places], frames[places])


def has_closed_form(spec: SpecAugment) -> bool:
    """Whether the expected share has a closed form."""
    return spec.most_masked == 1


def measure(spec: SpecAugment, corpus: Corpus, chosen: Tensor) -> float:
    """Draw masks for the chosen utterances and return the mean masked share, with an error below 1 %.

    Few utterances are drawn in several epochs; many are sampled evenly over their lengths.
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
    """Draw the shares for increasing lengths (L,); if many, a drawn length stands for the next ones."""
    drawn = lengths[torch.linspace(0, len(lengths) - 1, min(_MOST_LENGTHS, len(lengths))).long()]
    keys = torch.tensor([make_key(0, epoch, "") for epoch in range(_DRAWS_EACH)])
    shares = [measured_share(spec, x.expand(_DRAWS_EACH), corpus.num_bins, keys).mean() for x in drawn]
    return torch.stack(shares)[torch.searchsorted(drawn, lengths, right=True) - 1]


def _survey(label: str, spec: SpecAugment, corpus: Corpus, shares: Shares, chosen: Tensor) -> Row:
    frames = corpus.num_frames[chosen]
    lowest, end = time_widths(spec, frames)
    is_seen = (end > lowest) & (end > 1)  # otherwise all masks have width 0
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
    """Divide the utterances by length into groups of about equal size, with round edges."""
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


def _cells(shown: PolicySurvey) -> list[list[str]]:
    """Return the table, its header first; without masks it has only the lengths of utterances."""
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


def _explain(shown: PolicySurvey) -> list[str]:
    """Explain the columns of the table."""
    if shown.policy.spec is None:
        return []
    how = "in closed form" if has_closed_form(shown.policy.spec) else "by random draws"
    return [
        "Means over the masked utterances of each length. Frames masked: expected share under time masks.",
        f"Values masked: expected share of all values, {how}; measured: in at least {NUM_DRAWS} draws.",
    ]


def _refuse_wide(name: str, spec: SpecAugment, corpus: Corpus) -> None:
    """Refuse frequency masks that are wider than the features."""
    try:
        check_bins(spec, corpus.num_bins)
    except ConfigError as error:
        raise ConfigError(f"{name} on {corpus.path}: {error}") from error


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
