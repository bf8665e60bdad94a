"""Beam searches in a server: n best, and requests that leave while theirs is searched."""

import asyncio

import pytest
import torch

from adaptkit.base.search.choose import new_searcher
from adaptkit.data.dataset import read_examples
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import recognise
from adaptkit.search_options import Beam, SearchRequest
from adaptkit.serve.batching import Waiting
from tests.fixtures.models import SPEAKERS

SEARCH = SearchRequest(Beam(beam_size=4, nbest=3))
DECODER = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}


@pytest.fixture(scope="module")
def hybrid(new_base):
    return new_base(decoder="transformer", decoder_conf=DECODER, model_conf={"ctc_weight": 0.3})


@pytest.fixture
def server(serve, hybrid, replace_folder):
    replace_folder(base=hybrid, bottleneck=4)
    return lambda **changes: serve(hybrid, **{"search": SEARCH, **changes})


@pytest.fixture
def asking(server):
    """Ask a server of n best for some, of the base model or of a speaker."""
    started = server()

    def ask(body, speaker=None, **params):
        params |= {} if speaker is None else {"speaker": speaker}
        return started.post(body, params=params)

    return ask


@pytest.fixture(scope="module")
def found(hybrid, corpus):
    """What `decode` finds, before a server uses the model."""
    examples, adapted = (
        read_examples(corpus / "dump/train", hybrid),
        AdaptedModel(hybrid, is_frozen=True).eval(),
    )
    with adapted.hooked():
        return recognise(adapted, examples, 12000, searcher=new_searcher(hybrid, SEARCH))


def test_requests_are_searched_as_decode_does(found, server, recordings):
    started = server(unknown_speaker="base")
    for hypothesis in found:
        answer = started.post(recordings[hypothesis.utt_id], params={"nbest": 3}).json()
        assert answer["text"] == hypothesis.text
        scores = [path.score for path in hypothesis.nbest]
        assert [one["score"] for one in answer["nbest"]] == pytest.approx(scores, abs=1e-3)


def test_n_best_are_given_if_asked_for(asking, audio):
    plain, best, two = (
        asking(audio(), "spk1", **params).json() for params in ({}, {"nbest": 1}, {"nbest": 2})
    )
    assert plain["nbest"] is None
    assert [len(answer["nbest"]) for answer in (best, two)] == [1, 2]
    assert two["nbest"][0] == {"text": two["text"], "score": two["score"]} == best["nbest"][0]


@pytest.mark.parametrize(
    ("nbest", "message"),
    [
        (4, "this server finds 3; ask for fewer, or start it with"),
        (0, "nbest: Input should be greater"),
        ("a", "nbest"),
    ],
)
def test_more_than_the_server_finds_is_400(asking, audio, nbest, message):
    answer = asking(audio(), nbest=nbest)
    assert answer.status_code == 400
    assert message in answer.json()["message"]


def test_rows_that_nobody_waits_for_are_not_searched(server, until):
    service = server(search=SearchRequest(Beam(beam_size=4, ctc_weight=0.0, maxlenratio=1.0))).service
    feats = torch.randn(400, 20, generator=torch.Generator().manual_seed(0))
    left, short = [Waiting(feats, 400, "spk1") for _ in range(8)], Waiting(feats[:40], 40, "spk1")
    for item in left:
        service.queue.put(item)
    until(lambda: len(service.queue) == 0)  # all are taken
    for item in left:
        service.queue.drop(item)
    service.queue.put(short)
    assert len(short.found.result(timeout=20).nbest) == 1
    assert not left[-1].found.done() or left[-1].found.cancelled()


def test_rows_of_a_batch_are_answered_with_their_own_speakers(server, audio):
    async def talk(client):
        params = [{"speaker": speaker} for speaker in SPEAKERS]
        return await asyncio.gather(
            *(client.post("/v1/recognize", params=one, content=audio()) for one in params)
        )

    answers = [answer.json() for answer in server().run(talk)]
    assert [answer["submodel"]["task"] for answer in answers] == list(SPEAKERS)
