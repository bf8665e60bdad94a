"""Speakers and their recordings, as the routes keep them: Kaldi data directories."""

import io
import json
import os
import resource
import threading

import httpx
import numpy as np
import pytest
import soundfile
import torch

from adaptkit.errors import AdaptkitError
from adaptkit.kaldi import datadir, validate
from adaptkit.serve.enrollment import recordings as module
from adaptkit.serve.enrollment.recordings import Recorded, Recordings
from adaptkit.serve.schemas import Refusal


@pytest.fixture
def anna(desk):
    """A server with a speaker."""
    started = desk()
    started.ask("PUT", "/speakers/anna")
    return started


@pytest.fixture
def speech(recordings):
    """A recording of AB."""
    return recordings["spk1-00"]


def test_a_speaker_is_made_once(desk):
    started = desk()
    found = [started.ask("PUT", "/speakers/anna") for _ in range(2)]
    assert [response.status_code for response in found] == [201, 200]
    assert found[1].json() == {
        "speaker": "anna",
        "has_submodel": False,
        "audio_sec": 0.0,
        "recordings": [],
        "job": None,
    }
    assert started.ask("GET", "/speakers").json()["speakers"] == [found[1].json()]


def test_prompts_are_listed(desk):
    listed = desk().ask("GET", "/prompts").json()["prompts"]
    assert len(listed) == 8
    assert listed[1] == {"id": "p1", "text": "C A"}


def test_recordings_are_a_data_directory(anna, recordings):
    made = [anna.record("anna", recordings[f"spk1-0{n}"], prompt=f"p{n}").json() for n in range(3)]
    folder = anna.folder / "anna"
    assert validate.find_problems(folder) == []
    read = datadir.read(folder)
    assert [u.text for u in read.utterances] == ["AB", "C A", "BA"]
    assert [u.utt_id for u in read.utterances] == [f"anna-{one['id']}" for one in made]
    assert anna.list("anna") == made
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["spk2utt", "text", "utt2dur", "utt2kind", "utt2spk", "wav", "wav.scp"]
    )


def test_a_second_recording_of_a_prompt_replaces_the_first(anna, recordings):
    first = anna.record("anna", recordings["spk1-00"], prompt="p0").json()
    second = anna.record("anna", recordings["spk10-00"], prompt="p0").json()
    assert anna.list("anna") == [second]
    assert [path.stem for path in (anna.folder / "anna/wav").iterdir()] == [second["id"]] != [first["id"]]


def test_a_recording_can_be_played_and_removed(anna, speech):
    made = anna.record("anna", speech, text="AB").json()
    place = f"/speakers/anna/recordings/{made['id']}"
    played = anna.ask("GET", place)
    samples, rate_hz = soundfile.read(io.BytesIO(played.content))
    assert (played.headers["content-type"], rate_hz) == ("audio/wav", 8000)
    np.testing.assert_allclose(samples, soundfile.read(io.BytesIO(speech))[0], atol=1e-4)
    assert anna.ask("DELETE", place).status_code == 204
    assert anna.ask("GET", place).status_code == 404
    assert anna.list("anna") == list((anna.folder / "anna/wav").iterdir()) == []


def test_a_correction_is_kept_as_one(anna, speech):
    form = {"files": {"file": speech}, "data": {"text": "ab,  b.", "speaker": "anna"}}
    made = anna.ask("POST", "/corrections", **form)
    assert made.status_code == 201
    assert (made.json()["kind"], made.json()["text"], made.json()["prompt"]) == ("correction", "AB B", None)
    assert anna.list("anna") == [made.json()]


def test_all_of_a_speaker_is_removed(desk, speech, add):
    anna = desk()
    add("anna")
    anna.ask("PUT", "/speakers/anna")
    anna.record("anna", speech, text="AB")
    assert anna.ask("GET", "/speakers/anna").json()["has_submodel"]
    assert anna.ask("DELETE", "/speakers/anna").status_code == 204
    assert anna.ask("GET", "/speakers").json() == {"speakers": []}
    assert anna.server.post(speech, "anna").status_code == 404
    assert list(anna.folder.iterdir()) in ([], [anna.folder / ".jobs"])
    assert anna.ask("DELETE", "/speakers/anna").status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".anna",
        "a%2Fb",
        "a%20b",
        "%2e%2e%2fx",
        "shared",
        "base",
        "x" * 101,
        "a%00b",
        "-rf",
        "a%5Cb",
        "%E3%80%80",
    ],
)
def test_names_are_never_paths(desk, name, tmp_path, content):
    started, before = desk(), content(tmp_path)
    response = started.ask("PUT", f"/speakers/{name}")
    assert response.status_code in (404, 405, 422)
    assert set(response.json()) == {"status", "message"}
    assert {path for path in content(tmp_path).keys() ^ before.keys() if not path.endswith("/.lock")} == set()


@pytest.mark.parametrize("name", ["Zoë", "anna", "Anna", "a+b", "%25", "李"])
def test_names_come_back_as_they_were(desk, name):
    started = desk()
    quoted = name if name == "%25" else httpx.URL(f"http://x/{name}").raw_path.decode()[1:]
    made = started.ask("PUT", f"/speakers/{quoted}").json()
    assert [one["speaker"] for one in started.ask("GET", "/speakers").json()["speakers"]] == [made["speaker"]]
    assert made["speaker"] == {"%25": "%"}.get(name, name)


def test_what_is_unknown_is_refused(anna, speech):
    assert "PUT /v1/speakers/bob" in anna.record("bob", speech, text="AB").json()["message"]
    for path in ("/speakers/bob", "/speakers/anna/recordings/x", "/speakers/anna/recordings/..%2Ftext"):
        assert anna.ask("GET", path).status_code == 404
    for prompt in ("p99", "../../x"):
        refused = anna.record("anna", speech, prompt=prompt)
        assert refused.status_code == 422
        assert "GET /v1/prompts" in refused.json()["message"] or "did you mean" in refused.json()["message"]
    assert anna.list("anna") == []


@pytest.mark.parametrize("path", ["/speakers", "/prompts", "/speakers/anna/enroll"])
def test_without_a_folder_the_remedy_is_named(server, path):
    response = server.get(f"/v1{path}")
    assert response.status_code == 404
    assert "--enroll DIR --prompts FILE" in response.json()["message"]


def tone(level=0.3, seconds=1.0):
    return level * np.sin(np.arange(round(seconds * 8000)) * 0.7)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (tone(seconds=0.2), "too short for speech"),
        (tone(level=0.001), "almost silent"),
        (np.zeros(8000), "almost silent"),
        (np.clip(tone(level=3), -0.999, 0.999), "overdriven"),
        (tone(seconds=0.35), "too short for its text"),
    ],
)
def test_unusable_recordings_are_refused_with_a_remedy(anna, audio, samples, said):
    refused = anna.record("anna", audio(samples), text="ABC ABC ABC")
    assert (refused.status_code, said in refused.json()["message"]) == (422, True), refused.text
    assert anna.list("anna") == []


@pytest.mark.parametrize("text", ["", "ab 7", "a & b", "...", "A" * 2000, "\0"])
def test_texts_that_the_model_cannot_write_are_refused(anna, speech, text):
    assert anna.record("anna", speech, text=text).status_code == 422


@pytest.mark.parametrize(("text", "kept"), [("“Ab”!", "AB"), ("a-b", "A B"), ("a'b a’b", "AB AB")])
def test_texts_are_respelled_as_the_model_writes_them(anna, speech, text, kept):
    assert anna.record("anna", speech, text=text).json()["text"] == kept


def test_wrong_and_huge_bodies_are_refused_and_the_next_is_served(anna, speech, audio):
    def post(**options):
        return anna.ask("POST", "/speakers/anna/recordings", **options).status_code

    boundary = {"content-type": "multipart/form-data; boundary=x"}
    assert anna.record("anna", b"no audio", text="AB").status_code == 415
    assert anna.record("anna", bytes(2_000_000), text="AB").status_code == 413
    assert anna.record("anna", audio(tone(seconds=11)), text="AB").status_code == 413
    assert anna.record("anna", speech, text="AB", colour="red").status_code == 400
    assert post(content=speech) == 415
    assert post(data={"text": "AB"}, files={"other": b"x"}) == 400
    assert post(content=b"--x\r\nrubbish", headers=boundary) == 400
    assert post(content=b"", headers=boundary) == 400
    assert post(content=b"x", headers={"content-type": "multipart/form-data"}) == 415
    assert anna.record("anna", speech, text="AB").status_code == 201


def test_no_more_recordings_than_the_limit(desk, speech):
    started = desk(most=2)
    started.ask("PUT", "/speakers/anna")
    found = [started.record("anna", speech, prompt=f"p{n}") for n in (0, 5, 7)]
    assert [response.status_code for response in found] == [201, 201, 409]
    assert "--max-recordings" in found[2].json()["message"]
    assert started.record("anna", speech, prompt="p0").status_code == 201


def test_a_thousand_recordings_are_listed_at_once(tmp_path, noise):
    kept = Recordings(tmp_path, most=1001)
    kept.make("anna")
    many = [Recorded(f"{n:018x}", "AB", 1.0) for n in range(999)]
    with kept.changing("anna") as folder:
        module._write(folder, "anna", [], many)
    kept.add("anna", torch.from_numpy(noise()), 8000, Recorded("", "AB", 1.0))
    assert len(kept.read("anna")) == 1000


def test_threads_and_commands_add_to_one_folder_without_loss(tmp_path, noise):
    stores = [Recordings(tmp_path, most=100) for _ in range(2)]
    stores[0].make("anna")
    speech = torch.from_numpy(noise())

    def add(number):
        stores[0].add("anna", speech, 8000, Recorded("", "AB", 0.5, "prompt", f"p{number}"))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.prompt for one in stores[1].read("anna")) == [f"p{number}" for number in range(6)]


@pytest.mark.parametrize("number", range(8))
def test_a_change_that_fails_anywhere_leaves_what_was_there(tmp_path, noise, monkeypatch, number):
    kept, speech = Recordings(tmp_path, most=100), torch.from_numpy(noise())
    kept.make("anna")
    first = kept.add("anna", speech, 8000, Recorded("", "AB", 0.5, "prompt", "p0"))
    written = []

    def fail(path, table):
        written.append(path)
        if len(written) > number:
            raise AdaptkitError("full")
        write_table(path, table)

    write_table = module.write_table
    monkeypatch.setattr(module, "write_table", fail)
    try:
        kept.add("anna", speech, 8000, Recorded("", "BA", 0.5, "prompt", "p0"))
    except AdaptkitError:
        monkeypatch.undo()
    found = kept.read("anna")
    assert len(found) == 1
    assert kept.find("anna", found[0].id).exists()
    assert found == [first] or number >= 6
    kept.add("anna", speech, 8000, Recorded("", "C", 0.5))
    assert len(datadir.read(tmp_path / "anna").utterances) == 2


def test_paths_and_texts_are_in_neither_answers_nor_logs(anna, speech, caplog, tmp_path):
    caplog.set_level("DEBUG")
    anna.record("anna", speech, text="AB CAB")
    folder = anna.folder / "anna"
    (folder / "text").write_bytes(b"\xff")
    answer = anna.ask("GET", "/speakers/anna")
    assert answer.status_code == 500
    assert str(tmp_path) not in answer.text
    assert "AB CAB" not in caplog.text + json.dumps(answer.json())


def test_a_name_that_is_being_removed_is_gone(tmp_path):
    kept = Recordings(tmp_path, most=5)
    kept.make("anna")
    os.mkdir(tmp_path / ".removed-1")
    kept.remove_speaker("anna")
    with pytest.raises(Refusal, match="no speaker 'anna'"):
        kept.read("anna")
    assert Recordings(tmp_path, most=5).names() == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_answer_and_nothing_is_half_there(desk, noise):
    enrollment, speech = desk().server.service.enrollment, torch.from_numpy(noise())
    enrollment.make("anna")
    kept, limits = enrollment._recordings, resource.getrlimit(resource.RLIMIT_FSIZE)
    first = kept.add("anna", speech, 8000, Recorded("", "AB", 0.5, "prompt", "p0"))
    for most_bytes in (1000, 8050, 40):  # for audio, and for tables
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
        try:
            with pytest.raises(AdaptkitError) as error:
                kept.add("anna", speech[:10], 8000, Recorded("", "AB " * 3000, 0.5, "prompt", "p0"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        refusal = enrollment.as_refusal(error.value)
        assert (refusal.status, "disk" in str(refusal), "/" in str(refusal)) == (507, True, False)
        assert kept.read("anna") == [first]
    kept.add("anna", speech, 8000, Recorded("", "BA", 0.5, "prompt", "p0"))
    folder = kept.folder / "anna"
    assert validate.find_problems(folder) == []
    assert [path.suffix for path in (folder / "wav").iterdir()] == [".wav"]


def test_a_speaker_whose_tables_are_damaged_hides_no_other_and_can_be_removed(desk, caplog):
    server = desk()
    for name in ("anna", "bert"):
        assert server.ask("PUT", f"/speakers/{name}").status_code == 201
    (server.folder / "anna/text").write_bytes(b"anna-1 \xff\n")
    answer = server.ask("GET", "/speakers")
    assert answer.status_code == 200, answer.text
    assert [one["speaker"] for one in answer.json()["speakers"]] == ["bert"]
    assert "anna" in caplog.text
    assert server.ask("DELETE", "/speakers/anna").status_code == 204
    assert not (server.folder / "anna").exists()
