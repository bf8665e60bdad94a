"""Which search a model gets, and what it cannot do."""

import logging

import pytest

from adaptkit.base import checkpoint
from adaptkit.base.search.choose import describe, new_searcher, quick_searcher
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.search_options import Beam, Greedy, SearchRequest, Transducer, read_search
from tests.fixtures.models import TOKENS

ALL = len(TOKENS)


def test_ctc_alone_is_searched_greedily(base, caplog):
    caplog.set_level(logging.INFO)
    assert new_searcher(base, SearchRequest()).options == quick_searcher(base.model).options == Greedy()
    assert "search: greedy (auto: CTC, without a decoder" in caplog.text


def test_hybrid_models_are_searched_jointly(hybrid):
    searcher = new_searcher(hybrid, SearchRequest(nbest=2, changes=("ctc_weight=0.5",)))
    assert searcher.options == Beam(beam_size=ALL, ctc_weight=0.5, nbest=2)
    assert searcher.reason == "auto: CTC and an attention decoder"
    assert quick_searcher(hybrid.model).options == Greedy()


def test_attention_alone_is_searched_without_ctc(attention):
    assert new_searcher(attention, SearchRequest()).options == Beam(beam_size=ALL, ctc_weight=0.0)
    assert quick_searcher(attention.model).options == Beam(beam_size=1, ctc_weight=0.0)


def test_transducers_are_searched_as_such_and_by_ctc_only_if_asked(transducer, caplog):
    assert new_searcher(transducer, SearchRequest()).options == Transducer(beam_size=10)
    assert quick_searcher(transducer.model).options == Transducer(beam_size=1)
    assert new_searcher(transducer, SearchRequest(Greedy())).options == Greedy()
    assert "a transducer, decoded by its auxiliary CTC alone" in caplog.text


def test_a_language_model_is_used_by_auto(base, hybrid, new_lm):
    lm = new_lm("transformer", TOKENS)
    ctc, joint = (new_searcher(one, SearchRequest(lm=lm)).options for one in (base, hybrid))
    assert (ctc.ctc_weight, ctc.lm_weight, ctc.lm) == (1.0, 0.6, lm)
    assert (joint.ctc_weight, joint.lm_weight, joint.lm) == (0.3, 0.6, lm)


@pytest.mark.parametrize(
    ("model", "request_", "message"),
    [
        ("base", SearchRequest(Beam(beam_size=3)), "no attention.*--search-set ctc_weight=1 for"),
        ("base", SearchRequest(Transducer(beam_size=3)), "not a transducer; use --search greedy"),
        ("hybrid", SearchRequest(Transducer(beam_size=3)), "not a transducer; use --search beam"),
        ("attention", SearchRequest(Greedy()), "has no CTC.*--search beam --search-set ctc_weight=0"),
        ("attention", SearchRequest(Beam(beam_size=3)), "has no CTC; use --search-set ctc_weight=0"),
        ("transducer", SearchRequest(Beam(beam_size=3)), "is a transducer; use --search transducer"),
        ("hybrid", SearchRequest(Beam(beam_size=60)), f"beam_size 60 with {ALL} tokens.*beam_size={ALL}"),
        ("hybrid", SearchRequest(changes=("beam_size=0",)), "beam_size=0: 1 problem.*greater than 0"),
        ("hybrid", SearchRequest(changes=("beam=3",)), "beam: unknown key; did you mean 'beam_size'"),
        ("hybrid", SearchRequest(Beam(beam_size=3, lm_weight=0.5)), "no language model.*lm_weight=0"),
        ("base", SearchRequest(nbest=2), "--nbest 2: greedy search finds one.*--search-set ctc_weight=1"),
        ("base", SearchRequest(Greedy(), lm="lm"), "--lm: greedy search uses no language model"),
        ("hybrid", SearchRequest(Beam(beam_size=3), lm="lm"), "lm: not used with lm_weight 0.*lm_weight=0.5"),
        ("hybrid", SearchRequest(lm="nowhere"), "nowhere: not a language model: no such file"),
        ("transducer", SearchRequest(changes=("beam_size=1",), nbest=2), "nbest 2 with a beam of 1"),
        ("transducer", SearchRequest(Transducer(beam_size=36)), "beam_size 36 with 36 tokens.*beam_size=35"),
        (
            "transducer",
            SearchRequest(Transducer(search_type="maes", beam_size=35)),
            "beam_size 35 and expansion_beta 2 with 36 tokens",
        ),
    ],
)  # fmt: skip
def test_what_a_model_cannot_do_is_refused(request, model, request_, message):
    with pytest.raises((ConfigError, CheckpointError), match=f"(?s){message}"):
        new_searcher(request.getfixturevalue(model), request_)


@pytest.mark.parametrize("search_type", ["tsd", "alsd", "nsc", "maes"])
def test_a_transformer_lm_is_refused_where_espnets_search_has_none(transducer, new_lm, search_type):
    lm = new_lm("transformer", transducer.tokens.tokens)
    options = Transducer(beam_size=3, search_type=search_type, lm_weight=0.3)
    with pytest.raises(ConfigError, match=f"search_type: {search_type}.*Transformer.*search_type=default"):
        new_searcher(transducer, SearchRequest(options, lm=lm))


def test_the_lm_of_an_archive_is_its_models_own(new_archive):
    base = checkpoint.load(new_archive("librispeech_conformer"))
    searcher = new_searcher(base, SearchRequest(Beam(beam_size=5, lm_weight=0.6)))
    assert searcher.lm.path == base.files.lm_model
    assert new_searcher(base, SearchRequest()).lm is None


def test_searches_are_described_by_what_matters():
    assert describe(Greedy()) == "greedy"
    assert describe(read_search("librispeech")) == "beam with beam_size=60, ctc_weight=0.3, lm_weight=0.6"
    assert describe(Transducer()) == "transducer with beam_size=10"


def test_a_language_model_may_have_any_path(base, new_lm):
    lm = new_lm("seq_rnn", TOKENS)
    odd = lm.rename(lm.with_name('it\'s "one": #2'))
    assert new_searcher(base, SearchRequest(lm=odd)).options.lm == odd
