"""Layers of a network beside the encoder that sees neighbouring frames; all tasks share their maps.

`Convolution` follows the convolution of Gulati et al., Conformer: convolution-augmented transformer for
speech recognition, 2020, arXiv:2005.08100, without its gate and BatchNorm; `Attention` is that of Vaswani et
al., Attention is all you need, 2017, arXiv:1706.03762, with a learned score per distance as in Raffel et al.,
Exploring the limits of transfer learning with a unified text-to-text transformer, 2020, arXiv:1910.10683.

They take h (B, U, d), z (B, U, d), which is the norm of h with the row's own scale and shift, and is_frame
(B, U), false beyond the end of a row, or None if no row is padded; they return (B, U, d).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_FRAMES_APART = (
    16  # distances in time beyond it share a score; 16 frames are 0.64 s at 25 frames per second
)


class SharedLinear(nn.Linear):
    """y = W x + c for every row, whatever its task; W is Xavier-uniform, or zero, and c zero."""

    def __init__(self, dim_in: int, dim_out: int, *, zero: bool = False, has_bias: bool = True):
        super().__init__(dim_in, dim_out, bias=has_bias)
        if zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.xavier_uniform_(self.weight)
        if has_bias:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, task_ids: Tensor | None = None) -> Tensor:
        """Map x (B, U, D_in) to (B, U, D_out), in the dtype of x."""
        return functional.linear(
            x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        )


class Convolution(nn.Module):
    """h + W_2 relu(W_1 (w * z + b) + b_1) + b_2, with * a convolution over time with a filter per channel.

    The kernel spans m frames, (m - 1) / 2 of them before and as many after; those beyond a row's end count as
    zero. w is initialised to 1 in the middle and small values elsewhere. Parameters: m d + d + 4 d d + 3 d.
    """

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, 1, kernel) * (0.3 / math.sqrt(kernel)))
        self.weight.data[..., kernel // 2] += 1.0
        self.bias = nn.Parameter(torch.zeros(dim))
        self.feed_forward = FeedForward(dim)

    def forward(self, h: Tensor, z: Tensor, is_frame: Tensor | None) -> Tensor:
        """Return the layer's output."""
        if is_frame is not None:
            z = z.masked_fill(~is_frame[..., None], 0.0)
        # as an image of height 1, which torch convolves up to twice as fast on CPUs
        weight, bias = self.weight[:, :, None].to(z.dtype), self.bias.to(z.dtype)
        padding = (0, weight.shape[-1] // 2)
        mixed = functional.conv2d(z.mT[:, :, None], weight, bias, padding=padding, groups=len(weight))
        return h + self.feed_forward(mixed[:, :, 0].mT)


class Attention(nn.Module):
    """h' + W_2 relu(W_1 norm(h') + b_1) + b_2 with h' = h + W_o [head_1 ; ... ; head_H] + b_o.

    head_i = softmax(q_i k_i^T / sqrt(d / H) + r_i) v_i, where q, k and v are affine maps of z and r_i is the
    score of a distance in time, from -16 to 16 frames, initialised to zero. Frames beyond a row's end are
    masked. Parameters: 4 d d + 4 d + 33 H + 4 d d + 3 d.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.project, self.merge = SharedLinear(dim, 3 * dim), SharedLinear(dim, dim)
        self.scores = nn.Parameter(torch.zeros(num_heads, 2 * MOST_FRAMES_APART + 1))
        self.feed_forward = FeedForward(dim)

    def forward(self, h: Tensor, z: Tensor, is_frame: Tensor | None) -> Tensor:
        """Return the layer's output."""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.project(z).chunk(3, -1)
        )  # (B, H, U, d / H)
        frames = torch.arange(z.shape[1], device=z.device)
        apart = (frames - frames[:, None]).clamp(-MOST_FRAMES_APART, MOST_FRAMES_APART)
        scores = self.scores[:, apart + MOST_FRAMES_APART].to(query.dtype)[None]  # (1, H, U, U)
        if is_frame is not None:
            scores = scores.masked_fill(~is_frame[:, None, None], torch.finfo(query.dtype).min)
        heads = functional.scaled_dot_product_attention(query, key, value, attn_mask=scores)
        h = h + self.merge(heads.transpose(1, 2).flatten(2))
        return h + self.feed_forward(functional.layer_norm(h, h.shape[-1:]))


class FeedForward(nn.Module):
    """W_2 relu(W_1 x + b_1) + b_2 with an inner width of 2 d. Parameters: 4 d d + 3 d."""

    def __init__(self, dim: int):
        super().__init__()
        self.widen, self.narrow = SharedLinear(dim, 2 * dim), SharedLinear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, U, d) to the same shape."""
        return self.narrow(torch.relu(self.widen(x)))


def mark_frames(frames: Tensor | None, x: Tensor) -> Tensor | None:
    """Return which frames of x (B, U, D) are within rows of `frames` (B,); None if no row is padded."""
    if frames is None:
        return None
    return torch.arange(x.shape[1], device=x.device) < frames.to(x.device)[:, None]
