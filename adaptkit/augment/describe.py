"""Describe a policy in words, and warn of utterances in a corpus that it changes too little or too much."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from adaptkit.augment.corpus import Corpus
from adaptkit.augment.noise import Noise
from adaptkit.augment.policy import Policy
from adaptkit.augment.specaugment import SpecAugment
from adaptkit.errors import listed, shell_word

LITTLE, MUCH = 0.05, 0.5  # masked shares of the values outside this range cause a warning
_FEW_FRAMES = 0.03  # as do smaller shares of the frames under time masks, even if bins are masked too
_REACHED = 0.05  # share of the utterances that a proposed W may leave unwarped


def describe_policy(policy: Policy) -> list[str]:
    """Describe a policy, one line for each part."""
    lines = [_describe_speeds(policy.speeds)] if policy.speeds != (1.0,) else []
    lines += _describe_spec(policy.spec) if policy.spec else []
    if policy.noise:
        lines += [_describe_noise(policy.noise), _describe_mix(policy)]
    return lines or ["none: features are unchanged"]


def _describe_speeds(speeds: tuple[float, ...]) -> str:
    chance = f", each with probability {1 / len(speeds):.3g}" if len(speeds) > 1 else ""
    return f"speed: {', '.join(f'{speed:g}' for speed in speeds)}{chance}"


def _describe_spec(spec: SpecAugment) -> Iterator[str]:
    if spec.time_warp:
        yield f"time warp: up to {spec.time_warp} frames, for utterances longer than {2 * spec.time_warp}"
    if spec.freq_masks:
        yield f"frequency masks: {spec.freq_masks}, {_describe_range(spec.freq_width, 'bins')} wide"
    if spec.has_time_masks:
        yield f"time masks: {_describe_number(spec)}, {_describe_width(spec)} wide"
    bound = f", at most {100 * spec.most_masked:g} % of the values" if spec.most_masked < 1 else ""
    yield f"masked values: {spec.fill}{bound}"


def _describe_number(spec: SpecAugment) -> str:
    if spec.time_masks is not None:
        return str(spec.time_masks)
    return f"{100 * spec.time_masks_ratio:g} per 100 frames, at most {spec.most_time_masks}"


def _describe_width(spec: SpecAugment) -> str:
    if spec.time_width_ratio is not None:
        low, high = (100 * ratio for ratio in spec.time_width_ratio)
        return f"{low:g} to below {high:g} % of the utterance"
    bound = f" and at most {100 * spec.time_width_bound:g} % of the utterance"
    return _describe_range(spec.time_width, "frames") + (bound if spec.time_width_bound < 1 else "")


def _describe_range(widths: tuple[int, int], unit: str) -> str:
    low, end = widths
    return f"{low} to {max(low, end - 1)} {unit}"


def _describe_noise(noise: Noise) -> str:
    low, high = noise.snr_db
    rooms = listed(map(str, noise.rooms), 3) if noise.rooms else "generated"
    inside = f"; {100 * noise.room_share:g} % of them in rooms ({rooms})" if noise.room_share else ""
    return f"noise: {listed(map(str, noise.noises), 3)}, SNR {low:g} to {high:g} dB{inside}"


def _describe_mix(policy: Policy) -> str:
    noisy, masked = policy.noisy_share, policy.masked_share
    both = noisy if policy.spec and policy.mix.masks_on == "all" else 0.0
    shares = {"noisy": noisy, "masked": masked, "both": both, "neither": round(1 - noisy - masked + both, 6)}
    return "utterances: " + ", ".join(f"{100 * abs(share):.3g} % {name}" for name, share in shares.items())


@dataclass(frozen=True)
class Shares:
    """The share of each utterance that is expected to be masked."""

    values: Tensor  # (B,) share of the values
    frames: Tensor  # (B,) share of the frames, under time masks


def find_faults(spec: SpecAugment, corpus: Corpus, shares: Shares) -> Iterator[str]:
    """Describe which utterances a policy hardly masks, mostly masks or does not warp, with a remedy."""
    is_some = corpus.num_frames > 0
    if not is_some.all():
        yield (
            f"{_count(corpus, ~is_some)} contain no frames; "
            f"'adaptkit data fix {shell_word(corpus.path)} --min-sec 0.1' drops them"
        )
    has_fixed = spec.time_masks is not None
    little = is_some & (shares.values < LITTLE)
    if little.any():
        remedy = "use more or wider masks" if has_fixed else "add freq_masks or a fixed number of time_masks"
        yield f"{_count(corpus, little)} are expected to lose less than 5 % of their values; {remedy}"
    short = is_some & (shares.frames < _FEW_FRAMES) & ~little
    if short.any() and spec.has_time_masks:
        remedy = "use more or wider time masks" if has_fixed else "set a fixed number of time_masks"
        yield f"{_count(corpus, short)} are expected to lose less than 3 % of their frames; {remedy}"
    much = is_some & (shares.values > MUCH)
    if much.any():
        remedy = "set most_masked: 0.5 to limit it"
        yield f"{_count(corpus, much)} are expected to lose over 50 % of their values; {remedy}"
    still = is_some & (corpus.num_frames <= 2 * spec.time_warp)
    if still.any() and spec.time_warp:
        remedy = _mend_warp(corpus, is_some)
        yield f"{_count(corpus, still)} are not warped, as they are no longer than 2 W; {remedy}"


def _count(corpus: Corpus, chosen: Tensor) -> str:
    """Describe how many utterances are chosen and how long they are."""
    frames = corpus.num_frames[chosen]
    low_sec, high_sec = (float(end) * corpus.frame_sec for end in (frames.min(), frames.max()))
    total = len(corpus.num_frames)
    share = 100 * len(frames) / total
    return f"{len(frames)} of {total} utterances ({share:.1f} %, {low_sec:.2f} to {high_sec:.2f} s)"


def _mend_warp(corpus: Corpus, is_some: Tensor) -> str:
    """Propose the largest W that warps nearly all utterances."""
    frames = corpus.num_frames[is_some].sort().values
    window = (int(frames[int(_REACHED * len(frames))]) - 1) // 2
    share = 100 * float((frames > 2 * window).double().mean())
    return f"time_warp: {window} warps {share:.0f} %" if window else "they are too short for any warp"
