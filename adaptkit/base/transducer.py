"""The loss of RNN transducers (Graves, 2012, arXiv:1211.3711) by torchaudio.

ESPnet's model imports it in its constructor from `warprnnt_pytorch`, which is on no package index.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from torch import Tensor, nn
from torchaudio.functional import rnnt_loss

_PACKAGE = "warprnnt_pytorch"


class TransducerLoss(nn.Module):
    """The mean over utterances of the negative log probability of their labels, as `warprnnt_pytorch`'s."""

    def __init__(self, blank: int = 0, fastemit_lambda: float = 0.0):
        super().__init__()
        if fastemit_lambda:
            raise ValueError(f"fastemit_lambda: only 0 is supported, found {fastemit_lambda}")
        self.blank = blank

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """Return the loss of logits (B, U, L + 1, V), labels (B, L) and their lengths (B,), a scalar."""
        frames, num_labels = int(act_lens.max()), int(label_lens.max())
        return rnnt_loss(
            acts[:, :frames, : num_labels + 1].float().contiguous(),
            labels[:, :num_labels].int().contiguous(),
            act_lens.int(),
            label_lens.int(),
            blank=self.blank,
        )


@contextmanager
def importable() -> Iterator[None]:
    """Let ESPnet import `TransducerLoss` as that of `warprnnt_pytorch` inside the block."""
    module = ModuleType(_PACKAGE)
    module.RNNTLoss = TransducerLoss  # type: ignore[attr-defined]
    before = sys.modules.get(_PACKAGE)
    sys.modules[_PACKAGE] = module
    try:
        yield
    finally:
        del sys.modules[_PACKAGE]
        if before is not None:
            sys.modules[_PACKAGE] = before
