"""Make the results of a batch independent of its padding.

ESPnet's encoders are not padding-invariant: padding leaks through the convolutions over time, and the mask
after subsampling counts one more frame for an utterance beside a longer one than for the same utterance
alone. Hooks correct both: the convolutions see zeros beyond the end of an utterance, and every utterance
keeps its own number of frames. A frontend, which reflects the end of the padded batch instead of each
utterance's, processes utterances one at a time.
"""

from collections.abc import Iterator
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


def subsampling(encoder: nn.Module) -> int:
    """Return the number of feature frames per encoder frame."""
    factor = 1
    for _, stride in _subsampling(encoder):
        factor *= stride
    return factor


def mixes_lengths(model: nn.Module) -> bool:
    """Whether utterances of different lengths may share a batch without affecting each other.

    They may not with legacy relative positions (rel_pos_type: legacy), which count from the end of the padded
    batch, convolutional ones (pos_enc_layer_type: conv), which extend into the padding, and a variance per
    utterance (utterance_mvn with norm_vars), which includes the padding.
    """
    names = {type(module).__name__ for module in model.encoder.modules()}
    if any("LegacyRelPosition" in name or "ConvolutionalPosition" in name for name in names):
        return False
    return type(model.normalize).__name__ != "UtteranceMVN" or not model.normalize.norm_vars


@contextmanager
def ignoring_padding(model: nn.Module) -> Iterator[None]:
    """Make a model's results independent of padding inside the block; by hooks, nothing is replaced."""
    padding, encoder = _Padding(), model.encoder
    with ExitStack() as stack:
        if model.frontend is not None:
            stack.callback(model.frontend.register_forward_hook(_one_at_a_time).remove)
        if hasattr(encoder.embed, "conv"):
            stack.callback(encoder.embed.register_forward_hook(_OwnLengths(_subsampling(encoder))).remove)
        for block in encoder.encoders:
            stack.callback(block.register_forward_pre_hook(_Remember(padding)).remove)
            for convolution in block.modules():
                if isinstance(convolution, nn.Conv1d) and convolution.kernel_size[0] > 1:
                    stack.callback(convolution.register_forward_pre_hook(_ZeroPadding(padding)).remove)
        yield


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


class _Padding:
    """The mask (B, 1, U) of the current forward pass, true where an utterance has frames."""

    mask: Tensor | None = None


@dataclass(frozen=True)
class _OwnLengths:
    """After subsampling: rebuild the mask from each utterance's own length."""

    convolutions: tuple[tuple[int, int], ...]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, Tensor]) -> Any:
        x, mask = output
        if mask is None:
            return output
        lengths = args[1].sum(dim=-1)  # (B, 1)
        for kernel, stride in self.convolutions:
            lengths = (lengths - kernel).div(stride, rounding_mode="floor") + 1
        frames = torch.arange(mask.shape[-1], device=mask.device)
        return x, frames < lengths[..., None]


@dataclass(frozen=True)
class _Remember:
    """Before each block: store its mask for the convolutions inside."""

    padding: _Padding

    def __call__(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        self.padding.mask = args[1]


@dataclass(frozen=True)
class _ZeroPadding:
    """Before each convolution over time: zero its input (B, D, U) beyond the end of utterances."""

    padding: _Padding

    def __call__(self, convolution: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.padding.mask is None:
            return args
        return (args[0].masked_fill(~self.padding.mask, 0.0), *args[1:])
