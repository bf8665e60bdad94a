"""SpecAugment: time warps, frequency masks and time masks, fixed or adapted to an utterance's length.

Park et al., SpecAugment, 2019, arXiv:1904.08779; adaptive masks from Park et al., SpecAugment on large scale
datasets, 2020, arXiv:1912.05533. Augmentation depends on each utterance's own length, not on its batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor
from torch.nn.functional import embedding_bag

from adaptkit.augment.fill import gaussian, moments
from adaptkit.augment.keyed_random import integers
from adaptkit.config import Config, NonNegativeInt, Share
from adaptkit.errors import ConfigError

# Numbers of an utterance's random draws; 0 decides whether it is noisy, 1 chooses its speed.
ANCHOR, SHIFT, MASKS = 2, 3, 4  # from MASKS on: width and start of each mask, frequency masks first
ROUNDING = 1e-6  # 0.29 * 100 is below 29 in binary


def _from_zero(width: object) -> object:
    """Read a number N as the range [0, N)."""
    return (0, width) if isinstance(width, int | float) and not isinstance(width, bool) else width


MaskCount = Annotated[NonNegativeInt, Field(le=1000)]
Widths = Annotated[tuple[NonNegativeInt, NonNegativeInt], BeforeValidator(_from_zero)]
Ratios = Annotated[tuple[Share, Share], BeforeValidator(_from_zero)]


class SpecAugment(Config):
    """How features are warped and masked; a width N stands for the range [0, N), without its end."""

    time_warp: Annotated[NonNegativeInt, Field(le=10_000)] = Field(
        0, description="largest time warp W, in frames; 0 for none"
    )
    freq_masks: MaskCount = Field(0, description="number of frequency masks m_F")
    freq_width: Widths = Field((0, 27), description="width of frequency masks in bins: F or [lowest, F)")
    time_masks: MaskCount | None = Field(None, description="fixed number of time masks m_T")
    time_masks_ratio: Share | None = Field(
        None, description="p_M, for floor(p_M tau) time masks in an utterance of tau frames"
    )
    most_time_masks: MaskCount = Field(20, description="upper bound on floor(p_M tau)")
    time_width: Widths | None = Field(
        None, description="fixed width of time masks in frames: T or [lowest, T)"
    )
    time_width_bound: Share = Field(1.0, description="p, for an upper bound p tau on a fixed T")
    time_width_ratio: Ratios | None = Field(
        None, description="p_S, for time masks of width T = floor(p_S tau): p_S or [lowest, p_S)"
    )
    most_masked: Share = Field(1.0, description="upper bound on the masked share of an utterance's values")
    fill: Literal["zero", "mean", "noise"] = Field("zero", description="values in masked places")

    @property
    def has_time_masks(self) -> bool:
        """Whether sufficiently long utterances get time masks."""
        return bool(self.time_masks or self.time_masks_ratio)

    @model_validator(mode="after")
    def _check_together(self) -> "SpecAugment":
        problems = [*self._time_problems(), *self._width_problems()]
        if not (problems or self.time_warp or self.freq_masks or self.has_time_masks):
            problems = ["no effect: set time_warp, freq_masks or time_masks, or set all of it to null"]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _time_problems(self) -> Iterator[str]:
        """Find a number or width of time masks that is given twice or not at all."""
        has_widths = self.time_width is not None or self.time_width_ratio is not None
        if self.time_masks is not None and self.time_masks_ratio is not None:
            yield (
                f"time_masks {self.time_masks} and time_masks_ratio {self.time_masks_ratio:g} both set the "
                "number of time masks; set one to null"
            )
        if self.time_masks is None and self.time_masks_ratio is None and has_widths:
            yield "time masks have a width but no number; set time_masks or time_masks_ratio"
        if self.time_width is not None and self.time_width_ratio is not None:
            yield (
                f"time_width {list(self.time_width)} and time_width_ratio {list(self.time_width_ratio)} both "
                "set the width of time masks; set one to null"
            )
        if self.has_time_masks and not has_widths:
            yield "time masks have a number but no width; set time_width or time_width_ratio"
        if self.time_width_bound != 1 and self.time_width is None:
            yield f"time_width_bound {self.time_width_bound:g} bounds time_width, which is not set"

    def _width_problems(self) -> Iterator[str]:
        """Find empty ranges of widths."""
        ranges = {
            "freq_width": self.freq_width if self.freq_masks else None,
            "time_width": self.time_width if self.has_time_masks else None,
            "time_width_ratio": self.time_width_ratio if self.has_time_masks else None,
        }
        for name, widths in ranges.items():
            if widths is not None and widths[0] >= widths[1]:
                yield f"{name} {list(widths)} is empty: the end is excluded and must exceed the lowest width"


@dataclass(frozen=True)
class Draws:
    """The warp and masks of each utterance in a batch, in frames and bins.

    A shift of 0 means no warp, a width of 0 no mask; M is the largest number of time masks of an utterance.
    """

    anchors: Tensor  # (B,)
    shifts: Tensor  # (B,)
    freq_starts: Tensor  # (B, m_F)
    freq_widths: Tensor  # (B, m_F)
    time_starts: Tensor  # (B, M)
    time_widths: Tensor  # (B, M)


def draw(options: SpecAugment, lengths: Tensor, num_bins: int, keys: Tensor) -> Draws:
    """Draw warps and masks for utterances of the given lengths (B,) in frames, each from its own key (B,).

    If `most_masked` is below 1, masks are placed in order, frequency masks first; from the first mask that
    would raise the masked share of the utterance's values above it, all masks of its kind are dropped.
    """
    check_bins(options, num_bins)
    keys = keys[:, None]
    draws = Draws(
        *_draw_warps(options, lengths, keys),
        *_draw_freq_masks(options, num_bins, keys),
        *_draw_time_masks(options, lengths, keys),
    )
    return _bounded(options, draws, lengths, num_bins) if options.most_masked < 1 else draws


def augment(options: SpecAugment, feats: Tensor, lengths: Tensor, keys: Tensor) -> Tensor:
    """Warp, then mask, features (B, T, F) of the given lengths (B,), each row by its key (B,).

    Returns a new tensor; padding is unchanged. The `fill` of masks is zero, the utterance's mean of each bin,
    or Gaussian noise with the utterance's mean and deviation of each bin, both computed before the warp.
    """
    lengths, keys = lengths.to(feats.device), keys.to(feats.device)
    num_rows, num_steps, num_bins = feats.shape
    draws = draw(options, lengths, num_bins, keys)
    is_own = torch.arange(num_steps, device=feats.device) < lengths[:, None]  # (B, T)
    bins = covered(draws.freq_starts, draws.freq_widths, num_bins)[:, None]  # (B, 1, F)
    steps = covered(draws.time_starts, draws.time_widths, num_steps)[..., None]  # (B, T, 1)
    means = deviations = feats.new_zeros(num_rows, num_bins)
    if options.fill != "zero":
        means, deviations = moments(feats.detach(), is_own, lengths)
    out = _warped(feats, draws, lengths)
    for is_masked in (bins, steps):  # factors of 0 and 1 are three times as fast as a bool mask
        if options.fill == "zero":
            out.mul_((~is_masked).to(out.dtype))
        else:
            out.lerp_(means[:, None].to(out.dtype), is_masked.to(out.dtype))
    if options.fill == "noise":
        is_masked = (bins | steps) & is_own[..., None]
        _add_noise(out, is_masked, deviations, keys, first=_first_of_noise(options))
    in_place = None if feats.requires_grad else out
    return torch.lerp(feats, out, is_own[..., None].to(out.dtype), out=in_place)  # padding unchanged


def check_bins(options: SpecAugment, num_bins: int) -> None:
    """Refuse frequency masks that are wider than the features."""
    if options.freq_masks and options.freq_width[1] > num_bins:
        raise ConfigError(
            f"freq_width {list(options.freq_width)} is wider than features of {num_bins} bins; "
            f"set its end to {num_bins} or less"
        )


def covered(starts: Tensor, widths: Tensor, size: int) -> Tensor:
    """Return which of `size` places any mask of a row covers: starts and widths (B, M) give (B, size)."""
    edges = starts.new_zeros(len(starts), size + 1)
    edges.scatter_add_(1, starts, torch.ones_like(starts))
    edges.scatter_add_(1, starts + widths, -torch.ones_like(starts))
    return edges.cumsum(dim=1)[:, :size] > 0


def sources(draws: Draws, lengths: Tensor, num_steps: int) -> Tensor:
    """Return the position in an utterance from which each frame of its warp is read, (B, T) in float64.

    Frame w0 + w reads frame w0, and the first and the last frame read themselves, with linear interpolation
    between these three. A shift to the very end removes one side. Padding frames read themselves.
    """
    frame = torch.arange(num_steps, device=lengths.device, dtype=torch.float64)
    anchor, last = draws.anchors[:, None].double(), lengths[:, None].double() - 1
    moved = anchor + draws.shifts[:, None]
    left = frame * anchor / moved.clamp(min=1)
    right = anchor + (frame - moved) * (last - anchor) / (last - moved).clamp(min=1)
    return torch.where(frame <= last, torch.where(frame < moved, left, right), frame)


def _draw_warps(options: SpecAugment, lengths: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Draw anchors from [W, tau - W) and shifts from [-W, W], both (B,); no warp if tau is at most 2 W."""
    window = options.time_warp
    room = (lengths - 2 * window).clamp(min=0)
    is_warped = (room > 0) & (window > 0)
    anchors = window + integers(keys, [ANCHOR], room[:, None])[:, 0]
    shifts = integers(keys, [SHIFT], torch.full_like(keys, 2 * window + 1))[:, 0] - window
    return anchors * is_warped, shifts * is_warped


def _draw_freq_masks(options: SpecAugment, num_bins: int, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Draw starts and widths, both (B, m_F)."""
    lowest, end = (torch.full_like(keys, width) for width in options.freq_width)
    numbers = _numbers(MASKS, options.freq_masks, keys)
    widths = lowest + integers(keys, numbers, end - lowest)
    return integers(keys, numbers + 1, num_bins - widths), widths


def _draw_time_masks(options: SpecAugment, lengths: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Draw starts and widths, both (B, M); masks beyond an utterance's number have width 0."""
    num_masks = count_time_masks(options, lengths)
    most = int(num_masks.max()) if len(num_masks) else 0
    numbers = _numbers(MASKS + 2 * options.freq_masks, most, keys)
    lowest, end = (edge[:, None] for edge in time_widths(options, lengths))
    widths = lowest + integers(keys, numbers, (end - lowest).clamp(min=0))
    has_mask = (torch.arange(most, device=keys.device) < num_masks[:, None]) & (end > lowest)
    widths = widths * has_mask
    return integers(keys, numbers + 1, lengths[:, None] - widths), widths


def _numbers(first: int, num_masks: int, keys: Tensor) -> Tensor:
    """Return the numbers of the draws of mask widths; each start has the number after its width."""
    return first + 2 * torch.arange(num_masks, device=keys.device)


def count_time_masks(options: SpecAugment, lengths: Tensor) -> Tensor:
    """Return the number of time masks (B,) of utterances of the given lengths (B,)."""
    if options.time_masks_ratio is None:
        return torch.full_like(lengths, options.time_masks or 0)
    return _part(options.time_masks_ratio, lengths).clamp(max=options.most_time_masks)


def time_widths(options: SpecAugment, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest width of time masks and the end of their range, both (B,); the range may be empty."""
    if options.time_width_ratio is not None:
        lowest, end = (_part(ratio, lengths) for ratio in options.time_width_ratio)
        return lowest, end
    lowest, end = options.time_width or (0, 0)
    bound = _part(options.time_width_bound, lengths)
    return torch.full_like(lengths, lowest), bound.clamp(max=end)


def _part(ratio: float, lengths: Tensor) -> Tensor:
    """Return the given share of each length, in whole frames."""
    return (ratio * lengths.double() + ROUNDING).long()


def _bounded(options: SpecAugment, draws: Draws, lengths: Tensor, num_bins: int) -> Draws:
    """Drop masks from the first one that, together with those before, masks more than `most_masked`."""
    most = options.most_masked * lengths[:, None].double() * num_bins + ROUNDING  # values, (B, 1)
    bins = _covered_by_first(draws.freq_starts, draws.freq_widths, num_bins)  # (B, m_F)
    freq_widths = draws.freq_widths * (bins * lengths[:, None] <= most)
    bins = covered(draws.freq_starts, freq_widths, num_bins).sum(dim=1, keepdim=True)  # (B, 1)
    frames = _covered_by_first(draws.time_starts, draws.time_widths, int(lengths.max()))  # (B, M)
    values = bins * lengths[:, None] + frames * (num_bins - bins)
    return replace(draws, freq_widths=freq_widths, time_widths=draws.time_widths * (values <= most))


def _covered_by_first(starts: Tensor, widths: Tensor, size: int) -> Tensor:
    """Count the places that the first 1, 2, ... masks of a row cover together, (B, M)."""
    place = torch.arange(size, device=starts.device)
    is_inside = (starts[..., None] <= place) & (place < (starts + widths)[..., None])  # (B, M, size)
    return (is_inside.cumsum(dim=1) > 0).sum(dim=2)


def _warped(feats: Tensor, draws: Draws, lengths: Tensor) -> Tensor:
    """Interpolate each frame between two neighbours, as a bag of two weighted rows: one pass over memory."""
    if not draws.shifts.any():
        return feats.clone(memory_format=torch.contiguous_format)
    num_rows, num_steps, num_bins = feats.shape
    source = sources(draws, lengths, num_steps)
    before = source.floor()
    neighbours = torch.stack([before, source.ceil()], dim=2).long()  # (B, T, 2)
    neighbours += num_steps * torch.arange(num_rows, device=feats.device)[:, None, None]
    after = source - before
    weights = torch.stack([1 - after, after], dim=2).to(feats.dtype)
    frames = embedding_bag(
        neighbours.view(-1, 2), feats.flatten(0, 1), mode="sum", per_sample_weights=weights.view(-1, 2)
    )
    return frames.view(feats.shape)


def _add_noise(out: Tensor, is_masked: Tensor, deviations: Tensor, keys: Tensor, *, first: int) -> None:
    """Add noise with the given deviations (B, F) in masked places; step and bin number the draws."""
    _, num_steps, num_bins = out.shape
    place = is_masked.flatten().nonzero().squeeze(1)  # among all B T F values
    row, within = place // (num_steps * num_bins), place % (num_steps * num_bins)
    noise = deviations[row, within % num_bins] * gaussian(keys[row], first + within)
    out.view(-1)[place] += noise.to(out.dtype)


def _first_of_noise(options: SpecAugment) -> int:
    """Return the first draw number that no mask of any utterance uses."""
    most = options.most_time_masks if options.time_masks is None else options.time_masks
    return MASKS + 2 * (options.freq_masks + most)
