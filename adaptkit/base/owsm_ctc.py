"""OWSM-CTC (Peng et al., 2024, arXiv:2402.12654): the model of `espnet2.tasks.s2t_ctc`, without a decoder.

The tokens of the language and the task stand before the frames in the encoder, and the texts that CTC learns
begin with them.
"""

from typing import Any

import torch
from espnet2.s2t.espnet_ctc_model import ESPnetS2TCTCModel
from torch import Tensor

from adaptkit.base.owsm import Prompting


class OwsmCTC(ESPnetS2TCTCModel):
    """ESPnet's model, prompted by its attribute `prompting` and without previous text."""

    prompting: Prompting
    preencoder = postencoder = decoder = None  # attributes that ESPnetASRModel has
    ctc_weight = 1.0

    def encode(self, speech: Tensor, speech_lengths: Tensor, *prompt: Tensor) -> Any:
        """Encode speech (B, N) with lengths (B,), as ESPnet's model does when given a prompt."""
        return super().encode(
            speech, speech_lengths, *(prompt or (*self._earlier(speech), *self._prefix(speech)))
        )

    def forward(self, speech: Tensor, speech_lengths: Tensor, *texts: Tensor) -> Any:
        """Return ESPnet's loss for the texts of `owsm.targets`; a prompt may follow them."""
        return super().forward(speech, speech_lengths, *texts[:6], *(texts[6:] or self._prefix(speech)))

    def _earlier(self, speech: Tensor) -> tuple[Tensor, Tensor]:
        return self._repeat([self.prompting.not_available], speech)

    def _prefix(self, speech: Tensor) -> tuple[Tensor, Tensor]:
        return self._repeat(self.prompting.tokens, speech)

    def _repeat(self, tokens: Any, speech: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, L) and lengths (B,) that are the same in every row of speech."""
        rows = torch.tensor([list(tokens)] * len(speech), device=speech.device)
        return rows, torch.full((len(speech),), rows.shape[1], device=speech.device)
