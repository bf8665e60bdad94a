"""Scorers that cache keys and values against ESPnet's own, token by token."""

import pytest
import torch
from torch import nn

from adaptkit.base.build import build_language_model
from adaptkit.base.classes import CLASSES, import_class
from adaptkit.base.search.cached import cached_decoder, cached_lm

PREFIXES = torch.tensor([[10, 3, 4, 0, 5, 3], [10, 3, 9, 9, 2, 1], [10, 7, 0, 0, 8, 8]])  # with blanks
DECODER = {"attention_heads": 2, "linear_units": 24, "num_blocks": 3}


def new_decoder(name="transformer", **options):
    torch.manual_seed(0)
    made = import_class(CLASSES["decoder"][name])
    return made(vocab_size=11, encoder_output_size=16, **DECODER, **options).eval()


def new_lm(**options):
    torch.manual_seed(0)
    sizes = {"embed_unit": 12, "att_unit": 16, "head": 2, "unit": 24, "layer": 3, **options}
    return build_language_model("transformer", sizes, "lm", num_tokens=11, most_bytes=1 << 24).eval()


@torch.inference_mode()
def score(scorer, encoded):
    """Return the log probabilities (N, V) after each prefix, with the states of the one before, reordered."""
    state = scorer.batch_init_state(encoded)
    states, found = [state] * len(PREFIXES), []
    for length in range(1, PREFIXES.shape[1] + 1):
        xs = encoded.expand(len(PREFIXES), *encoded.shape)
        scores, states = scorer.batch_score(PREFIXES[:, :length], states, xs)
        states = [scorer.select_state(states, row) for row in range(len(PREFIXES))]
        found.append(scores)
    return torch.stack(found)


@pytest.mark.parametrize("options", [{}, {"normalize_before": False}, {"qk_norm": True}])
def test_a_cached_decoder_scores_as_espnets(options):
    decoder, encoded = new_decoder(**options), torch.randn(20, 16)
    cached = cached_decoder(decoder)
    assert cached is not decoder
    torch.testing.assert_close(score(cached, encoded), score(decoder, encoded), rtol=0, atol=2e-6)


@pytest.mark.parametrize("options", [{}, {"pos_enc": "sinusoidal"}])
def test_a_cached_language_model_scores_as_espnets(options):
    lm, encoded = new_lm(**options), torch.randn(20, 16)
    cached = cached_lm(lm)
    assert cached is not lm
    torch.testing.assert_close(score(cached, encoded), score(lm, encoded), rtol=0, atol=2e-6)


def test_a_single_hypothesis_scores_as_among_others():
    cached, encoded = cached_decoder(new_decoder()), torch.randn(20, 16)
    with torch.inference_mode():
        states = [cached.batch_init_state(encoded)] * 3
        together, _ = cached.batch_score(PREFIXES[:, :1], states, encoded[None])
        alone, _ = cached.batch_score(PREFIXES[:1, :1], states[:1], encoded[None])
    torch.testing.assert_close(alone[0], together[0], rtol=0, atol=2e-6)


def test_weights_changed_after_the_scorer_was_made_are_in_force():
    decoder, encoded = new_decoder(), torch.randn(20, 16)
    cached = cached_decoder(decoder)
    nn.init.normal_(decoder.decoders[1].src_attn.linear_v.weight)
    torch.testing.assert_close(score(cached, encoded), score(decoder, encoded), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["lightweight_conv", "dynamic_conv"])
def test_other_decoders_score_for_themselves(name):
    decoder = new_decoder(name, conv_wshare=4, conv_kernel_length=(3, 3, 3))
    assert cached_decoder(decoder) is decoder


def test_layers_that_concatenate_score_for_themselves():
    decoder = new_decoder(concat_after=True)
    assert cached_decoder(decoder) is decoder
