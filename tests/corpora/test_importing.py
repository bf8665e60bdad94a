"""Corpora in other layouts become data directories."""

import json

import numpy as np
import pytest
import soundfile

from adaptkit.corpora.contributions import plain_words
from adaptkit.corpora.foreign import find_layout
from adaptkit.kaldi import datadir


@pytest.fixture
def record(tmp_path):
    """Write recordings of half a second below the folder of the corpus, or of some seconds."""

    def write(*names, seconds=0.5):
        for name in names:
            (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
            noise = 0.1 * np.random.default_rng(0).normal(size=round(8000 * seconds))
            soundfile.write(tmp_path / "corpus" / name, noise, 8000)
        return tmp_path / "corpus"

    return write


@pytest.fixture
def imported(adaptkit, tmp_path):
    """Import a corpus; give what the command did, and texts by utterance, speakers and files."""

    def run(source, *words):
        done = adaptkit("data", "import", source, tmp_path / "data", *words)
        assert done.exit_code == 0, done.stdout + done.stderr
        return done, datadir.read(tmp_path / "data")

    return run


def texts(data):
    return {u.utt_id: (u.speaker, u.text) for u in data.utterances}


def test_an_audiofolder_is_read_by_its_csv(record, imported):
    corpus = record("a/1.wav", "b/1.wav")
    lines = ["file_name,transcription,speaker_id", 'a/1.wav,"Hello, you",ann', "b/1.wav,  good\u00a0bye ,bob"]
    (corpus / "metadata.csv").write_text("\ufeff" + "\r\n".join(lines), newline="")

    done, data = imported(corpus)

    assert texts(data) == {"ann-a-1": ("ann", "Hello, you"), "bob-b-1": ("bob", "good bye")}
    assert data.recordings["ann-a-1"] == str((corpus / "a/1.wav").resolve())
    assert done.stdout.splitlines()[0].endswith("2 utterances of 2 speakers")


def test_files_that_would_have_one_id_keep_their_own_texts(record, imported):
    corpus = record("1-2.wav", "2.wav")
    (corpus / "table.csv").write_text("path,text,speaker\n1-2.wav,one,s\n2.wav,two,s-1\n")

    _, data = imported(corpus / "table.csv")

    said = {data.recordings[u.recording]: u.text for u in data.utterances}
    assert said == {
        str((corpus / name).resolve()): text for name, text in (("1-2.wav", "one"), ("2.wav", "two"))
    }


def test_an_audiofolder_without_speakers_needs_one(adaptkit, record, imported, tmp_path):
    corpus = record("1.wav")
    (corpus / "metadata.jsonl").write_text('{"file_name": "1.wav", "text": "yes"}\n\n')

    refused = adaptkit("data", "import", corpus, tmp_path / "data")
    _, data = imported(corpus, "--speaker", "ann b")

    assert "metadata.jsonl:1: does not say who speaks; name the speaker with --speaker" in refused.stderr
    assert texts(data) == {"ann_b-1": ("ann_b", "yes")}


def test_parts_of_an_audiofolder_are_imported_one_by_one(adaptkit, record, tmp_path):
    corpus = record("train/1.wav", "test/1.wav")
    for part in ("train", "test"):
        (corpus / part / "metadata.jsonl").write_text('{"file_name": "1.wav", "text": "yes"}')

    done = adaptkit("data", "import", corpus, tmp_path / "data")

    assert done.exit_code == 1
    assert f"import each by itself: {corpus / 'test'}, {corpus / 'train'}" in done.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", "1.wav,one,ann\n2.wav,two,bob\n"),
        ("list.tsv", "speaker\tpath\ttext\nann\t1.wav\tone\nbob\t2.wav\ttwo\n"),
        ("list.csv", "\ufeffPath;Text;Speaker\r\n1.wav;one;ann\r\n2.wav;two;bob\r\n"),
        ("cv.tsv", "client_id\tpath\tsentence\tage\nann\t1.wav\tone\t\nbob\t2.wav\ttwo\t\n"),
        ("list.csv", "filename,transcript,speaker_id\n1.wav,one,ann\n2.wav,two,bob\n"),
    ],
)
def test_a_table_has_a_first_line_of_names_or_none(record, imported, name, content):
    corpus = record("1.wav", "2.wav")
    (corpus / name).write_text(content)

    _, data = imported(corpus / name)

    assert texts(data) == {"ann-1": ("ann", "one"), "bob-2": ("bob", "two")}


def test_the_tables_of_common_voice_name_files_in_their_folder_of_clips(record, imported):
    corpus = record("clips/1.wav")
    (corpus / "train.tsv").write_text("client_id\tpath\tsentence\nann\t1.wav\tone\n")

    _, data = imported(corpus / "train.tsv")

    assert dict(data.recordings) == {"ann-1": str((corpus / "clips/1.wav").resolve())}


def test_numbers_are_texts_and_null_is_an_entry_without_one(record, imported):
    corpus = record(*(f"{number}.wav" for number in range(30)))
    rows = [{"file_name": f"{n}.wav", "text": n or None, "speaker": "ann"} for n in range(30)]
    (corpus / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))

    done, data = imported(corpus)

    assert texts(data) == {f"ann-{number}": ("ann", str(number)) for number in range(1, 30)}
    assert "1 entry left out" in done.stdout


def test_a_folder_with_a_table_but_no_texts_names_the_table(adaptkit, record, tmp_path):
    corpus = record("audio/1.wav")
    (corpus / "own.csv").write_text("path,text,speaker\naudio/1.wav,one,ann\n")

    done = adaptkit("data", "import", corpus, tmp_path / "data")

    assert done.exit_code == 1
    assert f"name the table instead: {corpus / 'own.csv'}" in done.stderr


def test_the_quotes_of_a_tsv_are_text(record, imported):
    corpus = record("1.wav")
    (corpus / "list.tsv").write_text('path\ttext\tspeaker\n1.wav\t"one" said\tann\n')

    assert texts(imported(corpus / "list.tsv")[1]) == {"ann-1": ("ann", '"one" said')}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", '1.wav,"one,ann\n', "list.csv:1: not csv: unexpected end of data"),
        ("list.csv", "path,text\n1.wav,one,ann\n", "list.csv:2: 3 fields, expected path, text"),
        ("list.csv", "path,words\n1.wav,one\n", "list.csv:2: no transcription or text among path, words"),
        ("metadata.jsonl", '{"file_name": 1, "text": "a"}', "metadata.jsonl:1: no file_name or path"),
        ("metadata.jsonl", "[1]", "metadata.jsonl:1: expected an object"),
        ("metadata.jsonl", "{", "metadata.jsonl:1: not json"),
        (
            "list.csv",
            "other.wav,one,ann\n",
            "cannot be used: no such audio file (CORPUS/list.csv:1: CORPUS/other.wav)",
        ),
        ("list.csv", "recordings,words,who\n1.wav,one,ann\n", "list.csv:1: neither names of columns nor an"),
        ("list.csv", "", "read as table: no entries"),
        ("list.csv", f"{'x' * 300}.wav,one,ann\n", "no such audio file"),
        ("list.csv", "1.wav,one, \n", "list.csv:1: does not say who speaks"),
        (
            "metadata.jsonl",
            '{"path": "1.wav", "text": "\\ud800", "speaker": "ann"}',
            "characters that are not text",
        ),
        (
            "metadata.jsonl",
            '{"path": "a\\u0000", "text": "a", "speaker": "ann"}',
            "a NUL character in the path",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(adaptkit, record, tmp_path, name, content, message):
    corpus = record("1.wav")
    (corpus / name).write_text(content)

    done = adaptkit("data", "import", corpus / name, tmp_path / "data")

    assert (done.exit_code, done.stdout) == (1, "")
    assert message in done.stderr.replace(str(corpus), "CORPUS")
    assert not (tmp_path / "data").exists()


def test_each_speaker_has_a_folder_with_texts_beside_the_audio(record, imported):
    corpus = record("ann/1.wav", "ann/more/2.flac", "bob/1.wav")
    for name, text in (("ann/1", "one\n"), ("ann/more/2", "two"), ("bob/1", "one\nmore")):
        (corpus / f"{name}.txt").write_text(text)

    _, data = imported(corpus)

    assert texts(data) == {
        "ann-1": ("ann", "one"),
        "ann-2": ("ann", "two"),
        "bob-1": ("bob", "one more"),
    }


def test_files_that_macos_hides_are_no_recordings(record, imported):
    corpus = record("ann/1.wav")
    (corpus / "ann/1.txt").write_text("one")
    for hidden in ("ann/._1.wav", "ann/._1.txt"):
        (corpus / hidden).write_bytes(b"\0\5\x16\7")

    assert texts(imported(corpus)[1]) == {"ann-1": ("ann", "one")}


def test_one_in_twenty_may_be_left_out_and_is_counted(adaptkit, record, imported, tmp_path):
    corpus = record(*(f"ann/{number}.wav" for number in range(20)))
    for number in range(1, 20):
        (corpus / f"ann/{number}.txt").write_text("yes")

    done, data = imported(corpus)
    (corpus / "ann/1.txt").write_text(" ")
    refused = adaptkit("data", "import", corpus, tmp_path / "data")

    assert len(data.utterances) == 19
    assert done.stdout.splitlines()[1] == f"{corpus}: 1 entry left out"
    assert "2 of 20 entries cannot be used: no text (" in refused.stderr


@pytest.fixture
def contribution(record):
    """A contributor's folder of the Speech Accessibility Project."""

    def make(*transcripts, seconds=0.5):
        names = [f"f8e6/f8e6_{number}_16kHz.wav" for number in range(len(transcripts))]
        corpus = record(*names, seconds=seconds)
        files = [
            {"Filename": name.split("/")[1], "Prompt": {"Prompt Text": "Say it.", "Transcript": transcript}}
            for name, transcript in zip(names, transcripts, strict=True)
        ]
        content = {"Contributor ID": "f8e6", "Etiology": "ALS", "Files": files}
        (corpus / "f8e6/f8e6.json").write_text(json.dumps(content))
        return corpus

    return make


def test_contributions_to_speech_accessibility_are_read(contribution, imported):
    corpus = contribution("Make it cooler.", "(uh) Turn {g: up} the ~T ~V", "call {w: 2} now", "at [PII]")

    done, data = imported(corpus)

    assert [(u.speaker, u.text) for u in data.utterances] == [
        ("f8e6", "Make it cooler."),
        ("f8e6", "Turn up the T V"),
    ]
    assert done.stdout.splitlines()[1] == f"{corpus}: 2 entries left out"


def test_a_transcript_with_times_gives_an_utterance_for_each(contribution, imported):
    _, data = imported(contribution("[#ts]\n0.5 1.25 first words\n2.0 3.0 more", seconds=4))

    spans = [(u.text, u.start_sec, u.end_sec) for u in data.utterances]
    assert spans == [("first words", 0.5, 1.25), ("more", 2.0, 3.0)]


def test_times_that_are_none_are_refused(adaptkit, contribution, tmp_path):
    done = adaptkit("data", "import", contribution("#ts\n1.2.3 4 words"), tmp_path / "data")

    assert done.exit_code == 1
    assert "'1.2.3 4 words' is not 'start end words'" in done.stderr


@pytest.mark.parametrize(
    ("transcript", "words"),
    [
        ("(And) And we (s-) stop", "And we stop"),
        ("my {g: idol}.", "my idol."),
        ("(f-*) Find m-my ~N ~P ~R", "Find m-my N P R"),
    ],
)
def test_marks_of_transcripts_are_no_words(transcript, words):
    assert plain_words(transcript) == words


@pytest.fixture
def lhotse():
    """The package, where it is installed."""
    return pytest.importorskip("lhotse", reason="lhotse is not installed")


def test_manifests_of_lhotse_are_read_through_it(lhotse, record, imported):
    corpus = record("1.wav", "2.wav", seconds=2)
    recordings = [lhotse.Recording.from_file(corpus / f"{number}.wav") for number in (1, 2)]
    supervisions = [
        lhotse.SupervisionSegment("s1", "1", 0.5, 1.0, text="part", speaker="ann"),
        lhotse.SupervisionSegment("s2", "2", 0.0, 2.0, text="whole", speaker="bob"),
    ]
    made = lhotse.RecordingSet.from_recordings(recordings), lhotse.SupervisionSet.from_segments(supervisions)
    for manifest, name in zip(made, ("recordings", "supervisions"), strict=True):
        manifest.to_file(corpus / f"x_{name}_train.jsonl.gz")
    _, from_both = imported(corpus)
    lhotse.CutSet.from_manifests(*made).to_file(corpus / "x_cuts.jsonl.gz")
    _, from_cuts = imported(corpus / "x_cuts.jsonl.gz")

    spans = {u.text: (u.speaker, u.start_sec, u.end_sec) for u in from_both.utterances}
    assert spans == {"part": ("ann", 0.5, 1.5), "whole": ("bob", 0.0, None)}
    assert from_cuts.utterances == from_both.utterances


def test_several_manifests_of_lhotse_are_one_set_with_a_warning(lhotse, record, imported, caplog):
    corpus = record("1.wav", "2.wav")
    for number, part in enumerate(("train", "test"), start=1):
        recording = lhotse.Recording.from_file(corpus / f"{number}.wav")
        spoken = lhotse.SupervisionSegment("s", recording.id, 0.0, 0.5, text=part, speaker="ann")
        cut = lhotse.MonoCut(part, 0.0, 0.5, 0, supervisions=[spoken], recording=recording)
        lhotse.CutSet.from_cuts([cut]).to_file(corpus / f"cuts_{part}.jsonl")
    _, data = imported(corpus)
    assert [text for _, text in texts(data).values()] == ["train", "test"]
    assert "read as one set: cuts_test.jsonl, cuts_train.jsonl; import parts such as" in caplog.text


def test_recordings_of_one_id_in_several_manifests_are_refused(lhotse, adaptkit, record, tmp_path):
    corpus = record("train/1.wav", "test/1.wav")
    for part in ("train", "test"):
        recording = lhotse.Recording.from_file(corpus / part / "1.wav")
        spoken = lhotse.SupervisionSegment(part, "1", 0.0, 0.5, text=part, speaker="ann")
        lhotse.RecordingSet.from_recordings([recording]).to_file(corpus / f"recordings_{part}.jsonl")
        lhotse.SupervisionSet.from_segments([spoken]).to_file(corpus / f"supervisions_{part}.jsonl")
    done = adaptkit("data", "import", corpus, tmp_path / "data")
    assert (done.exit_code, "two different recordings have the id 1; import each" in done.stderr) == (1, True)


def test_manifests_without_lhotse_name_the_remedy(adaptkit, record, tmp_path, monkeypatch):
    corpus = record("1.wav")
    (corpus / "x_cuts.jsonl").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "lhotse", None)

    done = adaptkit("data", "import", corpus, tmp_path / "data")

    assert find_layout(corpus) == "lhotse"
    assert "not installed; pip install lhotse" in done.stderr


def test_what_validation_finds_is_shown(adaptkit, record, tmp_path):
    corpus = record("ann/1.wav", seconds=0.05)
    (corpus / "ann/1.txt").write_text("yes")

    done = adaptkit("data", "import", corpus, tmp_path / "data")

    assert done.exit_code == 1
    assert f"'adaptkit data fix {tmp_path / 'data'}'" in done.stdout
