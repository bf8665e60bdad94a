"""Gathering runs from disk."""

import dataclasses
import json
import re
import shlex
import shutil

import pytest

from adaptkit import config
from adaptkit.errors import AdaptkitError, CheckpointError, ScoringError
from adaptkit.files import checksum
from adaptkit.kaldi.tables import write_table
from adaptkit.records import DecodeRecord, RunRecord
from adaptkit.report import runs
from adaptkit.scoring import files as score_files
from tests.fixtures.runs import REFS


def change_record(folder, **changes):
    record = RunRecord.read(folder / "run.json")
    dataclasses.replace(record, **changes).write(folder / "run.json")


def test_runs_of_one_name_are_one_experiment_in_the_order_of_seeds(seeded):
    results = runs.load(seeded).results
    assert [(o.name, o.seeds) for o in results] == [("none", [0]), ("residual64", [1, 2]), ("hra", [1])]


def test_name_is_that_of_the_record_whatever_the_folder(experiments):
    change_record(experiments[1], name="mine")
    assert [o.name for o in runs.load(experiments).results] == ["none", "mine"]


def test_same_seed_twice_is_refused_with_both_folders(seeded):
    change_record(seeded[1], seed=1)
    message = r"exp/residual64/2, .*exp/residual64/1: both are experiment 'residual64' with seed 1; omit one"
    with pytest.raises(AdaptkitError, match=message):
        runs.load(seeded)


def test_seeds_of_another_configuration_are_refused(seeded):
    change_record(seeded[1], params_per_task=3, params_trainable=6)
    with pytest.raises(
        AdaptkitError, match=r"but differ in params_trainable, params_per_task; use a different"
    ):
        runs.load(seeded)


def test_baseline_is_the_one_without_adapters_wherever_it_stands(experiments):
    assert [o.name for o in runs.load(experiments[::-1]).baselines] == ["none"]


def test_baselines_are_those_named_once_each(seeded):
    found = runs.load(seeded, minus=["hra", "none", "hra"]).baselines
    assert [o.name for o in found] == ["hra", "none"]


def test_unknown_baseline_is_refused_with_the_nearest(seeded):
    message = (
        r"no experiment 'residual'; did you mean 'residual64'\?; the experiments are none, residual64, hra"
    )
    with pytest.raises(AdaptkitError, match=f"--minus: {message}"):
        runs.load(seeded, minus=["residual"])


def test_set_goes_unnamed_only_where_it_is_the_only_one(experiments):
    shutil.copytree(experiments[0] / "decode_test", experiments[0] / "decode_dev")
    with pytest.raises(ScoringError, match=r"exp/none: several sets .* --test-set: dev, test"):
        runs.load(experiments)
    assert len(runs.load(experiments, "test").results) == 2


def test_set_that_was_not_decoded_is_refused(experiments):
    with pytest.raises(ScoringError, match="set dev is not decoded, only test"):
        runs.load(experiments, "dev")


def test_experiments_on_different_sets_are_refused(experiments):
    (experiments[0] / "decode_test").rename(experiments[0] / "decode_dev")
    with pytest.raises(ScoringError, match=r"decoded different sets: .*decode_dev, .*decode_test"):
        runs.load(experiments)


def test_experiments_scored_on_other_references_are_refused(experiments, tmp_path):
    decoded = experiments[1] / "decode_test"
    score_files.write(score_files.score_files(tmp_path / "data/text", decoded), decoded)  # without speakers
    with pytest.raises(
        ScoringError, match=r"residual64/decode_test: references, speakers or groups differ from those"
    ):
        runs.load(experiments)


def test_experiment_that_is_not_there_is_refused_with_the_nearest(experiments):
    wrong = experiments[1].with_name("residul64")
    with pytest.raises(AdaptkitError, match=r"no such experiment; did you mean '.*exp/residual64'"):
        runs.load([wrong])


def test_no_experiment_is_refused():
    with pytest.raises(AdaptkitError, match="no experiment to report"):
        runs.load([])


def test_undecoded_experiment_says_which_command_decodes_it(experiments):
    shutil.rmtree(experiments[0] / "decode_test")
    with pytest.raises(ScoringError, match="'adaptkit decode' creates it"):
        runs.load(experiments)


def test_unscored_experiment_says_which_command_scores_it(experiments):
    (experiments[0] / "decode_test/score.json").unlink()
    with pytest.raises(ScoringError, match=r"'adaptkit score data/test .*exp/none/decode_test' creates it"):
        runs.load(experiments)


def test_hypotheses_of_earlier_adapters_are_refused(experiments):
    adapter, decoded = experiments[1] / "adapter.safetensors", experiments[1] / "decode_test"
    adapter.write_bytes(b"weights")
    record = DecodeRecord.read(decoded / "run.json")
    weights = {"../adapter.safetensors": checksum(adapter)}
    dataclasses.replace(record, weights=weights).write(decoded / "run.json")
    assert len(runs.load(experiments).results) == 2
    adapter.write_bytes(b"others")
    message = r"decode_test: not decoded with .*adapter\.safetensors as it is now; run 'adaptkit decode' and"
    with pytest.raises(ScoringError, match=message):
        runs.load(experiments)


def test_hypotheses_of_an_earlier_base_model_are_refused(experiments):
    change_record(experiments[0], kind="base")
    record = DecodeRecord.read(experiments[0] / "decode_test/run.json")
    dataclasses.replace(record, base_fingerprint="1234").write(experiments[0] / "decode_test/run.json")
    with pytest.raises(ScoringError, match="decode_test: not decoded with base model 9f3a"):
        runs.load(experiments)


def test_hypotheses_of_adapters_are_not_those_of_the_base_alone(experiments):
    path = experiments[0] / "decode_test/run.json"
    dataclasses.replace(DecodeRecord.read(path), weights={"../gone": 1}).write(path)
    with pytest.raises(ScoringError, match=r"not decoded with the base model alone, as .*none/run.json says"):
        runs.load(experiments)


def test_runs_decoded_by_different_searches_are_not_pooled(seeded):
    path = seeded[1] / "decode_test/run.json"
    dataclasses.replace(DecodeRecord.read(path), search={"kind": "beam"}).write(path)
    with pytest.raises(AdaptkitError, match="'residual64' but differ in search; decode all its runs alike"):
        runs.load(seeded)


def test_hypotheses_of_different_sets_in_folders_of_one_name_are_refused(experiments):
    record = DecodeRecord.read(experiments[0] / "decode_test/run.json")
    dataclasses.replace(record, set_name="test_noisy").write(experiments[0] / "decode_test/run.json")
    with pytest.raises(ScoringError, match=r"none/decode_test \(test_noisy\), .*\(test\): of different sets"):
        runs.load(experiments)


def test_set_without_references_is_no_reason_to_score_it(experiments, tmp_path):
    decoded = experiments[0] / "decode_test"
    (decoded / "score.json").unlink()
    record = DecodeRecord.read(decoded / "run.json")
    dataclasses.replace(record, data=str(tmp_path / "data")).write(decoded / "run.json")
    with pytest.raises(ScoringError, match=f"'adaptkit score {tmp_path}/data .*decode_test' creates it"):
        runs.load(experiments)
    (tmp_path / "data/text").unlink()
    with pytest.raises(ScoringError, match="data/text: no such file.*: the set has no references"):
        runs.load(experiments)


def test_score_of_earlier_hypotheses_is_refused(experiments):
    decoded = experiments[0] / "decode_test"
    write_table(decoded / "text", REFS)
    message = (
        r"score\.json: older than .*decode_test/text, which changed since; 'adaptkit score .*/data .*again"
    )
    with pytest.raises(ScoringError, match=message):
        runs.load(experiments)


def test_score_against_earlier_references_is_refused(experiments, tmp_path):
    write_table(tmp_path / "data/text", {**REFS, "ann-0": "a b c e"})
    with pytest.raises(ScoringError, match="older than .*data/text, which changed since"):
        runs.load(experiments)


def test_the_command_that_scores_again_does_so_as_before(experiments, tmp_path, adaptkit):
    ours = tmp_path / "my data"
    shutil.copytree(tmp_path / "data", ours)
    (tmp_path / "groups").write_text("".join(f"{name} one\n" for name in REFS))
    options = ["--normalize", "lower", "--utt2group", tmp_path / "groups"]
    for folder in experiments:
        adaptkit("score", ours, folder / "decode_test", *options)
    write_table(ours / "text", {**REFS, "ann-0": "a b c e"})
    for folder in experiments:
        with pytest.raises(ScoringError, match="changed since; 'adaptkit score .*' writes it") as caught:
            runs.load([folder])
        adaptkit(*shlex.split(re.search("'adaptkit (.*)' writes", str(caught.value))[1]))
    (result, _) = runs.load(experiments).results
    assert (result.score.normalize, result.score.groups) == (("lower",), ["one"])
    assert result.score.sources["ref"].path.endswith("my data/text")


@pytest.mark.parametrize("key", ["ref", "hyp"])
def test_score_that_does_not_say_what_was_scored_is_refused(experiments, key):
    path = experiments[0] / "decode_test/score.json"
    data = json.loads(path.read_text())
    del data["sources"][key]
    path.write_text(json.dumps(data))
    with pytest.raises(
        ScoringError, match="does not say what was scored, as earlier versions; 'adaptkit score"
    ):
        runs.load(experiments)


def test_scores_that_were_not_normalised_alike_are_refused(experiments, tmp_path):
    decoded = experiments[0] / "decode_test"
    score_files.write(score_files.score_files(tmp_path / "data", decoded, normalize=["nfc"]), decoded)
    with pytest.raises(ScoringError, match="scored with --normalize none and nfc; score all of them alike"):
        runs.load(experiments)


def test_hypotheses_of_another_base_are_refused_whatever_the_experiment_says(experiments):
    record = DecodeRecord.read(experiments[0] / "decode_test/run.json")
    dataclasses.replace(record, base_fingerprint="1234").write(experiments[0] / "decode_test/run.json")
    with pytest.raises(ScoringError, match="for another base model"):
        runs.load(experiments)


def test_settings_that_are_none_are_no_traceback(experiments):
    config.write_yaml(experiments[1] / "config.yaml", {"train": [1], 2: "two"})
    assert len(runs.load(experiments).results) == 2


def test_untrained_experiment_says_which_command_trains_it(experiments):
    (experiments[1] / "run.json").unlink()
    with pytest.raises(CheckpointError, match=r"residual64/run\.json: no such file; 'adaptkit train'"):
        runs.load(experiments)


def test_seeds_of_unlike_configurations_are_not_one_experiment(seeded):
    for folder, lr in zip(seeded[1:3], (1e-2, 1e-4), strict=True):
        config.write_yaml(folder / "config.yaml", {"train": {"lr": lr, "seed": int(folder.name)}})
    with pytest.raises(AdaptkitError, match="both are experiment 'residual64' but differ in train:; use"):
        runs.load(seeded)


def test_seeds_of_one_configuration_are_one_experiment(seeded):
    for folder in seeded[1:3]:
        config.write_yaml(folder / "config.yaml", {"train": {"lr": 1e-2, "seed": int(folder.name)}})
    assert runs.load(seeded).results[1].seeds == [1, 2]


@pytest.mark.parametrize("lr", [1e-2, 1e-4])
def test_seeds_that_start_from_seeds_of_one_experiment_are_one_experiment(seeded, tmp_path, lr):
    for folder, start_lr in zip(seeded[1:3], (1e-2, lr), strict=True):
        start, seed = tmp_path / f"shared/{folder.name}", int(folder.name)
        start.mkdir(parents=True)
        config.write_yaml(start / "config.yaml", {"train": {"lr": start_lr, "seed": seed}})
        config.write_yaml(folder / "config.yaml", {"train": {"start": str(start), "seed": seed}})
    if lr == 1e-2:
        assert runs.load(seeded).results[1].seeds == [1, 2]
    else:
        with pytest.raises(AdaptkitError, match="both are experiment 'residual64' but differ in train:; use"):
            runs.load(seeded)


def test_seeds_with_starts_that_are_gone_are_compared_by_their_folders(seeded):
    for folder in seeded[1:3]:
        config.write_yaml(folder / "config.yaml", {"train": {"start": f"gone/{folder.name}"}})
    with pytest.raises(AdaptkitError, match="differ in train:; use"):
        runs.load(seeded)
