"""The likelihood of a model's own text, of every kind of model."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from adaptkit.base.search.greedy import collapse
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import search


def measure(base, batch):
    """Return the likelihoods of a batch, its best paths, and the numbers of encoder frames."""
    adapted = AdaptedModel(base, is_frozen=True).eval()
    with torch.inference_mode(), adapted.hooked():
        frames = adapted.encode(batch)[1].tolist()
        return adapted.own_likelihoods(batch), list(search(adapted, batch).values()), frames


def test_of_ctc_it_is_the_sum_over_all_alignments_of_the_greedy_text(base, new_batch):
    batch = new_batch([-1], length=19)  # 4 encoder frames
    adapted = AdaptedModel(base, is_frozen=True).eval()
    with torch.inference_mode(), adapted.hooked():
        scores = base.model.ctc.log_softmax(adapted.encode(batch)[0])[0].double()
    text = collapse(scores.argmax(-1))
    total = sum(
        math.exp(sum(float(scores[frame, token]) for frame, token in enumerate(path)))
        for path in itertools.product(range(scores.shape[1]), repeat=len(scores))
        if collapse(torch.tensor(path)) == text
    )
    ((found,), _, (num_frames,)) = measure(base, batch)
    assert num_frames == len(scores)
    assert found == pytest.approx(math.log(total) / num_frames, abs=1e-6)


def test_of_a_transducer_it_is_the_loss_of_its_own_text(transducer, new_speech):
    batch = new_speech(9000)
    ((found,), (path,), (num_frames,)) = measure(transducer, batch)
    tokens = torch.tensor([path.tokens or [0]])
    own = replace(batch, tokens=tokens, token_lengths=torch.tensor([len(path.tokens)]))
    adapted = AdaptedModel(transducer, is_frozen=True).eval()
    with torch.inference_mode(), adapted.hooked():
        loss = float(adapted.loss(own))
    assert found == pytest.approx(-loss / num_frames, rel=1e-5)


def test_of_attention_alone_it_is_the_score_per_token_and_end_mark(attention, new_batch):
    (found, paths, _) = measure(attention, new_batch([-1, -1], length=40))
    assert found == pytest.approx([path.score / (len(path.tokens) + 1) for path in paths])


@pytest.mark.parametrize("kind", ["base", "hybrid", "attention"])
def test_a_row_has_the_same_likelihood_in_any_batch(kind, request, new_batch):
    base, batch = request.getfixturevalue(kind), new_batch([-1, -1, -1])
    together = measure(base, batch)[0]
    alone = [measure(base, batch.rows([row]))[0][0] for row in range(3)]
    assert together == pytest.approx(alone, abs=1e-5)


def test_each_row_is_measured_with_the_weights_of_its_task(base, new_stack, new_batch):
    adapted = AdaptedModel(base, new_stack(base, "full", is_trained=True)).eval()  # a pass for each task
    batch = new_batch([0], length=40)
    with torch.inference_mode(), adapted.hooked():
        together = adapted.own_likelihoods(batch.repeated([-1, 2, 0]))
        alone = [adapted.own_likelihoods(batch.repeated([task]))[0] for task in (-1, 2, 0)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len({round(one, 3) for one in together}) == 3
