"""Make the results of a batch independent of its padding.

ESPnet's encoders are not padding-invariant: padding leaks through the convolutions over time, the mask after
subsampling counts one more frame for an utterance beside a longer one than for the same utterance alone, and
legacy relative positions (rel_pos_type: legacy, the default) count from the end of the padded batch. This is
corrected: the convolutions see zeros beyond the end of an utterance, and every utterance keeps its own number
of frames and its own positions. A frontend, which reflects the end of the padded batch instead of each
utterance's, processes utterances one at a time.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


def encoder_frames(encoder: nn.Module, num_frames: int) -> int:
    """Return the number of encoder frames of an utterance with `num_frames` feature frames.

    Every convolution of ESPnet's subsampling is unpadded: (T - kernel) // stride + 1 frames leave it.
    """
    for kernel, stride in _subsampling(encoder):
        num_frames = max(0, (num_frames - kernel) // stride + 1)
    return num_frames


def feature_frames(frontend: nn.Module, num_samples: int) -> int:
    """Return the number of feature frames that a frontend computes from speech; 0 if it is too short.

    For a frontend other than ESPnet's own, it is estimated from the shift between frames.
    """
    stft = getattr(frontend, "stft", None)
    if stft is not None and stft.center:
        reflected = stft.n_fft // 2  # samples at either end; speech must be longer
        num_samples = num_samples + 2 * reflected if num_samples > reflected else 0
    for window, shift in _windows(frontend):
        num_samples = max(0, (num_samples - window) // shift + 1)
    return num_samples


def frame_shift(frontend: nn.Module) -> int:
    """Return the number of samples between the feature frames of a frontend."""
    return math.prod(shift for _, shift in _windows(frontend))


def subsampling(encoder: nn.Module) -> int:
    """Return the number of feature frames per encoder frame."""
    factor = 1
    for _, stride in _subsampling(encoder):
        factor *= stride
    return factor


def mixes_lengths(model: nn.Module) -> bool:
    """Whether utterances of different lengths may share a batch without affecting each other.

    They may not with contextual-block encoders, which cut the padded batch into blocks of time frames.
    """
    return not getattr(model.encoder, "block_size", 0)


@contextmanager
def ignoring_padding(model: nn.Module) -> Iterator[None]:
    """Make a model's results independent of padding inside the block, and restore the model afterwards.

    If `mixes_lengths` is false, a batch with utterances of different lengths is a ValueError.
    """
    encoder = model.encoder
    rows = _Rows(_subsampling(encoder), mixes_lengths(model))
    with ExitStack() as stack:
        if model.frontend is not None:
            stack.callback(model.frontend.register_forward_hook(_one_at_a_time).remove)
        if type(model.normalize).__name__ == "UtteranceMVN" and model.normalize.norm_vars:
            stack.callback(model.normalize.register_forward_hook(_own_variance).remove)
        stack.callback(encoder.register_forward_pre_hook(rows.begin).remove)
        if hasattr(encoder.embed, "conv"):
            stack.callback(encoder.embed.register_forward_hook(rows.correct_mask).remove)
        for module in encoder.modules():
            if isinstance(module, nn.Conv1d) and _is_padded(module):
                stack.callback(module.register_forward_pre_hook(rows.zero_padding).remove)
            if "LegacyRelPosition" in type(module).__name__ and hasattr(module, "rel_shift"):
                stack.enter_context(_shifting(module, rows))
        yield


@contextmanager
def _shifting(attention: nn.Module, rows: "_Rows") -> Iterator[None]:
    """Replace the method that shifts positions, which no hook reaches, inside the block."""
    before = vars(attention).get("rel_shift")  # set by an enclosing block
    attention.rel_shift = _Shift(rows, attention.rel_shift, attention.zero_triu)
    try:
        yield
    finally:
        del attention.rel_shift
        if before is not None:
            attention.rel_shift = before


def _is_padded(convolution: nn.Conv1d) -> bool:
    return convolution.kernel_size[0] > 1 and convolution.padding != (0,)


def _windows(frontend: nn.Module) -> list[tuple[int, int]]:
    """Return (window, shift) of each layer of a frontend over time; the first in samples."""
    stft = getattr(frontend, "stft", None)
    if stft is not None:
        return [(stft.n_fft, stft.hop_length)]
    if hasattr(frontend, "win_length"):  # a sliding window
        return [(frontend.win_length, frontend.hop_length)]
    if hasattr(frontend, "downsampling_factor"):  # convolutions, as in wav2vec
        return [(layer.kernel_size, layer.stride) for layer in frontend.layers]
    shift = int(getattr(frontend, "hop_length", getattr(frontend, "gcd", 320)))  # 320: 20 ms, as in wav2vec
    return [(shift, shift)]


def _subsampling(encoder: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return (kernel, stride) over time of each convolution of `embed.conv`; none for other input layers."""
    layers = getattr(encoder.embed, "conv", ())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv1d | nn.Conv2d)]
    return tuple((layer.kernel_size[0], layer.stride[0]) for layer in convolutions)


def _one_at_a_time(frontend: nn.Module, args: tuple[Tensor, Tensor], output: Any) -> Any:
    """Repeat a frontend's computation on a padded batch, utterance by utterance."""
    inputs, lengths = args
    if bool((lengths == lengths[0]).all()):
        return output
    rows = [frontend.forward(x[None, :n], n[None]) for x, n in zip(inputs, lengths, strict=True)]
    outputs = pad_sequence([row[0] for row, _ in rows], batch_first=True)
    return outputs, torch.cat([frames for _, frames in rows])


def _own_variance(normalize: nn.Module, args: tuple[Tensor, Tensor], output: Any) -> Any:
    """Divide by each utterance's own deviation; utterance_mvn would count padding frames as means."""
    x, lengths = output
    if not normalize.norm_means or bool((lengths == lengths[0]).all()):
        return output
    counts = lengths.to(x.device).view(
        -1, *[1] * (x.dim() - 1)
    )  # features are (B, T, F), windows (B, T, 1, N)
    beyond = torch.arange(x.shape[1], device=x.device).view(-1, *[1] * (x.dim() - 2)) >= counts
    x = x.masked_fill(beyond, 0.0)
    variance = x.square().sum(dim=1, keepdim=True) / counts
    return x / variance.sqrt().clamp(min=normalize.eps), lengths


@dataclass
class _Rows:
    """The utterances of the current forward pass: their numbers of encoder frames (B,)."""

    convolutions: tuple[tuple[int, int], ...]
    mixes_lengths: bool
    frames: Tensor | None = None
    is_padded: bool = False
    sources: tuple[Tensor, Tensor] | None = None  # of `_Shift`, the same in every block

    def begin(self, encoder: nn.Module, args: tuple[Any, ...]) -> None:
        """Before the encoder: count the frames that leave its subsampling."""
        lengths = args[1].to(args[0].device)
        self.is_padded, self.sources = bool((lengths != lengths.max()).any()), None
        if self.is_padded and not self.mixes_lengths:
            raise ValueError(
                f"{type(encoder).__name__}: utterances of {lengths.tolist()} frames in one batch; its blocks "
                "of time would depend on the longest: batch utterances of one length"
            )
        for kernel, stride in self.convolutions:
            lengths = (lengths - kernel).div(stride, rounding_mode="floor") + 1
        self.frames = lengths

    def beyond(self, num_frames: int) -> Tensor:
        """Return (B, 1, U), true where an utterance has no frame."""
        return torch.arange(num_frames, device=self.frames.device) >= self.frames[:, None, None]

    def correct_mask(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, Tensor]) -> Any:
        """After subsampling: rebuild the mask from each utterance's own length."""
        x, mask = output
        is_right = mask is None or not self.is_padded
        return output if is_right else (x, ~self.beyond(mask.shape[-1]))

    def zero_padding(self, convolution: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before a convolution over time: zero its input (B, D, U) beyond the end of utterances."""
        if not self.is_padded:
            return args
        return (args[0].masked_fill(self.beyond(args[0].shape[-1]), 0.0), *args[1:])


@dataclass(frozen=True)
class _Shift:
    """The method `rel_shift` of attention with legacy relative positions, for rows of different lengths.

    In a row of t frames, the score of query i and key j is element (i + 1) t + j of the row's scores (t, t)
    with a column of zeros before them. ESPnet takes t to be the length of the batch.
    """

    rows: _Rows
    of_equal_lengths: Callable[[Tensor], Tensor]
    zero_triu: bool

    def __call__(self, scores: Tensor) -> Tensor:
        """Shift scores (B, H, U, U) of queries and positions to queries and keys."""
        if not self.rows.is_padded:
            return self.of_equal_lengths(scores)
        num_frames = scores.shape[-1]
        if self.rows.sources is None:
            self.rows.sources = self._find_sources(num_frames)
        sources, is_zero = self.rows.sources
        flat = scores.flatten(2)  # (B, H, U U)
        shifted = flat.gather(2, sources.flatten(2).expand_as(flat)).view_as(scores)
        shifted = shifted.masked_fill(is_zero, 0.0)
        return shifted.tril() if self.zero_triu else shifted

    def _find_sources(self, num_frames: int) -> tuple[Tensor, Tensor]:
        """Return where the score of each query and key is taken from (B, 1, U, U), and where it is zero."""
        t = self.rows.frames[:, None, None, None]
        steps = torch.arange(num_frames, device=t.device)
        place = (steps[:, None] + 1) * t + steps  # (B, 1, U, U)
        query, position = place // (t + 1), place % (t + 1) - 1
        sources = (query * num_frames + position).clamp(0, num_frames**2 - 1)  # beyond a row, any will do
        return sources, position < 0
