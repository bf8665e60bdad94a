"""The folder of Submodels changes while the server runs, and holds files that cannot be used."""

import asyncio
import os
import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import safetensors.torch
import torch

from adaptkit.errors import AdaptkitError
from adaptkit.search_options import Greedy, SearchRequest
from adaptkit.serve.watch import Watch
from adaptkit.submodels import files
from adaptkit.submodels.folder import SubmodelFolder


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
    (folder / files.file_name("spk1")).unlink()
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


def test_an_answer_tells_of_the_submodel_that_was_used(serve, folder, audio):
    server, path = serve(refresh_sec=1000), folder / files.file_name("spk1")
    assert server.post(audio(), "spk1").json()["submodel"]["step"] == 7
    files.write(folder, replace(files.read(path), step=8))
    assert server.post(audio(), "spk1").json()["submodel"]["step"] == 7
    path.unlink()
    assert server.post(audio(), "spk1").json()["submodel"]["step"] == 7
    files.write(folder, replace(files.read(folder / files.file_name("spk2")), task="spk1", step=9))
    server.service.speakers.refresh()
    assert server.post(audio(), "spk1").json()["submodel"]["step"] == 9


@pytest.mark.parametrize(("unknown", "status"), [("error", 404), ("base", 200)])
def test_a_submodel_removed_since_the_last_look_is_unknown(serve, folder, audio, unknown, status):
    server = serve(refresh_sec=1000, unknown_speaker=unknown)
    (folder / files.file_name("spk1")).unlink()
    found = [server.post(audio(), "spk1") for _ in range(2)]
    assert [response.status_code for response in found] == [status, status]
    assert unknown == "error" or found[0].json()["score"] == server.post(audio()).json()["score"]


def test_a_deeply_nested_header_ends_neither_the_start_nor_the_watch(serve, add, folder, audio):
    spoil = partial(safetensors.torch.save_file, {"a": torch.zeros(1)}, metadata={"adaptkit": "[" * 100_000})
    spoil(folder / "one.safetensors")
    server = serve()
    spoil(folder / "two.safetensors")
    add("new")
    poll(server, until=lambda response: response.status_code == 200, post=(audio(), "new"))
    assert server.get("/health").json()["ready"]
    problems = {one["name"]: one["reason"] for one in server.get("/v1/submodels").json()["problems"]}
    assert problems.keys() == {"one", "two"}
    assert "one.safetensors: a safetensors file, but not written by adaptkit" in problems["one"]


def test_a_watch_outlives_any_error_and_logs_it_once(caplog):
    looks = []

    def look():
        looks.append(None)
        raise ValueError("of ours")

    watch = Watch(look, 0.001, name="watch")
    watch.start()
    deadline = time.monotonic() + 20
    while len(looks) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert watch.is_alive
    watch.close()
    assert caplog.text.count("ValueError: of ours") == 1
    assert not watch.is_alive


def test_names_that_are_no_utf8_are_escaped(serve, add, folder, audio):
    add("lone\ud800")
    (folder / os.fsdecode(b"\xe9a.safetensors")).write_bytes(b"nothing")
    server = serve()
    listed = server.get("/v1/submodels").json()
    assert "lone\\ud800" in [one["speaker"] for one in listed["known"]]
    (problem,) = listed["problems"]
    assert problem["name"] == "\\udce9a.safetensors"
    assert problem["reason"].startswith("\\udce9a.safetensors: damaged or truncated")
    refused = server.post(audio(), "lone")
    assert refused.status_code == 404
    assert "did you mean 'lone\\ud800'" in refused.json()["message"]


def test_a_truncated_submodel_is_409_with_the_reason_and_without_paths(serve, folder, audio):
    path = folder / files.file_name("spk1")
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
    flip_a_bit(folder / files.file_name("spk10"))
    server, speakers = serve(), ["spk1", "spk10", "spk2", "spk10", None] * 4

    async def talk(client):
        params = [{} if speaker is None else {"speaker": speaker} for speaker in speakers]
        posts = (client.post("/v1/recognize", params=one, content=audio()) for one in params)
        return await asyncio.gather(*posts)

    statuses = [response.status_code for response in server.run(talk)]
    assert statuses == [409 if speaker == "spk10" else 200 for speaker in speakers]
    assert [one["name"] for one in server.get("/v1/submodels").json()["problems"]] == ["spk10"]


def test_a_damaged_submodel_is_409_also_where_unknown_speakers_get_the_base(serve, folder, audio):
    flip_a_bit(folder / files.file_name("spk10"))
    assert serve(unknown_speaker="base").post(audio(), "spk10").status_code == 409


def test_a_score_that_is_not_finite_is_422_and_the_others_are_served(serve, folder, audio):
    path = folder / files.file_name("spk10")
    sound = files.read(path)
    spoilt = {name: torch.full_like(weight, torch.nan) for name, weight in sound.weights.items()}
    files.write(folder, files.Submodel(**{**vars(sound), "weights": spoilt}))
    server, speakers = serve(), ["spk1", "spk10", "spk2"] * 5

    async def talk(client):
        posts = (client.post("/v1/recognize", params={"speaker": s}, content=audio()) for s in speakers)
        return await asyncio.gather(*posts)

    responses = server.run(talk)
    expected = [422 if speaker == "spk10" else 200 for speaker in speakers]
    assert [response.status_code for response in responses] == expected
    assert "with the Submodel of 'spk10' is not finite" in responses[1].json()["message"]
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
        ({"submodel_mb": 0.001}, "raise --submodel-mb to 1"),
        ({"preload": ("spk1",), "submodel_mb": 0.0015}, "room for others: 1 Submodel .*, and 1 fit in"),
    ],
)
def test_what_memory_cannot_hold_is_refused_at_the_start(serve, changes, message):
    with pytest.raises(AdaptkitError, match=message):
        serve(**changes)


def test_a_base_model_that_cannot_be_searched_is_refused_at_the_start(serve, new_base, replace_folder):
    base = new_base(model_conf={"ctc_weight": 0.0}, decoder="transformer", decoder_conf={"num_blocks": 1})
    replace_folder(base=base, bottleneck=4)
    with pytest.raises(AdaptkitError, match="has no CTC"):
        serve(base, search=SearchRequest(Greedy()))


@pytest.mark.parametrize("kind", ["fifo", "folder", "dangling", "loop", "device"])
def test_what_is_no_regular_file_is_a_problem_and_blocks_nobody(server, folder, audio, kind):
    path = folder / files.file_name("odd")
    make = {
        "fifo": os.mkfifo,
        "folder": os.mkdir,
        "dangling": partial(os.symlink, "nowhere"),
        "loop": lambda path: os.symlink(path.name, path),
        "device": partial(os.symlink, "/dev/zero"),
    }
    make[kind](path)
    refused = poll(server, until=lambda response: response.status_code == 409, post=(audio(), "odd"))
    assert "odd" in refused.json()["message"]
    assert server.get("/health").json()["ready"]
    assert server.post(audio(), "spk1").status_code == 200


def test_a_file_that_becomes_a_fifo_while_known_blocks_nobody(server, folder, audio):
    path = folder / files.file_name("spk1")
    path.unlink()
    os.mkfifo(path)
    assert server.post(audio(), "spk1").status_code == 409
    assert server.post(audio(), "spk10").status_code == 200


def test_a_file_that_is_never_read_ends_its_own_requests_alone(serve, audio, monkeypatch):
    monkeypatch.setattr("adaptkit.submodels.cache.LOAD_SEC", 0.5)
    server, going_on = serve(), threading.Event()
    read = SubmodelFolder.read

    def hang(self, file):
        if file.task == "spk1":  # as on a lost network drive
            going_on.wait(60)
        return read(self, file)

    monkeypatch.setattr(SubmodelFolder, "read", hang)
    try:
        response = server.post(audio(), "spk1")
        assert response.status_code in (200, 409, 504)
        assert "not read within 0.5 s" in response.text
        assert server.get("/metrics").status_code == 200
        assert server.post(audio(), "spk2").status_code == 200
    finally:
        going_on.set()


def test_a_speaker_without_a_submodel_has_the_shared_one_if_there_is_one(serve, add, audio, caplog):
    add("shared")
    caplog.set_level("INFO")
    server = serve()
    assert caplog.text.count("4 Submodels; 'shared' serves every speaker without one") == 1
    unknown, own = (server.post(audio(), name).json() for name in ("nobody", "spk1"))
    assert (unknown["speaker"], unknown["submodel"]["task"]) == ("nobody", "shared")
    assert unknown["score"] == server.post(audio(), "shared").json()["score"] != own["score"]


def test_a_speaker_whose_submodel_is_gone_has_the_shared_one(serve, add, folder, audio):
    add("shared")
    server = serve(refresh_sec=1000)
    (folder / files.file_name("spk1")).unlink()
    found = [server.post(audio(), "spk1").json()["submodel"]["task"] for _ in range(2)]
    assert found == ["shared", "shared"]


def test_the_base_is_preferred_to_a_shared_submodel_where_it_is_asked_for(serve, add, audio):
    add("shared")
    assert serve(unknown_speaker="base").post(audio(), "nobody").json()["submodel"] is None
