"""Which search a model gets, and what it cannot do."""

import pytest

from adaptkit.base.search.choose import new_searcher, quick_searcher
from adaptkit.search_options import Beam, Greedy, SearchRequest
from tests.fixtures.models import TOKENS

DECODER = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}


@pytest.fixture(scope="session")
def hybrid(new_base):
    return new_base(decoder="transformer", decoder_conf=DECODER, model_conf={"ctc_weight": 0.3})


@pytest.fixture(scope="session")
def attention(new_base):
    return new_base(decoder="transformer", decoder_conf=DECODER, model_conf={"ctc_weight": 0.0})


def test_ctc_alone_is_searched_greedily(base):
    assert new_searcher(base, SearchRequest()).options == quick_searcher(base.model).options == Greedy()


def test_hybrid_models_are_searched_jointly(hybrid):
    searcher = new_searcher(hybrid, SearchRequest())
    assert searcher.options == Beam(beam_size=len(TOKENS), ctc_weight=0.3)
    assert searcher.reason == "auto: CTC and an attention decoder"


def test_attention_alone_is_searched_without_ctc(attention):
    searcher = new_searcher(attention, SearchRequest())
    assert searcher.options == Beam(beam_size=len(TOKENS), ctc_weight=0.0)
    assert quick_searcher(attention.model).options == Beam(beam_size=1, ctc_weight=0.0)
