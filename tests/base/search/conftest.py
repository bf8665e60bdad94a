"""What the tests of searches share: tiny models of each kind, speech, and language models in folders."""

import pytest
import torch

from adaptkit.base import checkpoint
from adaptkit.data.batches import Batch

_DECODER = {"attention_heads": 2, "linear_units": 16, "num_blocks": 2}


@pytest.fixture(scope="session")
def hybrid(new_base):
    """A model with CTC and an attention decoder."""
    return new_base(decoder="transformer", decoder_conf=_DECODER, model_conf={"ctc_weight": 0.3})


@pytest.fixture(scope="session")
def attention(new_base):
    """A model with an attention decoder alone."""
    return new_base(decoder="transformer", decoder_conf=_DECODER, model_conf={"ctc_weight": 0.0})


@pytest.fixture(scope="session")
def transducer(new_archive):
    """A transducer with an auxiliary CTC."""
    return checkpoint.load(new_archive("librispeech_transducer"))


@pytest.fixture(scope="session")
def new_speech():
    """Make a batch of noise as speech, of so many samples, for tasks; by default for the base itself."""

    def make(*lengths, task_ids=None) -> Batch:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.zeros(len(lengths), max(lengths))
        for row, length in enumerate(lengths):
            inputs[row, :length] = 0.1 * torch.randn(length, generator=generator)
        tokens = torch.full((len(lengths), 1), 3)
        utt_ids = tuple(f"utt{row}" for row in range(len(lengths)))
        task_ids = task_ids or (-1,) * len(lengths)
        return Batch(utt_ids, task_ids, inputs, torch.tensor(lengths), tokens, torch.ones_like(tokens[:, 0]))

    return make
