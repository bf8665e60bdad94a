"""The comparison of experiments."""

import json
import shutil

import pytest

from adaptkit import report, result
from adaptkit.errors import AdaptkitError, CheckpointError, ScoringError


def test_json_holds_exactly_the_promised_keys(experiments):
    row = json.loads(report.as_json(report.load(experiments)))[0]
    params = ["params_trainable", "params_per_task", "params_base"]
    rates = ["wer", "wer_low", "wer_high", "cer", "by_task"]
    assert list(row) == ["name", "kind", "tasks", *params, *rates, "train_seconds", "peak_mb", "rtf"]


def test_figures_are_those_worked_by_hand(experiments):
    row = report.summarise(report.load(experiments)[1])
    assert (row.wer, row.by_task) == (12.5, {"ann": 25.0, "bob & <co>": 0.0})
    assert (row.params_trainable, row.train_seconds, row.rtf) == (5000, 125.0, 0.25)


def test_difference_from_the_baseline_is_paired(experiments):
    base, other = report.compare_all(report.load(experiments))
    assert base is None
    assert other.points == -37.5
    assert other.interval.low >= -50  # bob's gain, which one resample in four draws alone
    assert other.p_value < 0.05


def test_baseline_is_the_one_without_adapters_wherever_it_stands(experiments):
    assert report.find_baseline(report.load(experiments[::-1])).run.name == "none"


def test_table_is_aligned_and_marks_the_difference(experiments):
    lines = report.as_table(report.load(experiments)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].startswith("residual64 (residual)")
    assert "-37.50* (" in lines[2]
    assert "5,000 (5.00 %)" in lines[2]


def test_markdown_has_experiments_speakers_and_commands(experiments):
    text = report.as_markdown(report.load(experiments))
    assert "| residual64 (residual) | 12.50 (" in text
    assert "| bob & <co> | 50.00 | 0.00 |" in text
    assert "- `residual64`: `adaptkit train conf/residual64.yaml` (commit unknown)" in text
    assert text.endswith("Versions: torch 2.11.0.")


def test_set_goes_unnamed_only_where_it_is_the_only_one(experiments):
    shutil.copytree(experiments[0] / "decode_test", experiments[0] / "decode_dev")
    with pytest.raises(ScoringError, match=r"exp/none: several sets .* --set: dev, test"):
        report.load(experiments)
    assert len(report.load(experiments, "test")) == 2


def test_set_that_was_not_decoded_is_refused(experiments):
    with pytest.raises(ScoringError, match="set dev is not decoded, only: test"):
        report.load(experiments, "dev")


def test_experiments_on_different_sets_are_refused(experiments):
    (experiments[0] / "decode_test").rename(experiments[0] / "decode_dev")
    with pytest.raises(ScoringError, match=r"decoded different sets: .*decode_dev, .*decode_test"):
        report.load(experiments)


def test_experiments_scored_on_other_references_are_refused(experiments, tmp_path):
    decoded = experiments[1] / "decode_test"
    result.write(result.score_files(tmp_path / "data/text", decoded), decoded)  # without speakers
    with pytest.raises(ScoringError, match=r"residual64/decode_test: references or speakers are not those"):
        report.load(experiments)


def test_experiment_that_is_not_there_is_refused_with_the_nearest(experiments):
    wrong = experiments[1].with_name("residul64")
    with pytest.raises(AdaptkitError, match=r"no such experiment; did you mean '.*exp/residual64'"):
        report.load([wrong])


def test_no_experiment_is_refused():
    with pytest.raises(AdaptkitError, match="no experiment to report"):
        report.load([])


def test_undecoded_experiment_says_which_command_decodes_it(experiments):
    shutil.rmtree(experiments[0] / "decode_test")
    with pytest.raises(ScoringError, match="'adaptkit decode' makes it"):
        report.load(experiments)


def test_unscored_experiment_says_which_command_scores_it(experiments):
    (experiments[0] / "decode_test/score.json").unlink()
    with pytest.raises(ScoringError, match=r"'adaptkit score data/test .*exp/none/decode_test' makes it"):
        report.load(experiments)


def test_untrained_experiment_says_which_command_trains_it(experiments):
    (experiments[1] / "run.json").unlink()
    with pytest.raises(CheckpointError, match=r"residual64/run\.json: no such file; 'adaptkit train'"):
        report.load(experiments)
