import random
import subprocess

import pytest

from adaptkit.errors import DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.fix import fix
from adaptkit.kaldi.scan import Checks
from adaptkit.kaldi.tables import read_table
from adaptkit.kaldi.validate import find_problems
from adaptkit.tokens import char_tokens

SPOILERS = {
    "duplicate": ("text", b"anna-2", b"anna-1 AGAIN\nanna-2"),
    "unsorted": ("utt2spk", b"anna-1 anna\nanna-2 anna\n", b"anna-2 anna\nanna-1 anna\n"),
    "blank line": ("text", b"anna-2", b"\nanna-2"),
    "CR LF": ("text", b"ONE TWO", b"ONE TWO\r"),
    "byte order mark": ("text", b"anna-1", b"\xef\xbb\xbfanna-1"),
    "not UTF-8": ("text", b"THREE", b"THREE\nanna-3 \xff"),
    "CR": ("text", b"ONE TWO", b"ONE\rTWO"),
    "other white space": ("text", b"ONE TWO", "ONE\u3000TWO\u00a0".encode()),
    "white space after the id": ("utt2spk", b"anna-2 ", "anna-2\u2003".encode()),
    "invisible in a text": ("text", b"ONE TWO", "O\u200bNE T\u200dWO\ufeff".encode()),
    "invisible in ids": ("wav.scp", b"anna-2", "\ufeffanna-\u20602".encode()),
    "empty text": ("text", b" THREE", b""),
    "text missing": ("text", b"anna-2 THREE\n", b""),
    "audio missing": ("wav.scp", b"anna-2", b"anna-3"),
    "two speakers": ("utt2spk", b"anna-2 anna", b"anna-2 anna bert"),
    "spk2utt wrong": ("spk2utt", b"anna-2", b"bert-1"),
    "no such file": ("wav.scp", b"bert-2.wav", b"bert-9.wav"),
}


@pytest.mark.parametrize("name", SPOILERS)
def test_fixed_directory_has_no_problem_and_can_be_read(folder, name):
    folder.edit(*SPOILERS[name])
    assert find_problems(folder.path)
    fix(folder.path)
    assert find_problems(folder.path) == []
    assert datadir.read(folder.path).utterances


SPELT = {
    "CR": "ONE TWO",
    "other white space": "ONE TWO",
    "invisible in a text": "ONE TWO",
    "invisible in ids": "ONE TWO",
    "white space after the id": "ONE TWO",
}


@pytest.mark.parametrize("name", SPELT)
def test_strange_characters_cost_no_utterance(folder, name):
    folder.edit(*SPOILERS[name])
    repair = fix(folder.path)
    assert (repair.dropped, repair.num_kept, repair.changed) == ({}, 4, (SPOILERS[name][0],))
    assert datadir.read(folder.path).utterances[0].text == SPELT[name]


def test_joiners_of_persian_and_hindi_stay(folder):
    folder.edit("text", b"ONE TWO", "می\u200cخواهم क्\u200dष".encode())
    assert find_problems(folder.path) == []


def test_lines_that_end_in_cr_are_lines(folder):
    for name in ("text", "utt2spk"):
        path = folder.path / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    assert [p.what for p in find_problems(folder.path)] == ["the lines end in CR, as on old Macs"] * 2
    before = datadir.read(folder.path)
    assert fix(folder.path).num_kept == 4
    assert (find_problems(folder.path), datadir.read(folder.path)) == ([], before)


def test_all_spoilers_at_once_are_mended_at_once(folder):
    for name in ("not UTF-8", "duplicate", "unsorted", "byte order mark", "no such file"):
        folder.edit(*SPOILERS[name])
    repair = fix(folder.path)
    assert (set(repair.dropped), repair.num_kept) == ({"bert-2"}, 3)
    assert find_problems(folder.path) == []


def is_fixed(path):
    try:
        return fix(path).num_kept > 0
    except DataError:
        return False


@pytest.mark.parametrize("seed", range(20))
def test_directory_with_random_damage_is_clean_after_fix(segmented, seed):
    rng = random.Random(seed)
    for name in ("text", "utt2spk", "spk2utt", "segments", "wav.scp"):
        lines = (segmented.path / name).read_bytes().split(b"\n")
        lines[rng.randrange(len(lines))] = rng.choice([b"", b"\xff", b"x y z", b"anna-1 0", lines[0]])
        segmented.path.joinpath(name).write_bytes(b"\n".join(lines))
    before = segmented.content()
    if is_fixed(segmented.path):
        assert [p for p in find_problems(segmented.path) if not p.is_warning] == []
    else:
        assert segmented.content() == before


def test_dropped_utterance_comes_with_its_reason(folder):
    folder.edit("text", b" THREE", b"")
    assert fix(folder.path).dropped == {"anna-2": f"{folder.path}/text:2: anna-2: empty text"}


def test_bad_recording_takes_all_its_segments(segmented):
    segmented.recording("anna").write_bytes(b"")
    assert list(fix(segmented.path).dropped) == ["anna-1", "anna-2"]
    assert read_table(segmented.path / "wav.scp").keys() == {"bert"}


def test_unused_recordings_go(segmented):
    segmented.edit("segments", b"bert-1 bert 0.000 1.000\nbert-2 bert 1.000 2.000\n", b"")
    fix(segmented.path)
    assert (segmented.path / "wav.scp").read_text().startswith("anna ")
    assert find_problems(segmented.path) == []


def test_missing_spk2utt_is_made(folder):
    (folder.path / "spk2utt").unlink()
    fix(folder.path)
    assert (folder.path / "spk2utt").read_text() == "anna anna-1 anna-2\nbert bert-1 bert-2\n"


def test_side_tables_lose_the_same_utterances(folder):
    folder.write("utt2dur", "anna-1 1\nanna-2 1\nbert-1 1\nbert-2 1\ncara-1 1\n")
    folder.write("feats.scp", "anna-1 f:1\nanna-2 f:2\nbert-1 f:3\nbert-2 f:4\n")
    folder.write("spk2gender", "anna f\nbert m\ncara f\n")
    folder.edit("text", b"bert-1 FOUR FIVE\nbert-2 SIX\n", b"")
    fix(folder.path)
    assert (folder.path / "utt2dur").read_text() == "anna-1 1\nanna-2 1\n"
    assert (folder.path / "feats.scp").read_text() == "anna-1 f:1\nanna-2 f:2\n"
    assert (folder.path / "spk2gender").read_text() == "anna f\n"


@pytest.mark.parametrize("groups", ["anna a\nbert b c\n", "anna a\n", "bert\nanna a\n"])
def test_speaker_without_a_group_goes(folder, groups):
    folder.write("spk2group", groups)
    assert (list(fix(folder.path).dropped), find_problems(folder.path)) == (["bert-1", "bert-2"], [])
    assert (folder.path / "spk2group").read_text() == "anna a\n"
    assert [u.group for u in datadir.read(folder.path).utterances] == ["a", "a"]


def test_of_two_tables_of_groups_that_of_utterances_stays(folder):
    folder.write("spk2group", "anna a\nbert b\n")
    folder.write("utt2group", "bert-1 d\nanna-1 c\nanna-2 c\nbert-2 d\n")
    assert fix(folder.path).changed == ("utt2group", "spk2group")
    assert [u.group for u in datadir.read(folder.path).utterances] == ["c", "c", "d", "d"]
    assert find_problems(folder.path) == []


def test_optional_table_left_empty_goes(folder):
    folder.write("utt2dur", "cara-1 1\n")
    folder.write("utt2task", "")
    fix(folder.path)
    assert not (folder.path / "utt2dur").exists()
    assert find_problems(folder.path) == []


def test_old_files_stay_in_the_backup(folder):
    folder.edit("text", b" THREE", b"")
    before = folder.content()
    fix(folder.path)
    changed = sorted(file.name for file in (folder.path / ".backup").iterdir())
    assert changed == ["spk2utt", "text", "utt2spk", "wav.scp"]
    for name in changed:
        assert (folder.path / ".backup" / name).read_bytes() == before[str(folder.path / name)]


def test_each_version_of_a_file_is_backed_up_once(folder):
    good = folder.content()
    versions = []
    for spoilt in (b"", b"", b" FOUR\r"):
        folder.edit("text", b" THREE", spoilt)
        versions.append((folder.path / "text").read_bytes())
        fix(folder.path)
        for name in ("text", "utt2spk", "spk2utt", "wav.scp"):
            (folder.path / name).write_bytes(good[str(folder.path / name)])
    backup = folder.path / ".backup"
    assert sorted(file.name for file in backup.glob("text*")) == ["text", "text.2"]
    assert [(backup / "text").read_bytes(), (backup / "text.2").read_bytes()] == [versions[0], versions[2]]


def test_good_directory_is_left_as_it_is(folder):
    before = folder.content()
    assert fix(folder.path).changed == ()
    assert folder.content() == before


def test_nothing_changes_where_nothing_would_remain(folder):
    for utt_id in ("anna-1", "anna-2", "bert-1", "bert-2"):
        folder.recording(utt_id).write_bytes(b"")
    before = folder.content()
    with pytest.raises(DataError, match=r"no utterance would remain, nothing was changed:\n  .*wav.scp:1"):
        fix(folder.path)
    assert folder.content() == before


def test_missing_table_is_refused_rather_than_everything_dropped(folder):
    (folder.path / "utt2spk").unlink()
    with pytest.raises(DataError, match="utt2spk: no such file; prepare the data again"):
        fix(folder.path)


@pytest.mark.parametrize("content", [None, "", "anna-1\nanna-2\r\nbert-1\nbert-2\nbert-3\n"])
def test_set_without_words_loses_no_utterance(folder, content):
    (folder.path / "text").unlink() if content is None else folder.write("text", content)
    folder.edit("wav.scp", b"bert-2.wav", b"bert-9.wav")
    repair = fix(folder.path)
    assert (list(repair.dropped), repair.num_kept) == (["bert-2"], 3)
    assert [p.is_warning for p in find_problems(folder.path)] == [True]
    assert (folder.path / "text").exists() == bool(content)


def test_limits_are_those_of_the_checks(segmented):
    segmented.edit("segments", b"anna 1.000 2.000", b"anna 1.000 1.500")
    checks = Checks(min_sec=0.6)
    assert list(fix(segmented.path, checks).dropped) == ["anna-2"]
    assert find_problems(segmented.path, checks) == []


def test_fixed_tables_are_sorted_as_by_sort(folder):
    folder.edit(*SPOILERS["unsorted"])
    fix(folder.path)
    for name in ("text", "utt2spk", "spk2utt", "wav.scp"):
        assert (
            subprocess.run(["sort", "-c", folder.path / name], env={"LC_ALL": "C"}, check=False).returncode
            == 0
        )


def test_texts_are_respelled_for_a_base_model_and_what_it_cannot_spell_is_dropped(folder):
    folder.edit("text", b"ONE TWO", b"One, two.")
    folder.edit("text", b"THREE", b"Three 3")
    texts = read_table(folder.path / "text")

    repair = fix(folder.path, tokens=char_tokens(["ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN"]))

    assert read_table(folder.path / "text")["anna-1"] == "ONE TWO"
    assert list(repair.dropped) == ["anna-2"]
    assert "contains '3', which the base model has no tokens for" in repair.dropped["anna-2"]
    assert read_table(folder.path / ".backup/text") == texts


def test_an_utterance_without_a_word_once_respelled_is_dropped(folder):
    folder.edit("text", b"ONE TWO", b"...")

    repair = fix(folder.path, tokens=char_tokens(["ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN"]))

    assert list(repair.dropped) == ["anna-1"]
    assert "'...' holds no words" in repair.dropped["anna-1"]
    assert find_problems(folder.path) == []


@pytest.mark.parametrize(
    ("words", "repair"), [(("--max-sec", 0.9), "--max-sec 0.9"), (("--min-sec", 1.1), "--min-sec 1.1")]
)
def test_the_command_that_a_problem_names_has_the_limits_that_found_it(folder, adaptkit, words, repair):
    found = adaptkit("data", "validate", folder.path, *words).stdout
    assert f"'adaptkit data fix {folder.path} {repair}' drops them" in found


def test_the_command_that_a_problem_names_has_the_tokens_that_found_it(folder):
    (problem,) = find_problems(folder.path, Checks(alphabet=frozenset("ONETWFURIVSX")))
    assert problem.remedy.endswith(f"'adaptkit data fix {folder.path} --tokens FILE' drops it")


def test_an_alphabet_applies_to_the_respelled_texts(folder):
    folder.edit("text", b"ONE TWO", b"One, two.")
    checks = Checks(alphabet=frozenset("ONETWFURIVSX"))
    repair = fix(folder.path, checks, tokens=char_tokens(["ONE TWO THREE FOUR FIVE SIX"]))
    assert list(repair.dropped) == ["anna-2"]
    assert read_table(folder.path / "text")["anna-1"] == "ONE TWO"
