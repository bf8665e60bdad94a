"""What trainings and decodings leave behind."""

import json
import logging
import os
from dataclasses import asdict, replace

import pytest

from adaptkit.errors import AdaptkitError, CheckpointError
from adaptkit.records import DecodeRecord, LearningCurves, RunRecord, read_curves

RUN = RunRecord(
    name="residual64",
    kind="residual",
    tasks=["ann", "bob"],
    base_fingerprint="9f3a",
    params_base=1000,
    params_trainable=100,
    params_per_task=50,
    train_seconds=61.5,
    peak_mb=900.0,
    epochs=12,
    steps=300,
    seed=0,
    versions={"torch": "2.11.0"},
    recipe_commit=None,
    command="adaptkit train conf/residual.yaml",
)
DECODE = DecodeRecord(
    set_name="test",
    num_utterances=20,
    audio_sec=80.0,
    decode_seconds=20.0,
    peak_mb=800.0,
    batch_size=1,
    base_only=False,
)


@pytest.mark.parametrize("record", [RUN, DECODE])
def test_record_is_read_back(record, tmp_path):
    record.write(tmp_path / "run.json")
    assert type(record).read(tmp_path / "run.json") == record


@pytest.fixture
def large(tmp_path):
    """The record of a run with many speakers, in a file."""
    tasks = [f"spk{number:04}" for number in range(2000)]
    run = RunRecord(
        "run", "lora", tasks, "9f", 1, 0, 0, 1.0, 1.0, 1, 1, 0, {}, None, "", unimproved=tasks[7:9]
    )
    run.write(tmp_path / "run.json")
    return run


def test_a_record_of_many_speakers_is_short_and_names_them_in_a_table(large, tmp_path):
    content = (tmp_path / "run.json").read_text()
    assert len(content) < 2000
    assert json.loads(content)["tasks"]["number"] == 2000
    assert (tmp_path / "speakers.tsv").read_text().splitlines()[7:9] == ["spk0006\ttrained", "spk0007\tstart"]
    assert RunRecord.read(tmp_path / "run.json") == large


def test_a_record_of_few_speakers_leaves_no_table_of_an_earlier_one(large, tmp_path):
    few = replace(large, tasks=["a"], unimproved=[])
    few.write(tmp_path / "run.json")
    assert RunRecord.read(tmp_path / "run.json") == few
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_record_whose_table_is_gone_or_another_is_refused(large, tmp_path):
    table = tmp_path / "speakers.tsv"
    table.write_text("\n".join(table.read_text().splitlines()[:50]) + "\n")
    with pytest.raises(
        CheckpointError, match=r"speakers.tsv: not the table of the 2000 speakers of .*run.json"
    ):
        RunRecord.read(tmp_path / "run.json")
    table.unlink()
    with pytest.raises(
        CheckpointError, match=r"speakers.tsv: no such file, though .*run.json has its speakers"
    ):
        RunRecord.read(tmp_path / "run.json")


def test_real_time_factor_is_decoding_per_recording():
    assert DECODE.rtf == 0.25


@pytest.mark.parametrize(("kind", "command"), [(RunRecord, "train"), (DecodeRecord, "decode")])
def test_missing_record_says_which_command_makes_it(kind, command, tmp_path):
    with pytest.raises(CheckpointError, match=f"run.json: no such file; 'adaptkit {command}'"):
        kind.read(tmp_path / "run.json")


def test_incomplete_record_names_its_file_and_keys(tmp_path):
    (tmp_path / "run.json").write_text('{"set_name": "test", "audio_sec": "long"}')
    with pytest.raises(CheckpointError, match=r"run\.json: .*num_utterances.*audio_sec"):
        DecodeRecord.read(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params_base": 0}, "params_base: Input should be greater than 0"),
        ({"params_trainable": 10**400}, "params_trainable"),
        ({"epochs": -1}, "epochs"),
        ({"train_seconds": float("inf")}, "train_seconds"),
        ({"tasks": "ann"}, "tasks"),
    ],
)
def test_record_with_impossible_figures_is_refused(tmp_path, changes, message):
    (tmp_path / "run.json").write_text(json.dumps({**asdict(RUN), **changes}))
    with pytest.raises(CheckpointError, match=rf"run\.json: .*{message}"):
        RunRecord.read(tmp_path / "run.json")


def test_record_that_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(AdaptkitError, match="is a FIFO, not a regular file"):
        RunRecord.read(tmp_path / "run.json")


def test_decoding_of_no_audio_has_a_real_time_factor_of_0():
    assert replace(DECODE, audio_sec=0.0).rtf == 0


@pytest.mark.parametrize(
    "line",
    [
        "[" * 10**5,
        "1" * 5000,
        "[]",
        "3",
        '"event"',
        '{"event": ["step"], "step": 1}',
        '{"event": "step", "step": "1"}',
        '{"event": "step", "step": -1, "loss": 1}',
        '{"event": "step", "step": true, "loss": 1}',
    ],
)
def test_damaged_line_of_a_log_is_skipped_and_named(tmp_path, caplog, line):
    (tmp_path / "train.jsonl").write_text(f'{line}\n{{"event": "step", "step": 2, "loss": 4.0}}\n')
    assert read_curves(tmp_path / "train.jsonl") == LearningCurves(((2, 4.0),), ())
    assert "train.jsonl:1: an incomplete or damaged line is skipped" in caplog.text


@pytest.mark.parametrize("value", ['"low"', "null", "NaN", "Infinity", "1e300", "[1]", "true"])
def test_value_that_is_no_figure_is_not_shown(tmp_path, value):
    (tmp_path / "train.jsonl").write_text(f'{{"event": "step", "step": 2, "loss": {value}}}\n')
    assert read_curves(tmp_path / "train.jsonl") == LearningCurves()


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 10**5])
def test_broken_record_is_refused(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run\.json: the file: "):
        RunRecord.read(tmp_path / "run.json")


def write_lines(path, *events):
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_progress_keeps_losses_and_validations(tmp_path):
    path = write_lines(
        tmp_path / "train.jsonl",
        {"event": "start"},
        {"event": "step", "step": 1, "loss": 5.0},
        {"event": "step", "step": 2, "loss": 4.0},
        {"event": "valid", "step": 2, "loss": 3.0, "wer": 20.0},
        {"event": "end"},
    )
    assert read_curves(path) == LearningCurves(loss=((1, 5.0), (2, 4.0)), wer=((2, 20.0),))


def test_progress_of_a_run_validated_by_characters_is_its_cer(tmp_path):
    event = {"event": "valid", "step": 2, "loss": 3.0, "wer": 90.0, "cer": 20.0, "metric": "cer"}
    assert read_curves(write_lines(tmp_path / "train.jsonl", event)) == LearningCurves(cer=((2, 20.0),))


def test_steps_done_again_replace_the_first(tmp_path):
    steps = [{"event": "step", "step": step, "loss": loss} for step, loss in ((1, 9.0), (2, 8.0), (2, 7.0))]
    assert read_curves(write_lines(tmp_path / "train.jsonl", *steps)).loss == ((1, 9.0), (2, 7.0))


def test_line_cut_short_is_left_out_with_a_warning(tmp_path, caplog):
    path = write_lines(tmp_path / "train.jsonl", {"event": "step", "step": 1, "loss": 5.0})
    path.write_text(path.read_text() + '{"event": "step", "st')
    with caplog.at_level(logging.WARNING):
        assert read_curves(path).loss == ((1, 5.0),)
    assert "train.jsonl:2" in caplog.text


def test_records_of_before_call_the_recipes_commit_commit(tmp_path):
    content = {**asdict(RUN), "commit": "abc"}
    del (
        content["recipe_commit"],
        content["toolkit_commit"],
        content["host"],
        content["date"],
        content["device"],
    )
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert RunRecord.read(tmp_path / "run.json") == replace(RUN, recipe_commit="abc")
