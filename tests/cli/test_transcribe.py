"""`adaptkit transcribe` as a user runs it, beside `adaptkit decode` on the same recordings."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit.decoding.recognizer import Recognizer
from adaptkit.kaldi import datadir
from adaptkit.kaldi.tables import read_table


@pytest.fixture
def of_spk10(corpus):
    """The recordings of one speaker, by utterance."""
    data = datadir.read(corpus / "data/valid")
    return {u.utt_id: data.recordings[u.recording] for u in data.utterances if u.speaker == "spk10"}


def texts(done):
    """The texts in lines of json, in their order."""
    assert done.exit_code == 0, done.stderr
    return [json.loads(line)["text"] for line in done.stdout.splitlines()]


def test_files_are_transcribed_as_a_data_directory_is(adaptkit, exp, base_dir, corpus, of_spk10, tmp_path):
    adaptkit("decode", exp, corpus / "dump/valid", "--out", tmp_path / "out")
    expected = read_table(tmp_path / "out/text")

    done = adaptkit("transcribe", *of_spk10.values(), "--exp", exp, "--speaker", "spk10", "--format", "json")

    assert texts(done) == [expected[utt_id] for utt_id in of_spk10]


def test_submodels_and_adapters_transcribe_alike(adaptkit, exp, base_dir, of_spk10, tmp_path):
    adaptkit("submodels", "export", exp, tmp_path / "submodels")
    own, *_ = of_spk10.values()
    more = ["--speaker", "spk10", "--format", "json"]

    one = adaptkit("transcribe", own, "--exp", exp, *more)
    other = adaptkit("transcribe", own, "--base", base_dir, "--submodels", tmp_path / "submodels", *more)

    assert texts(one) == texts(other)


def test_one_file_is_a_line_of_text_and_several_are_named(adaptkit, base_dir, of_spk10):
    first, second, *_ = of_spk10.values()

    alone = adaptkit("transcribe", first, "--base", base_dir)
    both = adaptkit("transcribe", second, first, "--base", base_dir)

    lines = both.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [second, first]
    assert lines[1].split()[1:] == alone.stdout.split()


def test_n_best_are_printed_with_their_scores(adaptkit, base_dir, of_spk10):
    own, *_ = of_spk10.values()
    words = ["--search", "beam", "--search-set", "ctc_weight=1", "--search-set", "beam_size=4"]

    done = adaptkit("transcribe", own, "--base", base_dir, *words, "--nbest", 3, "--format", "json")

    (line,) = map(json.loads, done.stdout.splitlines())
    (segment,) = line["segments"]
    scores = [entry["score"] for entry in segment["nbest"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert (line["text"], line["score"]) == (segment["nbest"][0]["text"], scores[0])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--speaker", "spk1"], 2, "--speaker needs adapters"),
        (
            ["--exp", "EXP"],
            1,
            "the adapters belong to 3 speakers (spk1, spk10, spk2); name one with --speaker",
        ),
        (
            ["--exp", "EXP", "--speaker", "spk3"],
            1,
            "--speaker spk3: has no adapters (with --unknown-speaker base",
        ),
        (["--exp", "EXP", "--submodels", "EXP"], 2, "use one of the two"),
    ],
)
def test_who_speaks_must_be_clear(adaptkit, exp, base_dir, of_spk10, words, code, message):
    own, *_ = of_spk10.values()
    given = [exp if word == "EXP" else word for word in words]

    done = adaptkit("transcribe", own, "--base", base_dir, *given)

    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr


@pytest.mark.parametrize("tasks", [("shared",), ("spk1", "shared")])
@pytest.mark.parametrize("words", [[], ["--speaker", "nobody"], ["--speaker", "shared"]])
def test_a_shared_adapter_transcribes_anyone(adaptkit, new_exp, of_spk10, tasks, words):
    exp, own = new_exp(tasks=tasks), next(iter(of_spk10.values()))

    done = adaptkit("transcribe", own, "--exp", exp, *words)

    expected = adaptkit("transcribe", own, "--exp", exp, "--speaker", "shared")
    assert (done.exit_code, done.stdout) == (0, expected.stdout), done.stderr


@pytest.fixture
def voices(adaptkit, exp, corpus):
    """The embeddings of the experiment's speakers."""
    return adaptkit("submodels", "embed", exp, corpus / "dump/train", "--device", "cpu")


@pytest.mark.parametrize("words", [["likelihood"], ["embedding"], ["likelihood", "--route-nearest", 2]])
def test_unknown_speakers_are_routed_as_decoding_does(
    adaptkit, exp, voices, base_dir, corpus, of_spk10, tmp_path, words
):
    adaptkit("decode", exp, corpus / "dump/valid", "--out", tmp_path / "out", "--route", *words)
    routes = (tmp_path / "out/routes.tsv").read_text().splitlines()
    expected = {line.split()[0]: line.split()[2] for line in routes}

    done = adaptkit("transcribe", *of_spk10.values(), "--exp", exp, "--format", "json", "--route", *words)

    assert done.exit_code == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["submodel"] or "(base)" for line in lines] == [expected[utt_id] for utt_id in of_spk10]


def test_a_name_and_a_route_exclude_each_other(adaptkit, exp, of_spk10):
    own, *_ = of_spk10.values()

    done = adaptkit("transcribe", own, "--exp", exp, "--speaker", "spk1", "--route", "likelihood")

    assert (done.exit_code, done.stdout) == (2, "")
    assert "use one of the two" in done.stderr


def test_a_file_that_is_not_audio_is_named(adaptkit, base_dir, tmp_path):
    (tmp_path / "notes.txt").write_text("no audio")

    for name in ("notes.txt", "missing.wav"):
        done = adaptkit("transcribe", tmp_path / name, "--base", base_dir)
        assert (done.exit_code, done.stdout) == (1, "")
        assert str(tmp_path / name) in done.stderr


def test_n_best_without_json_are_refused(adaptkit, base_dir, of_spk10):
    own, *_ = of_spk10.values()

    done = adaptkit("transcribe", own, "--base", base_dir, "--nbest", 3)

    assert (done.exit_code, done.stdout) == (2, "")
    assert "--nbest needs --format json" in done.stderr


def test_the_submodel_that_was_used_is_named(adaptkit, exp, of_spk10):
    own, *_ = of_spk10.values()
    words = ["--exp", exp, "--unknown-speaker", "base", "--format", "json"]

    known, stranger = (
        json.loads(adaptkit("transcribe", own, *words, "--speaker", name).stdout) for name in ("spk10", "eve")
    )

    assert (known["submodel"], stranger["submodel"]) == ("spk10", None)


@pytest.mark.parametrize(("form", "start"), [("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n00:00:0")])
def test_subtitles_have_the_times_of_the_words(adaptkit, base_dir, of_spk10, form, start):
    own, *_ = of_spk10.values()

    done = adaptkit("transcribe", own, "--base", base_dir, "--format", form)

    assert done.stdout.startswith(start)
    assert done.stdout.split("\n")[-2] == adaptkit("transcribe", own, "--base", base_dir).stdout.strip()


def test_several_files_have_their_subtitles_in_a_folder(adaptkit, base_dir, of_spk10, tmp_path):
    files, words = list(of_spk10.values()), ["--base", base_dir, "--format", "srt"]

    refused = adaptkit("transcribe", *files, *words)
    done = adaptkit("transcribe", *files, *words, "--out", tmp_path / "out")

    assert (refused.exit_code, "needs --out" in refused.stderr) == (2, True)
    names = [f"{Path(file).stem}.srt" for file in files]
    assert done.stdout.split() == [str(tmp_path / "out" / name) for name in names]
    assert [(tmp_path / "out" / name).read_text()[:2] for name in names] == ["1\n", "1\n"]


def test_files_of_one_name_are_refused_in_one_folder(adaptkit, base_dir, of_spk10, tmp_path):
    own, *_ = of_spk10.values()

    done = adaptkit("transcribe", own, own, "--base", base_dir, "--out", tmp_path / "out")

    assert (done.exit_code, done.stdout) == (2, "")
    assert "several files would be" in done.stderr


@pytest.mark.parametrize("folder", ["", "elsewhere"])  # of the recording whose reference it may be
def test_a_transcript_does_not_replace_what_is_beside_the_audio(adaptkit, base_dir, tmp_path, folder):
    one, other, reference = tmp_path / folder / "one.wav", tmp_path / "two.wav", tmp_path / "one.txt"
    one.parent.mkdir(exist_ok=True)
    for audio in (one, other):
        soundfile.write(audio, np.zeros(4000), 8000)
    reference.write_text("what was said\n")

    done = adaptkit("transcribe", one, other, "--base", base_dir, "--out", tmp_path)

    assert (done.exit_code, reference.read_text()) == (2, "what was said\n")
    assert f"{reference} is beside the audio" in done.stderr


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    adaptkit, base_dir, of_spk10, tmp_path, monkeypatch
):
    monkeypatch.setattr(Recognizer, "transcribe_files", None)  # not called
    (tmp_path / "file").touch()
    audio = next(iter(of_spk10.values()))
    done = adaptkit("transcribe", audio, "--base", base_dir, "--out", tmp_path / "file/out")
    assert (done.exit_code, f"{tmp_path}/file" in done.stderr) == (1, True)


def test_a_long_recording_needs_the_detector_of_pauses(adaptkit, base_dir, tmp_path, monkeypatch):
    own = tmp_path / "long.wav"
    soundfile.write(own, np.zeros(12000), 8000)
    monkeypatch.setitem(sys.modules, "silero_vad", None)

    done = adaptkit("transcribe", own, "--base", base_dir, "--max-sec", 1)

    assert (done.exit_code, done.stdout) == (1, "")
    assert "recordings of more than 1 s are cut at pauses" in done.stderr
    assert "pip install 'adaptkit[long]'" in done.stderr


@pytest.mark.parametrize("words", [[], ["--speaker", "spk1"]])
def test_a_base_model_is_not_taken_for_adapters(adaptkit, base_dir, of_spk10, words):
    own, *_ = of_spk10.values()

    done = adaptkit("transcribe", own, "--exp", base_dir, *words)

    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{base_dir}: a base model, where trained adapters are expected; name an exp" in done.stderr


def test_a_model_is_needed(adaptkit, tmp_path):
    assert adaptkit("transcribe", tmp_path / "x.wav").exit_code == 2
