"""The command `adaptkit score`."""

import json

import pytest

from adaptkit.errors import ScoringError
from adaptkit.kaldi.tables import write_table
from adaptkit.scoring import files as score_files


@pytest.fixture
def score(adaptkit):
    """Run `adaptkit score`."""
    return lambda *words: adaptkit("score", *words)


@pytest.fixture
def folders(tmp_path):
    write_table(tmp_path / "data/text", {"ann-1": "a b", "bob-1": "c d"})
    write_table(tmp_path / "data/utt2spk", {"ann-1": "ann", "bob-1": "bob"})
    write_table(tmp_path / "decode_test/text", {"ann-1": "a b", "bob-1": "c"})
    return tmp_path / "data", tmp_path / "decode_test"


def test_score_prints_what_it_writes_beside_the_hypotheses(score, folders):
    printed = score(*folders).stdout
    assert printed.startswith("%WER 25.00 [ 1 / 4, 0 ins, 1 del, 0 sub ]\n")
    assert (folders[1] / "RESULT").read_text() == printed
    assert score_files.read(folders[1] / "score.json").total.errors == 1


def test_score_of_text_files_writes_nothing(score, folders):
    ref, hyp = (folder / "text" for folder in folders)
    assert score(ref, hyp).exit_code == 0
    assert [path.name for path in hyp.parent.iterdir()] == ["text"]


def test_score_writes_json_where_it_is_told(score, folders, tmp_path):
    score(*folders, "--json", tmp_path / "own.json")
    assert (tmp_path / "own.json").read_text() == (folders[1] / "score.json").read_text()


def test_score_prints_json_with_alignments_on_request(score, folders):
    data = json.loads(score(*folders, "--format", "json", "--alignments").stdout)
    assert data["wer"] == 25.0
    assert data["utterances"][1]["alignment"] == [["c", "c"], ["d", None]]


def test_score_compares_with_other_hypotheses(score, folders, tmp_path):
    write_table(tmp_path / "other", {"ann-1": "a", "bob-1": "c"})
    assert (
        f"WER minus that of {tmp_path / 'other'}: -25.00 ("
        in score(*folders, "--compare", tmp_path / "other").stdout
    )


def test_score_of_one_changed_utterance_has_no_low_p_value(score, folders, tmp_path):
    write_table(tmp_path / "other", {"ann-1": "a", "bob-1": "c"})
    ref, hyp = (folder / "text" for folder in folders)
    printed = score(ref, hyp, "--compare", tmp_path / "other").stdout
    assert "; p = 1.000)" in printed


def test_score_normalises_on_request(score, folders):
    write_table(folders[1] / "text", {"ann-1": "A b", "bob-1": "c D"})
    assert score(*folders).stdout.startswith("%WER 50.00 ")
    printed = score(*folders, "--normalize", "nfc", "--normalize", "lower").stdout
    assert printed.startswith("%WER 0.00 ")
    assert "Texts were normalised before: lower, nfc\n" in printed
    assert score_files.read(folders[1] / "score.json").normalize == ("lower", "nfc")


def test_allowing_what_is_not_compared_is_misuse(score, folders):
    assert score(*folders, "--allow-unlike").exit_code == 2


def test_a_seed_below_zero_is_misuse(score, folders):
    assert score(*folders, "--seed", "-1").exit_code == 2


def test_score_refuses_hypotheses_of_another_set(score, folders, tmp_path):
    write_table(tmp_path / "other", {"eve-1": "a"})
    done = score(folders[0], tmp_path / "other")
    assert isinstance(done.error, ScoringError)
    assert "no hypothesis for ann-1, bob-1" in done.stderr
    assert not (folders[1] / "RESULT").exists()


def test_swapped_arguments_write_nothing_into_the_data_directory(score, folders):
    data, decoded = folders
    done = score(decoded / "text", data)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{data}: a data directory" in done.stderr
    assert sorted(path.name for path in data.iterdir()) == ["text", "utt2spk"]


def test_score_without_hypotheses_is_misuse(score, folders):
    assert score(folders[0]).exit_code == 2
