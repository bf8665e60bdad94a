"""A base model that starts from the weights of another."""

import pytest

from adaptkit.base.warm_start import take_over
from tests.fixtures.models import TOKENS

DECODERS = {
    "transformer": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "rnn": {"num_layers": 1, "hidden_size": 24, "att_conf": {"adim": 16}},
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_no_row_of_a_token_is_taken_for_another_token(new_base, decoder):
    parts = {"decoder": decoder, "decoder_conf": DECODERS[decoder], "model_conf": {"ctc_weight": 0.3}}
    other = [*TOKENS[:3], *reversed(TOKENS[3:-1]), TOKENS[-1]]
    source, target = new_base(1, **parts), new_base(2, **parts, token_list=other)
    before = {name: weight.clone() for name, weight in target.model.state_dict().items()}
    take_over(target, source)
    after = target.model.state_dict()
    of_tokens = [name for name, weight in after.items() if weight.shape[:1] == (len(TOKENS),)]
    assert {name for name in of_tokens if not after[name].equal(before[name])} == set()
    assert len(of_tokens) == 5  # CTC and the decoder's output with their biases, and the embedding
