import time
import tracemalloc
from dataclasses import replace

import pytest

from adaptkit.errors import AdaptkitError, DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance


@pytest.mark.parametrize("name", ["folder", "segmented"])
def test_directory_is_read_back_as_written(name, request, tmp_path):
    data = datadir.read(request.getfixturevalue(name).path)
    copy = replace(data, path=tmp_path / "copy", feats={"anna-1": "a.ark:7"}, duration_sec={"anna-1": 1.25})
    datadir.write(copy)
    assert datadir.read(tmp_path / "copy") == copy


def test_utterances_are_sorted_by_bytes(folder):
    ids = [u.utt_id for u in datadir.read(folder.path).utterances]
    assert ids == sorted(ids, key=str.encode)


def test_speaker_is_the_task_unless_utt2task_says_otherwise(folder):
    assert datadir.read(folder.path).tasks == ["anna", "bert"]
    folder.write("utt2task", "anna-1 car\nanna-2 car\nbert-1 car\nbert-2 street\n")
    assert datadir.read(folder.path).tasks == ["car", "street"]


def test_times_survive_writing_as_they_are(segmented, tmp_path):
    segmented.edit("segments", b"anna-1 anna 0.000 1.000", b"anna-1 anna 0.12345 1.00006")
    data = datadir.read(segmented.path)
    datadir.write(replace(data, path=tmp_path / "copy"))
    assert datadir.read(tmp_path / "copy").utterances == data.utterances


def test_tasks_survive_writing(folder):
    folder.write("utt2task", "anna-1 car\nanna-2 car\nbert-1 car\nbert-2 street\n")
    data = datadir.read(folder.path)
    datadir.write(data)
    assert datadir.read(folder.path) == data


def test_groups_survive_writing(folder):
    folder.write("utt2group", "anna-1 quiet\nanna-2 loud\nbert-1 loud\nbert-2 loud\n")
    data = datadir.read(folder.path)
    assert [u.group for u in data.utterances] == ["quiet", "loud", "loud", "loud"]
    datadir.write(data)
    assert datadir.read(folder.path) == data


def test_group_of_a_speaker_is_that_of_each_of_its_utterances(folder):
    folder.write("spk2group", "anna adult\nbert child\ncara child\n")
    data = datadir.read(folder.path)
    assert [u.group for u in data.utterances] == ["adult", "adult", "child", "child"]
    datadir.write(data)
    assert (folder.path / "utt2group").read_text().startswith("anna-1 adult\n")
    assert not (folder.path / "spk2group").exists()
    assert datadir.read(folder.path) == data


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"utt2group": "anna-1 a\n"}, "utt2group: missing anna-2, bert-1, bert-2; 'adaptkit data fix"),
        ({"spk2group": "anna a\n"}, "spk2group: missing bert; name a group, or delete the file"),
        ({"spk2group": "anna a\nbert\n"}, "spk2group: no group for bert; name one"),
        ({"spk2group": "anna a\nbert b\n", "utt2group": "anna-1 a\n"}, "both utt2group and spk2group"),
    ],
)
def test_groups_that_are_not_of_all_are_refused(folder, tables, message):
    for name, text in tables.items():
        folder.write(name, text)
    with pytest.raises(DataError, match=message):
        datadir.read(folder.path)


def test_groups_of_some_utterances_are_not_written(folder):
    first, *others = datadir.read(folder.path).utterances
    mixed = DataDir(folder.path, (replace(first, group="a"), *others), {})
    with pytest.raises(DataError, match="no group for anna-2, bert-1, bert-2; give every utterance one"):
        datadir.write(mixed)


def test_open_end_is_written_as_kaldi_does(tmp_path):
    part = Utterance("a-1", "a", "a-1", "X", start_sec=1.5)
    datadir.write(DataDir(tmp_path, (part,), {"a-1": "a.wav"}))
    assert (tmp_path / "segments").read_text() == "a-1 a-1 1.500 -1\n"
    assert datadir.read(tmp_path).utterances == (part,)


def test_segments_of_before_go_when_there_are_none_now(segmented, folder):
    data = replace(datadir.read(folder.path), path=segmented.path)
    datadir.write(data)
    assert not (segmented.path / "segments").exists()


def test_utterance_written_twice_is_refused(folder):
    data = datadir.read(folder.path)
    with pytest.raises(DataError, match="duplicate utterance ids among the 8"):
        datadir.write(replace(data, utterances=[*data.utterances] * 2))


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("text", b"anna-2 THREE\n", b"", "text: missing anna-2; 'adaptkit data fix"),
        ("utt2spk", b"bert-2", b"bert-3", "text: missing bert-3"),
        ("segments", b"anna 1.0", b"cara 1.0", "segments: no recording in wav.scp for anna-2"),
        ("segments", b"1.000 2.000", b"2.0 1.0", "anna-2: 2 s to 1 s is not a valid time span"),
    ],
)
def test_what_does_not_fit_together_is_refused(segmented, name, before, after, message):
    segmented.edit(name, before, after)
    with pytest.raises(DataError, match=message):
        datadir.read(segmented.path)


def test_empty_segments_do_not_turn_recordings_into_utterances(segmented):
    segmented.write("segments", "")
    with pytest.raises(DataError, match="segments: missing anna-1, anna-2, bert-1, bert-2"):
        datadir.read(segmented.path)


def test_utt2task_that_misses_an_utterance_is_refused(folder):
    folder.write("utt2task", "anna-1 car\n")
    with pytest.raises(DataError, match="utt2task: missing anna-2, bert-1, bert-2"):
        datadir.read(folder.path)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e300"])
def test_utt2dur_of_no_possible_duration_is_refused(folder, value):
    folder.write("utt2dur", f"anna-1 1.0\nanna-2 {value}\n")
    with pytest.raises(DataError, match=f"utt2dur: not durations: anna-2 {value}; delete the file"):
        datadir.read(folder.path)


def test_utt2dur_without_seconds_is_refused(folder):
    folder.write("utt2dur", "anna-1 long\n")
    with pytest.raises(DataError, match="utt2dur: could not convert string to float: 'long'"):
        datadir.read(folder.path)


def test_missing_directory_and_missing_table_are_refused(folder):
    with pytest.raises(DataError, match="no such data directory"):
        datadir.read(folder.path / "none")
    (folder.path / "inner").mkdir()
    with pytest.raises(DataError, match="not a data directory.*'adaptkit data import .*inner OUT'"):
        datadir.read(folder.path / "inner")
    (folder.path / "text").unlink()
    with pytest.raises(AdaptkitError, match="text: no such file or folder"):
        datadir.read(folder.path)


@pytest.mark.parametrize("content", [None, "anna-1\nanna-2\nbert-1\nbert-2\n", "anna-1\n"])
def test_text_is_not_needed_where_the_reader_says_so(folder, content):
    (folder.path / "text").unlink() if content is None else folder.write("text", content)
    read = datadir.read(folder.path, needs_text=False)
    assert [(u.utt_id, u.speaker, u.text) for u in read.utterances[:2]] == [
        ("anna-1", "anna", ""),
        ("anna-2", "anna", ""),
    ]
    with pytest.raises(
        DataError, match="text: (holds no words|no such file or folder); training and scoring need"
    ):
        datadir.read(folder.path)


def test_an_utterance_without_words_is_refused_where_words_are_needed(folder):
    folder.edit("text", b" THREE", b"")
    with pytest.raises(DataError, match=r"text: no words for anna-2; 'adaptkit data fix .*' drops them"):
        datadir.read(folder.path)
    assert [u.text for u in datadir.read(folder.path, needs_text=False).utterances][:2] == ["ONE TWO", ""]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utt_id": "ann smith-1"}, "names with white space or invisible characters: 'ann smith-1'; replace"),
        ({"speaker": "ann\u200b"}, r"invisible characters: 'ann\\u200b'; replace these in the ids"),
        ({"text": "ONE\nTWO"}, r"line breaks in anna-1 \('ONE\\nTWO'\); replace them by spaces"),
    ],
)
def test_what_tables_cannot_hold_is_not_written(folder, change, message):
    read, before = datadir.read(folder.path), folder.content()
    changed = [replace(read.utterances[0], **change), *read.utterances[1:]]
    with pytest.raises(DataError, match=message):
        datadir.write(replace(read, utterances=changed))
    assert folder.content() == before


def test_set_without_words_is_written_without_text(folder):
    (folder.path / "text").unlink()
    read = datadir.read(folder.path, needs_text=False)
    datadir.write(read)
    assert not (folder.path / "text").exists()
    assert datadir.read(folder.path, needs_text=False) == read


def test_directory_without_utterances_is_refused(folder):
    for name in ("wav.scp", "text", "utt2spk"):
        folder.write(name, "")
    with pytest.raises(DataError, match="contains no utterances"):
        datadir.read(folder.path)


@pytest.mark.parametrize("has_segments", [True, False])
def test_large_directory_takes_little_memory_and_time(tmp_path, has_segments):
    ids = [f"speaker{number // 100:04d}-{number:07d}" for number in range(10_000)]
    recordings = [f"call{number // 100:05d}" if has_segments else name for number, name in enumerate(ids)]
    starts = [number % 100 + 0.25 if has_segments else 0.0 for number in range(10_000)]
    utterances = [
        Utterance(utt_id, utt_id[:11], name, "SOME WORDS OF A SENTENCE", start)
        for utt_id, name, start in zip(ids, recordings, starts, strict=True)
    ]
    datadir.write(DataDir(tmp_path, utterances, {name: f"/corpus/audio/{name}.flac" for name in recordings}))
    before = time.process_time()
    assert datadir.read(tmp_path).utterances == utterances
    assert time.process_time() - before < 1.0  # 0.1 s; a million may take 8 s
    tracemalloc.start()
    data = datadir.read(tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 300 * len(data.utterances)  # bytes; 140 to 200, where objects take 700
