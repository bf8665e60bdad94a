"""What the server answers: the words that decoding finds, whoever asks beside whom."""

import asyncio
import contextlib
import itertools
import random

import pytest

from tests.fixtures.models import STREAMING

SPEAKERS = ("spk1", "spk10", "spk2")


@pytest.fixture
def asked(recordings):
    """64 pairs of a recording and whose Submodel hears it, mixed; None is the base."""
    pairs = list(itertools.product(recordings, (*SPEAKERS, None)))
    return random.Random(0).sample(pairs, 64)


def ask_all(server, recordings, asked):
    """Ask all at once; give the answers in order."""

    async def talk(client):
        def ask(utt_id, speaker):
            params = {} if speaker is None else {"speaker": speaker}
            return client.post("/v1/recognize", params=params, content=recordings[utt_id])

        return await asyncio.gather(*(ask(*pair) for pair in asked))

    return server.run(talk, timeout=60)


def ask_together(server, add, recordings, asked):
    """Ask all while the slots are held, so that they wait in the queue at once; give the answers in order."""
    cache, queue = server.service.cache, server.service.queue
    others = [f"other{number}" for number in range(cache.num_slots)]
    for other in others:
        add(other)
    cache.refresh()
    held = contextlib.ExitStack()
    held.enter_context(cache.using(others))

    async def talk(client):
        def ask(utt_id, speaker):
            params = {} if speaker is None else {"speaker": speaker}
            return asyncio.ensure_future(
                client.post("/v1/recognize", params=params, content=recordings[utt_id])
            )

        first = ask(next(iter(recordings)), SPEAKERS[0])
        await server.until(lambda: cache.stats().waits == 1)
        waiting = [ask(*pair) for pair in asked]
        await server.until(lambda: len(queue) == len(asked))
        held.close()
        await first
        return await asyncio.gather(*waiting)

    with held:
        return server.run(talk, timeout=60)


def assert_as_decoded(responses, asked, decoded):
    assert [response.status_code for response in responses] == [200] * len(asked)
    answers = [response.json() for response in responses]
    assert [answer["text"] for answer in answers] == [decoded[pair][0] for pair in asked]
    assert [answer["score"] for answer in answers] == pytest.approx([decoded[p][1] for p in asked], abs=1e-3)
    assert [answer["speaker"] for answer in answers] == [speaker for _, speaker in asked]


def test_submodels_hear_different_things(decoded):
    heard = {speaker: [decoded[u, s] for u, s in decoded if s == speaker] for speaker in (*SPEAKERS, None)}
    for one, other in itertools.combinations(heard.values(), 2):
        assert all(abs(x[1] - y[1]) > 0.1 for x, y in zip(one, other, strict=True))


def test_requests_at_once_are_answered_as_decoded_each_with_its_own_submodel(
    serve, add, recordings, asked, decoded
):
    responses = ask_together(serve(submodel_mb=0.006), add, recordings, asked)
    assert_as_decoded(responses, asked, decoded)
    assert max(r.json()["timings"]["batch_size"] for r in responses) > 8
    assert max(r.json()["timings"]["batch_speakers"] for r in responses) == 3


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{"max_batch": 3}, {"batch_frames": 150}, {"batch_frames": 1}])
def test_small_batches_give_the_same_answers(serve, recordings, asked, decoded, limits):
    responses = ask_all(serve(**limits), recordings, asked)
    assert_as_decoded(responses, asked, decoded)


def test_one_slot_serves_all_speakers_in_turn(serve, recordings, asked, decoded):
    server = serve(submodel_mb=0.0015)
    assert server.service.cache.num_slots == 1
    responses = ask_all(server, recordings, asked)
    assert_as_decoded(responses, asked, decoded)
    assert max(r.json()["timings"]["batch_speakers"] for r in responses) == 1


def test_an_answer_says_what_was_used_and_where_the_time_went(server, base, recordings):
    answer = server.post(recordings["spk1-00"], "spk1").json()
    fingerprint = base.fingerprint[:12]
    assert answer["submodel"] == {
        "task": "spk1",
        "step": 7,
        "kind": "residual",
        "base_fingerprint": fingerprint,
    }
    assert answer["audio_sec"] == pytest.approx(len(recordings["spk1-00"][44:]) / 2 / 8000)
    timings = answer["timings"]
    assert (timings["batch_size"], timings["batch_speakers"]) == (1, 1)
    parts = [timings[f"{part}_ms"] for part in ("features", "queue", "load", "model")]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= timings["total_ms"]


def test_no_speaker_gets_the_base_model(server, recordings, decoded):
    answer = server.post(recordings["spk2-01"]).json()
    assert (answer["text"], answer["speaker"], answer["submodel"]) == (
        decoded["spk2-01", None][0],
        None,
        None,
    )


@pytest.mark.parametrize("format", ["FLAC", "OGG"])
def test_other_formats_are_read(server, audio, format):
    assert server.post(audio(format=format)).status_code == 200


def test_another_rate_is_resampled(server, audio, noise):
    answer = server.post(audio(noise(rate_hz=16000), 16000)).json()
    assert answer["audio_sec"] == 0.5


@pytest.mark.parametrize("num_samples", [1, 100, 400])
def test_audio_too_short_for_the_encoder_has_no_words(server, audio, noise, num_samples):
    answer = server.post(audio(noise()[:num_samples]), "spk1").json()
    assert (answer["text"], answer["score"], answer["submodel"]) == ("", 0.0, None)
    assert answer["timings"]["batch_size"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "bitfit", "hff"])
def test_kinds_that_share_no_pass_are_answered_as_one_by_one(kind, serve, replace_folder, recordings):
    replace_folder(kind=kind)
    server = serve(submodel_mb=4)
    asked = [(utt_id, speaker) for utt_id in list(recordings)[:6] for speaker in (*SPEAKERS, None)]
    together = ask_all(server, recordings, asked)
    alone = [server.post(recordings[utt_id], speaker) for utt_id, speaker in asked]
    assert [r.json()["text"] for r in together] == [r.json()["text"] for r in alone]
    scores = [r.json()["score"] for r in alone]
    assert [r.json()["score"] for r in together] == pytest.approx(scores, abs=1e-3)
    assert len(set(scores)) == len(scores)


@pytest.mark.slow
def test_a_model_of_contextual_blocks_gets_rows_of_one_length(serve, new_base, replace_folder, recordings):
    base = new_base(encoder="contextual_block_transformer", encoder_conf=STREAMING)
    replace_folder(base=base, bottleneck=4)
    server = serve(base)
    asked = [(utt_id, speaker) for utt_id in recordings for speaker in (*SPEAKERS, None)][:64]
    together = ask_all(server, recordings, asked)
    alone = [server.post(recordings[utt_id], speaker).json() for utt_id, speaker in asked]
    assert [r.json()["text"] for r in together] == [answer["text"] for answer in alone]
    scores = [answer["score"] for answer in alone]
    assert [r.json()["score"] for r in together] == pytest.approx(scores, abs=1e-3)
    assert max(r.json()["timings"]["batch_size"] for r in together) > 2


def test_a_server_scales_speech_to_the_peak_of_its_base(serve, new_base, replace_folder, audio, noise):
    frontend = {"n_fft": 128, "hop_length": 80, "fs": 8000, "n_mels": 20}
    reads = {"frontend": "default", "frontend_conf": frontend, "input_size": None, "adaptkit": None}
    base = new_base(**reads, speech_volume_normalize=0.5)
    replace_folder(base=base, bottleneck=4)
    server, speech = serve(base), [audio(share * noise(1.0), subtype="FLOAT") for share in (1, 0.25)]
    loud, quiet = (server.post(body, "spk2").json() for body in speech)
    assert (quiet["text"], quiet["score"]) == (loud["text"], loud["score"])


def test_a_base_that_reads_speech_is_served(serve, new_base, replace_folder, audio, noise):
    frontend = {"n_fft": 128, "hop_length": 80, "fs": 8000, "n_mels": 20}
    base = new_base(frontend="default", frontend_conf=frontend, input_size=None, adaptkit=None)
    replace_folder(base=base, bottleneck=4)
    answer = serve(base).post(audio(noise(1.0)), "spk2").json()
    assert answer["submodel"]["task"] == "spk2"
