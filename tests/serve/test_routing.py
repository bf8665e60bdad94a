"""What the server answers if nobody says who speaks."""

import asyncio

import pytest
import torch

from adaptkit.adapters.per_task import SHARED
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.submodels import files
from adaptkit.tensors import read_tensors, write_tensors

EMBEDDINGS = "+speakers.safetensors"


@pytest.fixture
def voices(adaptkit, base_dir, folder, corpus):
    """Write the embeddings of the three speakers to the folder, and give their path."""
    words = ("--base", base_dir, "--device", "cpu")
    done = adaptkit("submodels", "embed", folder, corpus / "dump/train", *words)
    assert done.exit_code == 0, done.stderr
    return folder / EMBEDDINGS


def route(response):
    """Return who was chosen, and check it against the Submodel that was used."""
    assert response.status_code == 200, response.text
    answer = response.json()
    used = answer["submodel"]
    assert (used["task"] if used else "(base)") == answer["route"]["chosen"]
    return answer["route"]["chosen"]


@pytest.mark.parametrize("method", ["likelihood", "embedding"])
def test_a_request_without_a_speaker_is_answered_as_decoding_with_the_chosen_one(
    serve, voices, recordings, decoded, method
):
    server = serve(unknown_speaker=method, route_nearest=2 if method == "likelihood" else None)
    for utt_id in ("spk1-00", "spk10-01", "spk2-02"):
        for speaker in (None, "stranger"):
            response = server.post(recordings[utt_id], speaker)
            name = route(response)
            text, score = decoded[utt_id, None if name == "(base)" else name]
            assert response.json()["text"] == text
            assert response.json()["score"] == pytest.approx(score, abs=1e-3)
            assert response.json()["speaker"] == speaker


def test_a_known_speaker_is_not_routed(serve, voices, recordings):
    answer = serve(unknown_speaker="embedding").post(recordings["spk1-00"], "spk2").json()
    assert (answer["submodel"]["task"], answer["route"]) == ("spk2", None)
    assert answer["timings"]["route_ms"] < answer["timings"]["total_ms"]


def test_named_and_unnamed_requests_share_batches_and_do_not_affect_each_other(serve, voices, recordings):
    server = serve(unknown_speaker="likelihood", submodel_mb=4 * 1184 / 2**20 + 0.001, route_nearest=3)
    assert server.service.cache.num_slots == 4
    alone = {utt_id: server.post(recordings[utt_id]).json() for utt_id in list(recordings)[:8]}

    async def talk(client):
        asked = [client.post("/v1/recognize", content=recordings[utt_id]) for utt_id in alone]
        asked += [client.post("/v1/recognize", content=body, params={"speaker": "spk2"})
                  for body in list(recordings.values())[:4]]  # fmt: skip
        return await asyncio.gather(*asked)

    answers = [response.json() for response in server.run(talk)]
    for utt_id, found in zip(alone, answers, strict=False):
        assert found["route"] == alone[utt_id]["route"]
        assert found["text"] == alone[utt_id]["text"]
    assert {answer["submodel"]["task"] for answer in answers[8:]} == {"spk2"}


def test_a_submodel_added_later_is_chosen_once_it_has_an_embedding(
    serve, voices, add, base, recordings, caplog
):
    server = serve(unknown_speaker="embedding", refresh_sec=1000)
    add("anna")
    server.service._look()
    assert "anna have no embedding and are never chosen" in caplog.text
    tensors, header = read_tensors(voices)
    anna = {"tasks": ["spk1", "spk10", "anna"]}  # in place of spk2
    write_tensors(voices, tensors, {**header, **anna})
    before = route(server.post(recordings["spk2-00"]))
    server.service._look()
    assert (before, route(server.post(recordings["spk2-00"]))) == ("spk2", "anna")


def test_embeddings_that_are_damaged_later_leave_the_earlier_ones_in_use(serve, voices, recordings, caplog):
    server = serve(unknown_speaker="embedding", refresh_sec=1000)
    before = route(server.post(recordings["spk2-00"]))
    voices.write_bytes(voices.read_bytes()[:-9])
    server.service._look()
    assert "the earlier embeddings stay in use" in caplog.text
    assert route(server.post(recordings["spk2-00"])) == before


def test_a_chosen_submodel_that_is_gone_gives_way_to_the_next(serve, voices, folder, recordings):
    server = serve(unknown_speaker="embedding", refresh_sec=1000)
    first = server.post(recordings["spk2-00"]).json()["route"]
    server.service.speakers.refresh()
    (folder / files.file_name(first["chosen"])).unlink()
    for task in server.service.cache.resident():  # as if it had never been loaded
        server.service.cache._slots.drop(task)
    assert route(server.post(recordings["spk2-00"])) == first["runner_up"]


@pytest.mark.parametrize("speaker", [None, "stranger"])
def test_the_shared_submodel_serves_whoever_is_not_known(serve, add, audio, speaker):
    add(SHARED)
    answer = serve(unknown_speaker="shared").post(audio(), speaker).json()
    assert (answer["submodel"]["task"], answer["route"]) == (SHARED, None)


def test_what_cannot_be_chosen_from_is_refused_at_the_start(serve, voices, folder):
    cases = [
        ({"unknown_speaker": "shared"}, "has no Submodel 'shared'; use '--unknown-speaker base'"),
        ({"unknown_speaker": "embedding", "route_nearest": 2}, "--route-nearest: no effect with"),
        (
            {"unknown_speaker": "likelihood", "submodel_mb": 0.005},
            "compares 9 Submodels of 1,184 bytes beside 0 preloaded, but only 4 fit in memory; raise "
            "--submodel-mb to 1, or set --route-nearest to 3",
        ),
    ]
    for changes, message in cases:
        with pytest.raises(ConfigError, match=message):
            serve(**changes)
    serve(unknown_speaker="likelihood", submodel_mb=0.005, route_nearest=3)
    voices.unlink()
    with pytest.raises(
        CheckpointError, match=r"\+speakers.safetensors: no such file; 'adaptkit submodels embed"
    ):
        serve(unknown_speaker="embedding")


def test_silence_that_fits_nothing_is_refused(serve, voices, audio):
    server = serve(unknown_speaker="likelihood", route_nearest=2)
    response = server.post(audio(torch.full((4000,), torch.inf).numpy(), subtype="FLOAT"))
    assert response.status_code in (400, 415, 422)
    assert route(server.post(audio())) is not None
