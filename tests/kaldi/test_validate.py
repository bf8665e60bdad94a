import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit.kaldi import validate
from adaptkit.kaldi.audio import probe
from adaptkit.kaldi.fix import fix
from adaptkit.kaldi.lines import Line
from adaptkit.kaldi.scan import Checks, describe, scan_table
from adaptkit.kaldi.validate import find_problems

HUM = 0.1 * np.sin(np.arange(16 * 16000) / 4)


def said(folder, **checks):
    """The problems without the directory's name, which is different in every test."""
    return [str(p).replace(f"{folder.path}/", "") for p in find_problems(folder.path, Checks(**checks))]


def heads(folder, **checks):
    return [problem.split("; ")[0] for problem in said(folder, **checks)]


def test_good_directory_has_no_problem(folder):
    assert said(folder) == []


def test_good_directory_with_segments_has_no_problem(segmented):
    assert said(segmented) == []


def test_problem_says_where_what_and_the_remedy(folder):
    folder.edit("text", b"anna-2 THREE\n", b"")
    assert said(folder) == [
        f"utt2spk:2: utterance anna-2 is not in text; 'adaptkit data fix {folder.path}' drops it"
    ]


def test_missing_directory_is_one_problem(tmp_path):
    assert [p.what for p in find_problems(tmp_path / "none")] == ["no such data directory"]


@pytest.mark.parametrize("name", ["wav.scp", "utt2spk", "spk2utt"])
def test_missing_table_is_reported(folder, name):
    (folder.path / name).unlink()
    assert f"{name}: no such file" in heads(folder)


@pytest.mark.parametrize(
    ("content", "what"), [(None, "no such file"), ("anna-1\nanna-2\nbert-1\nbert-2\n", "holds only ids")]
)
def test_set_without_words_is_valid_with_a_warning(folder, content, what):
    (folder.path / "text").unlink() if content is None else folder.write("text", content)
    remedy = "the set can be decoded, but neither scored nor trained on"
    assert said(folder) == [f"text: warning: {what}; {remedy}"]


@pytest.mark.parametrize("name", ["wav.scp", "text", "utt2spk", "spk2utt", "segments", "utt2task"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_table_is_reported(segmented, name, content):
    segmented.write(name, content)
    assert f"{name}: the file is empty" in heads(segmented)


@pytest.mark.parametrize(
    ("name", "before", "after", "problem"),
    [
        ("text", b"anna-2", b"\nanna-2", "text:2: empty line"),
        ("text", b"anna-2", b"anna-1 AGAIN\nanna-2", "text:2: duplicate key anna-1, first on line 1"),
        ("utt2spk", b"anna-1 anna\nanna-2 anna\n", b"anna-2 anna\nanna-1 anna\n",
         "utt2spk:2: not sorted in C order, anna-1 after anna-2"),
        ("text", b"ONE TWO", b"ONE TWO\r", "text:1: 1 line ending in CR LF, as on Windows"),
        ("text", b"anna-1", b"\xef\xbb\xbfanna-1", "text:1: starts with a byte order mark"),
        ("text", b"ONE TWO", b"ONE\rTWO", "text:1: anna-1: contains U+000D (carriage return)"),
        ("text", b"ONE TWO", "ONE\u3000\u200bTWO".encode(),
         "text:1: anna-1: contains U+200B (zero width space), U+3000 (ideographic space)"),
        ("wav.scp", b"anna-2", "\ufeffanna-2".encode(),
         "wav.scp:2: anna-2: contains U+FEFF (zero width no-break space)"),
        ("text", b"anna-2 THREE", b"anna-2 THREE\nanna-3 \xff", "text:3: not UTF-8 text"),
        ("text", b"anna-2 THREE", b"anna-2 THREE\nanna-3 \0\0", "text:3: a NUL character"),
        ("text", b" THREE", b"", "text:2: anna-2: empty text"),
        ("utt2spk", b"anna-1 anna", b"anna-1 anna x", "utt2spk:1: anna-1: 'anna x' is not a single speaker"),
    ],
)  # fmt: skip
def test_line_of_bad_form_is_reported(folder, name, before, after, problem):
    folder.edit(name, before, after)
    assert problem in heads(folder)


def test_names_are_held_once_and_keys_in_order_are_no_objects(folder):
    speakers, _ = scan_table(folder.path / "utt2spk")
    assert speakers.column.names == ("anna", "bert")
    assert find_problems(folder.path) == []
    assert "_places" not in vars(speakers)


@pytest.mark.slow
def test_a_large_table_takes_a_few_times_its_own_size(tmp_path):
    place = tmp_path / "segments"
    place.write_text("".join(f"utt{n:07d} call{n // 100:05d} {n}.25 {n}.75\n" for n in range(50_000)))
    tracemalloc.start()
    table, problems = scan_table(place)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = place.stat().st_size
    assert (len(table), problems) == (50_000, [])
    assert held < 2 * size
    assert peak < 8 * size


def test_capitals_sort_before_small_letters_as_in_c(folder):
    for name in ("wav.scp", "text", "utt2spk", "spk2utt"):
        folder.edit(name, b"anna", b"Anna")
        folder.edit(name, b"\nanna-2", b"\nAnna-2") if name != "spk2utt" else None
    assert not [head for head in heads(folder) if "sorted" in head]


def test_text_without_audio_is_reported(folder):
    folder.edit("wav.scp", b"anna-2", b"anna-3")
    assert heads(folder)[:2] == [
        "text:2: utterance anna-2 is not in wav.scp",
        "wav.scp:2: utterance anna-3 is not in text, utt2spk",
    ]


def test_every_problem_is_reported_in_one_run(folder):
    folder.edit("text", b" THREE", b"")
    folder.edit("utt2spk", b"bert-1 bert\n", b"")
    folder.recording("bert-2").write_bytes(b"")
    lines = [head.split(": ")[0] for head in heads(folder)]
    assert lines == ["text:2", "text:3", "spk2utt:2", "wav.scp:4"]


def test_spk2utt_that_disagrees_is_reported_in_both_directions(folder):
    folder.write("spk2utt", "anna anna-1 bert-1\nbert bert-2 cara-1\n")
    assert heads(folder) == [
        "spk2utt:1: bert-1 is listed for anna, but utt2spk has bert",
        "spk2utt:2: cara-1 is listed for bert, but utt2spk has no such utterance",
        "utt2spk:2: anna-2 of anna is not in spk2utt",
    ]


def test_speaker_that_is_no_prefix_is_only_a_warning(folder):
    folder.write("utt2spk", "anna-1 spk1\nanna-2 spk1\nbert-1 bert\nbert-2 bert\n")
    folder.write("spk2utt", "bert bert-1 bert-2\nspk1 anna-1 anna-2\n")
    (problem,) = find_problems(folder.path)
    assert problem.is_warning
    assert "warning: the speaker is not a prefix of 2 utterance ids: anna-1, anna-2;" in str(problem)


@pytest.mark.parametrize(
    ("times", "problem"),
    [
        ("anna 1.0 2.5", "anna-2: 1 s to 2.5 s is beyond the 2.00 s of recording anna"),
        ("anna 2.0 -1", "anna-2: 2 s to its end is beyond the 2.00 s of recording anna"),
        ("anna 1.0 1.0", "anna-2: 1 s to 1 s is not a valid time span"),
        ("anna 1.5 1.0", "anna-2: 1.5 s to 1 s is not a valid time span"),
        ("anna -0.5 1.0", "anna-2: -0.5 s to 1 s is not a valid time span"),
        ("anna 1.0 nan", "anna-2: 1 s to nan s is not a valid time span"),
        ("anna 1.0", "anna-2: 'anna 1.0' is not 'recording start end' in seconds"),
        ("anna 1.0 1e300", "anna-2: 1 s to 1e+300 s is not a valid time span"),
        ("anna 1e300 -1", "anna-2: 1e+300 s to -1 s is not a valid time span"),
        ("anna 9e6 -1", "anna-2: 9e+06 s to its end is beyond the 2.00 s of recording anna"),
        ("anna 1.0 2.0 A", "anna-2: 'anna 1.0 2.0 A' is not 'recording start end' in seconds"),
        ("cara 1.0 2.0", "recording cara of utterance anna-2 is not in wav.scp"),
        ("anna 1.0 1.05", "anna-2 lasts 0.050 s, less than 0.1 s"),
    ],
)
def test_bad_segment_is_reported(segmented, times, problem):
    segmented.edit("segments", b"anna 1.000 2.000", times.encode())
    assert heads(segmented) == [f"segments:2: {problem}"]


@pytest.mark.parametrize("times", ["anna 1.0 -1", "anna 1.0 2.049"])
def test_segment_to_the_end_or_just_beyond_is_good(segmented, times):
    segmented.edit("segments", b"anna 1.000 2.000", times.encode())
    assert heads(segmented) == []


def test_recording_without_segment_is_only_a_warning(segmented):
    segmented.edit("segments", b"bert-1 bert 0.000 1.000\nbert-2 bert 1.000 2.000\n", b"")
    for name, lines in (("text", 2), ("utt2spk", 2), ("spk2utt", 1)):
        kept = (segmented.path / name).read_text().splitlines(keepends=True)[:lines]
        segmented.write(name, "".join(kept))
    assert heads(segmented) == ["wav.scp:2: warning: 1 recording without a segment: bert"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"<html>", "not audio (Format not recognised)"),
        (None, "no such file or folder"),
    ],
)
def test_unusable_recording_is_reported(folder, content, what):
    location = folder.recording("anna-2")
    location.unlink() if content is None else location.write_bytes(content)
    assert heads(folder) == [f"wav.scp:2: {location}: {what}"]


def test_truncated_recording_is_reported(folder):
    location = folder.recording("anna-2")
    location.write_bytes(location.read_bytes()[:10000])
    assert heads(folder) == [f"wav.scp:2: {location}: truncated, 9956 of 16000 bytes"]


def test_stereo_recording_is_reported(folder):
    location = folder.recording("anna-2")
    soundfile.write(location, np.zeros((8000, 2)), 8000)
    assert heads(folder) == [f"wav.scp:2: {location}: 2 channels where one is needed"]


def test_audio_is_left_alone_when_not_asked_for(folder):
    folder.recording("anna-2").unlink()
    assert heads(folder, check_audio=False) == []


def test_utterance_longer_than_the_limit_is_reported(folder):
    assert heads(folder, max_sec=0.9)[0] == "wav.scp:1: anna-1 lasts 1.00 s, more than 0.9 s"


def test_commands_are_not_run_but_counted(folder):
    folder.edit("wav.scp", b"anna-1 ", b"anna-1 cat ")
    folder.edit("wav.scp", b".wav", b".wav |")
    assert heads(folder) == ["wav.scp:1: warning: not checked: 1 recording made by commands"]
    assert heads(folder, allow_pipes=True) == []


def test_failing_command_is_reported_with_what_it_said(folder):
    folder.edit("wav.scp", b"anna-1 ", b"anna-1 cat nothing-here ")
    folder.edit("wav.scp", b".wav", b".wav |")
    (problem,) = heads(folder, allow_pipes=True)
    assert "exit code 1, stderr: cat: nothing-here: No such file" in problem


def test_characters_outside_the_tokens_are_reported(folder, tmp_path):
    (tmp_path / "tokens.txt").write_text(
        "<blank>\n<unk>\n\u2581ON\nE\nT\nW\nF\nO\nU\nR\nI\nV\nS\nX\n<sos/eos>\n"
    )
    alphabet = validate.read_alphabet(tmp_path / "tokens.txt")
    assert heads(folder, alphabet=alphabet) == ["text:2: anna-2: 'H' not among the tokens"]


def test_unknown_utterance_in_utt2task_is_reported(folder):
    folder.write("utt2task", "anna-1 car\nanna-2 car\nbert-1 car\nbert-2 car\nbert-3 car\n")
    assert heads(folder) == ["utt2task:5: unknown utterance bert-3, neither in text nor in utt2spk"]


def test_utterance_without_task_is_reported(folder):
    folder.write("utt2task", "anna-1 car\nanna-2 car\nbert-1 car\n")
    assert heads(folder) == ["text:4: utterance bert-2 is not in utt2task"]


@pytest.mark.parametrize(
    ("tables", "problems"),
    [
        ({"utt2group": "anna-1 a\nanna-2 a\nbert-1 b\n"}, ["text:4: utterance bert-2 is not in utt2group"]),
        ({"spk2group": "anna a\nbert b\ncara c\n"}, []),
        (
            {"spk2group": "anna a\nbert b c\n"},
            [
                "spk2group:2: bert: 'b c' is not a single group",
                "utt2spk:3: speaker bert of bert-1 has no group in spk2group",
                "utt2spk:4: speaker bert of bert-2 has no group in spk2group",
            ],
        ),
        (
            {"spk2group": "anna a\n", "utt2group": "anna-1 a\nanna-2 a\nbert-1 a\nbert-2 a\n"},
            ["spk2group: there is utt2group too, and only one of them can be followed"],
        ),
    ],
)
def test_utterance_without_a_group_is_reported(folder, tables, problems):
    for name, text in tables.items():
        folder.write(name, text)
    assert heads(folder) == problems


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e300", "9" * 5000, "long"])
def test_utt2dur_without_seconds_is_reported(folder, value):
    folder.write("utt2dur", f"anna-1 1.0\nanna-2 {value}\n")
    (problem,) = heads(folder)
    assert problem.startswith("utt2dur:2: anna-2:")


def test_utt2dur_within_rounding_is_good(folder):
    folder.write("utt2dur", "anna-1 1.04\nanna-2 0.96\nbert-1 1\nbert-2 1.09\n")
    assert heads(folder) == []


def test_rate_that_lies_is_caught_by_utt2dur(folder):
    folder.write("utt2dur", "anna-1 1.0\nanna-2 1.0\nbert-1 1.0\nbert-2 1.0\n")
    soundfile.write(folder.recording("anna-2"), HUM[:8000], 16000)  # 8 kHz speech said to be 16 kHz
    assert heads(folder) == ["utt2dur:2: anna-2: 1 s, but its audio has 0.50 s"]


def test_rate_that_lies_is_caught_by_segments(segmented):
    soundfile.write(segmented.recording("anna"), HUM[:16000], 16000)
    assert heads(segmented) == ["segments:2: anna-2: 1 s to 2 s is beyond the 1.00 s of recording anna"]


def test_rate_that_lies_is_caught_by_the_length_of_a_text(folder):
    folder.edit("text", b"THREE", b"FIFTEEN WORDS ARE NOT SAID IN ONE SECOND")
    assert heads(folder) == []
    soundfile.write(folder.recording("anna-2"), HUM[:8000], 16000)
    assert heads(folder) == ["text:2: anna-2: 40 characters in 0.50 s, too fast for speech"]


def test_rate_that_lies_everywhere_is_a_warning_by_the_pace_of_speech(folder):
    for name in ("anna-1", "anna-2", "bert-1", "bert-2"):
        soundfile.write(folder.recording(name), HUM, 16000)
    folder.write(
        "text", "".join(f"{u} {'FOURTEEN LETTERS' * 26}\n" for u in ("anna-1", "anna-2", "bert-1", "bert-2"))
    )
    assert heads(folder) == [
        "wav.scp:1: warning: recordings with a stated rate of 16000 Hz have 26.0 characters per second"
    ]


def test_rate_that_no_speech_has_is_reported(folder):
    soundfile.write(folder.recording("anna-2"), np.zeros(800), 800)
    (problem,) = heads(folder)
    assert problem.endswith("the header says 800 Hz, outside 4000 to 192000 Hz")


def lines(folder, **checks):
    """What the command prints, without the directory's name."""
    problems = find_problems(folder.path, Checks(**checks))
    return [line.replace(f"{folder.path}/", "") for line in describe(problems)]


def test_a_cause_is_named_once_with_its_count_and_three_examples(folder):
    folder.write("wav.scp", "".join(f"{u} lost/{u}.wav\n" for u in ("anna-1", "anna-2", "bert-1", "bert-2")))
    assert lines(folder) == [
        f"wav.scp:1: 4 times: no such file or folder (relative to {Path.cwd()}): lost/anna-1.wav, "
        "lost/anna-2.wav, lost/bert-1.wav and 1 more; correct wav.scp or fetch the recording"
    ]


def test_a_single_problem_is_described_in_full(folder):
    folder.edit("text", b" THREE", b"")
    assert describe(find_problems(folder.path)) == [str(find_problems(folder.path)[0])]


def test_a_long_line_of_a_table_is_one_line_of_output(folder):
    folder.write("spk2utt", f"anna {' '.join(f'x{number}' for number in range(20_000))}\n")
    head, *others = lines(folder)
    assert head.startswith("spk2utt:1: 20000 times: utterances not in utt2spk: x0, x1, x2 and 19997 more; ")
    assert len(others) == 1


def test_problems_of_every_kind_are_described_by_cause(segmented):
    segmented.write("text", "anna-1\nanna-2\nbert-1 ONE\nbert-2 TWO\n")
    segmented.write("utt2dur", "anna-1 7\nanna-2 7.5\nbert-1 x\nbert-2 y\n")
    segmented.write("utt2task", "anna-1 a\nanna-2 b\n")
    assert [line.split("; ")[0] for line in lines(segmented)] == [
        "text:1: 2 times: empty text: anna-1, anna-2",
        "utt2dur:3: 2 times: 'x' is not a number of seconds: bert-1, bert-2",
        "text:3: 2 times: not in utt2task: bert-1, bert-2",
        "utt2dur:1: 2 times: durations that differ from the audio: anna-1 (7 s, 1.00 s), "
        "anna-2 (7.5 s, 1.00 s)",
    ]


@pytest.mark.parametrize(("value", "seen"), [(np.nan, "nan"), (np.inf, "inf"), (-20.0, "20")])
def test_samples_that_features_refuse_are_reported(segmented, value, seen):
    samples = np.full(16000, 0.1)
    samples[9000] = value
    soundfile.write(segmented.recording("anna"), samples, 8000, subtype="FLOAT")
    assert heads(segmented) == [f"segments:2: anna-2: samples reach {seen}, but full scale is 1"]
    fix(segmented.path)
    assert heads(segmented) == []


def test_digital_silence_is_reported(segmented):
    soundfile.write(segmented.recording("anna"), np.repeat([0.1, 0.0], 8000), 8000)
    assert heads(segmented) == ["segments:2: anna-2: digital silence, every sample is zero"]


def test_a_damaged_middle_is_found_where_only_decoding_finds_it(folder, tmp_path):
    location = str(folder.recording("anna-2")).replace(".wav", ".flac")
    soundfile.write(location, 0.1 * np.random.default_rng(0).normal(size=80000), 8000)
    content = bytearray(Path(location).read_bytes())
    content[40000:41000] = bytes(1000)
    Path(location).write_bytes(content)
    folder.edit("wav.scp", b"anna-2.wav", b"anna-2.flac")
    probe(location)
    (head,) = heads(folder)
    assert "cannot be decoded after sample" in head or "truncated" in head


def test_a_stale_utt2dur_costs_no_utterance(folder):
    folder.write("utt2dur", "anna-1 9\nanna-2 1\nbert-1 long\nbert-2 9\n")
    assert [problem.utt_id for problem in find_problems(folder.path)] == ["", "", ""]
    assert fix(folder.path).num_kept == 4
    assert (folder.path / "utt2dur").read_text() == "anna-2 1\n"
    assert heads(folder) == []


def test_line_that_is_wrong_leaves_the_others_of_its_table_as_they_are(folder, monkeypatch):
    lines = [f"utt{number:03d} some words\n" for number in range(40)]
    lines[17], lines[30] = "utt017  two\u00a0blanks\n", "utt003 again\n"
    folder.write("text", "".join(lines))
    whole = scan_table(folder.path / "text")
    monkeypatch.setattr("adaptkit.kaldi.scan._BLOCK_BYTES", 100)
    assert scan_table(folder.path / "text") == whole
    table, problems = whole
    assert (table["utt029"], table["utt017"].value) == (Line(30, "some words"), "two blanks")
    assert [problem.line for problem in problems] == [18, 31]


@pytest.mark.slow
def test_several_jobs_find_the_problems_of_one(folder, monkeypatch):
    monkeypatch.setattr("adaptkit.kaldi.validate_audio._AT_A_TIME", 1)
    monkeypatch.setattr("adaptkit.kaldi.probing.WORTH_SEC", 0.0)
    monkeypatch.setattr("adaptkit.kaldi.probing.SAMPLE_SEC", 1e-9)
    folder.recording("anna-2").write_bytes(b"")
    folder.recording("bert-1").write_bytes(b"<html>")
    assert find_problems(folder.path, Checks(num_jobs=2)) == find_problems(folder.path)
