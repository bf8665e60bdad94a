"""Beam search over adapted encoders and decoders, row by row."""

import pytest
import torch

from adaptkit.base.search.searcher import Searcher
from adaptkit.model.adapted import AdaptedModel
from adaptkit.search_options import Beam, Transducer

SEARCHER = Searcher(Beam(beam_size=4, nbest=3))


@torch.inference_mode()
def recognise(adapted, batch, searcher=SEARCHER):
    with adapted.hooked():
        return adapted.recognise(batch, searcher)


def summarise(found):
    """Return the tokens of every path, and all scores."""
    return [[p.tokens for p in paths] for paths in found], [p.score for paths in found for p in paths]


@pytest.mark.parametrize("kind", ["residual", "lora", "full", "bitfit"])
def test_rows_of_mixed_speakers_are_found_as_alone(hybrid, new_stack, new_batch, kind):
    adapted = AdaptedModel(hybrid, new_stack(hybrid, kind, is_trained=True)).eval()
    batch = new_batch((2, -1, 0, 1))
    tokens, scores = summarise(recognise(adapted, batch))
    alone = [recognise(adapted, batch.rows([row]))[0] for row in range(4)]
    assert (tokens, pytest.approx(scores, abs=1e-4)) == summarise(alone)


def test_adapted_decoder_weights_are_in_force(hybrid, new_stack, new_batch):
    stack, batch = new_stack(hybrid, "full", is_trained=True), new_batch((0,))
    found = recognise(AdaptedModel(hybrid, stack).eval(), batch)
    own = AdaptedModel(hybrid)
    with torch.no_grad():
        for name, difference in stack.differences(0).items():
            own.espnet.get_parameter(name).add_(difference)
    assert any(name.startswith("decoder.") for name in stack.differences(0))
    tokens, scores = summarise(recognise(own.eval(), batch.of_task(-1)))
    assert (tokens, pytest.approx(scores, abs=1e-4)) == summarise(found)


def test_the_parts_of_a_score_add_up(hybrid, new_batch):
    options = Beam(beam_size=4, ctc_weight=0.4, length_bonus=0.2)
    ((path, *_),) = recognise(
        AdaptedModel(hybrid, is_frozen=True).eval(), new_batch((-1,)), Searcher(options)
    )
    assert path.scores.keys() == {"decoder", "ctc", "length_bonus"}
    parts = 0.6 * path.scores["decoder"] + 0.4 * path.scores["ctc"] + 0.2 * path.scores["length_bonus"]
    assert path.score == pytest.approx(parts, abs=1e-4)


def test_n_best_are_different_and_in_order(hybrid, new_batch):
    (paths,) = recognise(AdaptedModel(hybrid, is_frozen=True).eval(), new_batch((-1,)))
    assert len({tuple(path.tokens) for path in paths}) == len(paths) == 3
    assert [path.score for path in paths] == sorted((path.score for path in paths), reverse=True)


def test_an_utterance_too_short_for_minlenratio_is_searched_without(hybrid, new_batch, caplog):
    batch, adapted = new_batch((-1,), length=20), AdaptedModel(hybrid, is_frozen=True).eval()
    bounded = recognise(adapted, batch, Searcher(Beam(beam_size=4, minlenratio=-50.0)))
    assert bounded == recognise(adapted, batch, Searcher(Beam(beam_size=4)))
    assert "too short for minlenratio" in caplog.text


@pytest.mark.parametrize("options", [Beam(beam_size=4), Transducer(beam_size=2)])
def test_a_row_that_is_no_longer_wanted_is_left_out(hybrid, transducer, new_batch, new_speech, options):
    base = hybrid if options.kind == "beam" else transducer
    batch = new_batch((-1, -1, -1)) if base is hybrid else new_speech(8000, 7000, 6000)
    adapted, asked = AdaptedModel(base, is_frozen=True).eval(), []

    def is_wanted(row):
        asked.append(row)
        return row != 1 or asked.count(1) < 3  # ends in the middle of its search

    with torch.inference_mode(), adapted.hooked():
        found = dict(adapted.recognise_rows(batch, Searcher(options), is_wanted))
    assert (found.keys(), asked.count(1)) == ({0, 2}, 3)


def test_no_frames_are_no_tokens(hybrid):
    ((_, (path,)),) = SEARCHER.find(hybrid.model, torch.zeros(1, 5, 16), torch.tensor([0]), [0])
    assert (path.tokens, path.score) == ([], 0.0)
