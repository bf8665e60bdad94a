"""The folder of Submodels changes while the server runs, and holds files that cannot be used."""

import asyncio
import time

import pytest
import torch

from adaptkit.errors import AdaptkitError
from adaptkit.submodels import files as submodel_file
from adaptkit.submodels.watch import SubmodelFolder

pytestmark = pytest.mark.espnet


def poll(server, *, until, post):
    """Ask until the answer is as it should become; give it."""
    deadline = time.monotonic() + 20
    while True:
        response = server.post(*post)
        if until(response):
            return response
        assert time.monotonic() < deadline, response.text


def test_a_new_submodel_is_picked_up(server, add, audio):
    assert server.post(audio(), "new").status_code == 404
    add("new")
    response = poll(server, until=lambda response: response.status_code == 200, post=(audio(), "new"))
    assert response.json()["submodel"]["task"] == "new"


def test_a_replaced_submodel_is_used_from_then_on(server, add, audio):
    add("new")
    known = poll(server, until=lambda response: response.status_code == 200, post=(audio(), "new"))
    before = known.json()["score"]
    add("new", seed=9)
    poll(server, until=lambda response: response.json()["score"] != before, post=(audio(), "new"))


def test_a_removed_submodel_is_unknown_from_then_on(server, folder, audio):
    assert server.post(audio(), "spk1").status_code == 200
    (folder / submodel_file.file_name("spk1")).unlink()
    poll(server, until=lambda response: response.status_code == 404, post=(audio(), "spk1"))
    assert server.post(audio(), "spk10").status_code == 200


def test_a_folder_that_is_away_for_a_while_does_no_harm(server, folder, audio, caplog):
    folder.rename(folder.with_name("away"))
    deadline = time.monotonic() + 20
    while "no such file or folder" not in caplog.text and time.monotonic() < deadline:
        server.get("/health")
    folder.with_name("away").rename(folder)
    assert server.post(audio(), "spk1").status_code == 200
    assert caplog.text.count("no such file or folder") == 1


def test_a_truncated_submodel_is_409_with_the_reason_and_without_paths(serve, folder, audio):
    path = folder / submodel_file.file_name("spk1")
    path.write_bytes(path.read_bytes()[:-10])
    server = serve()
    response = server.post(audio(), "spk1")
    assert response.status_code == 409
    assert "the Submodel of 'spk1' cannot be used: spk1.safetensors" in response.json()["message"]
    assert str(folder) not in response.json()["message"]
    assert server.post(audio(), "spk2").status_code == 200


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_one_damaged_submodel_in_a_batch_is_409_and_the_others_are_served(serve, folder, audio):
    flip_a_bit(folder / submodel_file.file_name("spk10"))
    server, speakers = serve(), ["spk1", "spk10", "spk2", "spk10", None] * 4

    async def talk(client):
        params = [{} if speaker is None else {"speaker": speaker} for speaker in speakers]
        posts = (client.post("/v1/recognize", params=one, content=audio()) for one in params)
        return await asyncio.gather(*posts)

    statuses = [response.status_code for response in server.run(talk)]
    assert statuses == [409 if speaker == "spk10" else 200 for speaker in speakers]
    assert [one["name"] for one in server.get("/v1/submodels").json()["problems"]] == ["spk10"]


def test_a_damaged_submodel_is_409_also_where_unknown_speakers_get_the_base(serve, folder, audio):
    flip_a_bit(folder / submodel_file.file_name("spk10"))
    assert serve(unknown_speaker="base").post(audio(), "spk10").status_code == 409


def test_a_score_that_is_not_finite_is_422_and_the_others_are_served(serve, folder, audio):
    path = folder / submodel_file.file_name("spk10")
    sound = submodel_file.read(path)
    spoilt = {name: torch.full_like(weight, torch.nan) for name, weight in sound.weights.items()}
    submodel_file.write(folder, submodel_file.Submodel(**{**vars(sound), "weights": spoilt}))
    server, speakers = serve(), ["spk1", "spk10", "spk2"] * 5

    async def talk(client):
        posts = (client.post("/v1/recognize", params={"speaker": s}, content=audio()) for s in speakers)
        return await asyncio.gather(*posts)

    responses = server.run(talk)
    expected = [422 if speaker == "spk10" else 200 for speaker in speakers]
    assert [response.status_code for response in responses] == expected
    assert "the Submodel of 'spk10' gives this audio is not finite" in responses[1].json()["message"]
    assert len({r.json()["score"] for r in responses if r.status_code == 200}) < 10


def test_submodels_are_listed_with_those_in_memory(server, audio):
    server.post(audio(), "spk2")
    listed = server.get("/v1/submodels").json()
    assert {one["speaker"]: one["resident"] for one in listed["known"]} == {
        "spk1": False,
        "spk10": False,
        "spk2": True,
    }
    assert listed["num_slots"] > 3


def test_preloaded_submodels_are_in_memory_and_stay(serve, base, folder, recordings):
    bytes_each = SubmodelFolder(folder, base).bytes_each
    server = serve(submodel_mb=2 * bytes_each / 2**20, preload=("spk10",))
    for speaker in ("spk1", "spk2", "spk1", "spk2"):
        assert server.post(recordings["spk1-00"], speaker).status_code == 200
    known = server.get("/v1/submodels").json()["known"]
    assert {one["speaker"]: one["resident"] for one in known} == {"spk1": False, "spk10": True, "spk2": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preload": ("nobody",)}, "nobody"),
        ({"preload": ("spk1",), "submodel_mb": 0.001}, "leave none of the 1 slots"),
    ],
)
def test_preloading_what_cannot_be_is_refused_at_the_start(serve, changes, message):
    with pytest.raises(AdaptkitError, match=message):
        serve(**changes)


def test_a_base_model_that_cannot_be_searched_is_refused_at_the_start(serve, new_base, replace_folder):
    base = new_base(model_conf={"ctc_weight": 0.0}, decoder="transformer", decoder_conf={"num_blocks": 1})
    replace_folder(base=base, bottleneck=4)
    with pytest.raises(AdaptkitError, match="has no CTC"):
        serve(base)
