"""What hypotheses and scores were made from."""

import json
from dataclasses import replace

import pytest

from adaptkit.errors import CheckpointError, ScoringError
from adaptkit.kaldi.tables import write_table
from adaptkit.records import DecodeRecord
from adaptkit.scoring import files as score_files
from adaptkit.scoring.origin import find_changed

REFS = {"ann-1": "a b", "bob-1": "c d"}
RECORD = DecodeRecord("test", 2, 4.0, 1.0, 800.0, 1, True, "dump/test", "9f3a")


@pytest.fixture
def decode(tmp_path):
    """Write references and the folder of an experiment's hypotheses; keywords change their record."""
    write_table(tmp_path / "data/text", REFS)
    write_table(tmp_path / "data/utt2spk", {"ann-1": "ann", "bob-1": "bob"})

    def write(name, **changes):
        folder = tmp_path / "exp" / name / "decode_test"
        write_table(folder / "text", {**REFS, "bob-1": "c"})
        replace(RECORD, **changes).write(folder / "run.json")
        return folder

    return write


def compare(folder, other, tmp_path, **options):
    return score_files.score_files(tmp_path / "data", folder, other=other, **options).difference


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base_fingerprint": "1234"},
            "base model 1234 against 9f3a; decode both with one base model and set",
        ),
        ({"set_name": "dev"}, "set dev against test"),
        ({"audio_sec": 9.0}, r"seconds of audio 9\.0 against 4\.0"),
    ],
)
def test_unlike_hypotheses_are_compared_only_on_request(decode, tmp_path, changes, message):
    none, other = decode("none"), decode("other", **changes)
    with pytest.raises(ScoringError, match=message):
        compare(other, none, tmp_path)
    with pytest.raises(ScoringError, match=message):
        compare(other / "text", none / "text", tmp_path)
    assert compare(other, none, tmp_path, allow_unlike=True).points == 0


def test_hypotheses_of_one_base_and_set_are_compared(decode, tmp_path):
    assert compare(decode("residual"), decode("none"), tmp_path).points == 0


def test_earlier_records_leave_the_base_to_the_experiment(experiments, write_run, tmp_path):
    none, residual = (folder / "decode_test" for folder in experiments)
    assert compare(residual, none, tmp_path).points == -37.5
    record = json.loads((experiments[0] / "run.json").read_text())
    (experiments[0] / "run.json").write_text(json.dumps({**record, "base_fingerprint": "1234"}))
    with pytest.raises(ScoringError, match="base model 9f3a against 1234"):
        compare(residual, none, tmp_path)


def test_damaged_record_is_named_with_what_writes_it(decode, tmp_path):
    none, other = decode("none"), decode("other")
    (none / "run.json").write_text("{")
    with pytest.raises(
        CheckpointError, match=r"none/decode_test/run\.json: .*'adaptkit decode' writes it again"
    ):
        compare(other, none, tmp_path)


def test_score_says_which_tables_changed_since(decode, tmp_path):
    folder = decode("none")
    score_files.write(score_files.score_files(tmp_path / "data", folder), folder)
    sources = score_files.read(folder / "score.json").sources
    assert (sources.keys(), sources["ref"].path) == ({"ref", "hyp", "utt2spk"}, "../../../data/text")
    assert find_changed(sources, folder) == []
    (tmp_path / "data/text").write_bytes(b"bob-1  c d\r\nann-1 a b\r\n")  # means the same
    assert find_changed(sources, folder) == []
    write_table(tmp_path / "data/text", {**REFS, "ann-1": "a c"})
    write_table(folder / "text", REFS)
    assert [path.split("/")[-2:] for path in find_changed(sources, folder)] == [
        ["data", "text"],
        ["decode_test", "text"],
    ]


def test_references_that_moved_are_not_missed(decode, tmp_path):
    folder = decode("none")
    report = score_files.score_files(tmp_path / "data", folder)
    (tmp_path / "data").rename(tmp_path / "moved")
    assert find_changed(report.sources, folder) == []


def test_references_are_found_from_experiments_that_a_link_leads_to(decode, tmp_path):
    (tmp_path / "scratch/deep/exp").mkdir(parents=True)
    (tmp_path / "exp").symlink_to(tmp_path / "scratch/deep/exp")
    folder = decode("none")
    sources = score_files.score_files(tmp_path / "data", folder).sources
    assert find_changed(sources, folder) == []
    write_table(tmp_path / "data/text", {**REFS, "ann-1": "a c"})
    assert [path.split("/")[-2:] for path in find_changed(sources, folder)] == [["data", "text"]]
