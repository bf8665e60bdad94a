"""A policy in words: what it does, and to which utterances of a corpus it does too little or too much."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from adaptkit.augment.corpus import Corpus
from adaptkit.augment.noise import Noise
from adaptkit.augment.policy import Policy
from adaptkit.augment.specaugment import SpecAugment
from adaptkit.errors import listed

LITTLE, MUCH = 0.05, 0.5  # masked share, outside of which a policy is warned of
_REACHED = 0.05  # share of the utterances that may stay without a warp where another W is proposed


def describe(policy: Policy) -> list[str]:
    """Say what a policy does, a line for each part of it."""
    lines = [*_say_spec(policy.spec)] if policy.spec else []
    if policy.noise:
        lines += [_say_noise(policy.noise), _say_mix(policy)]
    return lines or ["nothing: features stay as they are"]


def _say_spec(spec: SpecAugment) -> Iterator[str]:
    if spec.time_warp:
        yield f"warp: one, by up to {spec.time_warp} frames, of utterances longer than {2 * spec.time_warp}"
    if spec.freq_masks:
        yield f"frequency masks: {spec.freq_masks}, {_say_range(spec.freq_width, 'bins')} wide"
    if spec.has_time_masks:
        yield f"time masks: {_say_number(spec)}, {_say_width(spec)} wide"
    bound = f", at most {100 * spec.most_masked:g} % of the values" if spec.most_masked < 1 else ""
    yield f"masked values: {spec.fill}{bound}"


def _say_number(spec: SpecAugment) -> str:
    if spec.time_masks is not None:
        return str(spec.time_masks)
    return f"{100 * spec.time_masks_ratio:g} for every 100 frames, at most {spec.most_time_masks}"


def _say_width(spec: SpecAugment) -> str:
    if spec.time_width_ratio is not None:
        low, high = (100 * ratio for ratio in spec.time_width_ratio)
        return f"{low:g} to below {high:g} % of the utterance"
    bound = f" and at most {100 * spec.time_width_bound:g} % of the utterance"
    return _say_range(spec.time_width, "frames") + (bound if spec.time_width_bound < 1 else "")


def _say_range(widths: tuple[int, int], unit: str) -> str:
    low, end = widths
    return f"{low} to {max(low, end - 1)} {unit}"


def _say_noise(noise: Noise) -> str:
    low, high = noise.snr_db
    rooms = listed(map(str, noise.rooms), 3) if noise.rooms else "generated ones"
    inside = f"; {100 * noise.room_share:g} % of them in rooms, {rooms}" if noise.room_share else ""
    return f"noise: of {listed(map(str, noise.noises), 3)}, {low:g} to {high:g} dB below the speech{inside}"


def _say_mix(policy: Policy) -> str:
    noisy, masked = policy.noisy_share, policy.masked_share
    both = noisy if policy.spec and policy.mix.masks_on == "all" else 0.0
    shares = {"noisy": noisy, "masked": masked, "both": both, "neither": round(1 - noisy - masked + both, 6)}
    return "utterances: " + ", ".join(f"{100 * abs(share):.3g} % {name}" for name, share in shares.items())


@dataclass(frozen=True)
class Shares:
    """What is expected to be masked of each utterance."""

    values: Tensor  # (B,) share of the values
    frames: Tensor  # (B,) share of the frames, under time masks


def find_faults(spec: SpecAugment, corpus: Corpus, shares: Shares) -> Iterator[str]:
    """Say which utterances a policy hardly masks, mostly hides or does not warp, and what would mend it."""
    is_some = corpus.num_frames > 0
    if not is_some.all():
        yield (
            f"{_count(corpus, ~is_some)} hold no frame; "
            f"'adaptkit data fix {corpus.path} --min-sec 0.1' drops them"
        )
    has_fixed = spec.time_masks is not None
    little = is_some & (shares.values < LITTLE)
    if little.any():
        remedy = "more or wider masks are needed" if has_fixed else "freq_masks or time_masks reach them"
        yield f"{_count(corpus, little)} are expected to lose less than 5 % of their values; {remedy}"
    short = is_some & (shares.frames < LITTLE) & ~little
    if short.any() and spec.has_time_masks:
        remedy = "more or wider time masks are needed" if has_fixed else "a fixed time_masks reaches them"
        yield f"{_count(corpus, short)} are expected to lose less than 5 % of their frames; {remedy}"
    much = is_some & (shares.values > MUCH)
    if much.any():
        remedy = "most_masked: 0.5 bounds it"
        yield f"{_count(corpus, much)} are expected to lose over 50 % of their values; {remedy}"
    still = is_some & (corpus.num_frames <= 2 * spec.time_warp)
    if still.any() and spec.time_warp:
        remedy = _mend_warp(corpus, is_some)
        yield f"{_count(corpus, still)} are not warped, being no longer than 2 W; {remedy}"


def _count(corpus: Corpus, chosen: Tensor) -> str:
    """Say how many utterances are chosen and how long they are."""
    frames = corpus.num_frames[chosen]
    low_sec, high_sec = (float(end) * corpus.frame_sec for end in (frames.min(), frames.max()))
    total = len(corpus.num_frames)
    share = 100 * len(frames) / total
    return f"{len(frames)} of {total} utterances ({share:.1f} %, {low_sec:.2f} to {high_sec:.2f} s)"


def _mend_warp(corpus: Corpus, is_some: Tensor) -> str:
    """Propose the largest W that warps all but a few."""
    frames = corpus.num_frames[is_some].sort().values
    window = (int(frames[int(_REACHED * len(frames))]) - 1) // 2
    share = 100 * float((frames > 2 * window).double().mean())
    return f"time_warp: {window} warps {share:.0f} %" if window else "they hold too few frames for any"
