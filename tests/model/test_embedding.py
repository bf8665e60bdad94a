"""The embedding of an utterance: the same whatever adapters there are, and of its own frames alone."""

import pytest
import torch

from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.embedding import embed, find_block
from tests.fixtures.models import STREAMING


def embedded(base, batch, stack=None, **options):
    adapted = AdaptedModel(base, stack, is_frozen=True).eval()
    with torch.inference_mode(), adapted.hooked():
        return embed(adapted, batch, **options)


@pytest.mark.parametrize("kind", ["residual", "hff", "full"])
def test_adapters_do_not_change_an_embedding(base, new_stack, new_batch, kind):
    batch = new_batch([1], length=40)
    found = embedded(base, batch, new_stack(base, kind, is_trained=True))
    assert torch.equal(found, embedded(base, batch))


def test_it_is_the_mean_and_the_deviation_of_normalised_frames_of_a_block(base, new_batch):
    batch, seen = new_batch([-1], length=40), []
    hook = base.model.encoder.encoders[1].register_forward_hook(lambda *args: seen.append(args[2][0][0]))
    found = embedded(base, batch, block=1)
    hook.remove()
    frames = seen[0][0]
    normal = (frames - frames.mean(1, keepdim=True)) / (
        frames.var(1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    expected = torch.cat([normal.mean(0), normal.var(0, correction=0).sqrt()])
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.equal(found, embedded(base, batch, block=0))


def test_contextual_blocks_and_single_frames_have_embeddings(new_base, base, new_batch):
    streaming = new_base(encoder="contextual_block_transformer", encoder_conf=STREAMING)
    for model, length in ((streaming, 60), (base, 7)):
        found = embedded(model, new_batch([-1], length=length))
        assert found.shape == (32,)
        assert found.isfinite().all()


def test_a_block_out_of_range_is_refused(base):
    with pytest.raises(ConfigError, match="block 2: not among this base model's blocks, 0 to 1"):
        find_block(AdaptedModel(base, is_frozen=True), 2)
