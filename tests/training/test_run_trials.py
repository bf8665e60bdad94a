"""Whole trainings with folds or several learning rates: what they leave, refuse, and survive."""

import pytest

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.model import checkpoint
from adaptkit.records import RunRecord
from adaptkit.training.run import train_adapters

pytestmark = pytest.mark.slow
SMALL = {"max_epochs": 3, "batch_frames": 10**6, "valid_metric": "loss", "warmup_steps": 0}
SHARED = {"kind": "bitfit", "per_task": False}
GRID = {"lr": [0.002, 0.02], **SMALL}


@pytest.fixture
def made(settings):
    """Make an experiment without a validation set, or with one, of residual or other adapters."""

    def make(*, has_valid=False, adapter=None, **training):
        whole = settings(**training)
        data = whole.data if has_valid else whole.data.model_copy(update={"valid": None})
        entries = (api.read_config(adapter),) if adapter else whole.adapters
        return whole.model_copy(update={"data": data, "adapters": entries})

    return make


def train(settings, folder, **options):
    train_adapters(settings, folder, device="cpu", **options)


def test_folds_leave_a_run_a_table_and_the_logs_of_trials(made, tmp_path):
    settings = made(folds=2, **GRID)
    train(settings, tmp_path / "exp")
    found = {str(path.relative_to(tmp_path / "exp")) for path in (tmp_path / "exp").rglob("*.*")}
    assert {path for path in found if "trials" in path} == {
        f"trials/{name}" + end
        for name in (f"lr_{lr}_fold_{number}" for lr in (0.002, 0.02) for number in (1, 2))
        for end in ("", "/train.jsonl", "/validation.tsv")
    }
    of_run = {"adapter.safetensors", "config.yaml", "run.json", "state.safetensors", "train.jsonl"}
    assert {path for path in found if "trials" not in path} == of_run | {"selection.tsv"}
    assert experiment.load(tmp_path / "exp/config.yaml") == settings


def test_the_record_counts_speakers_by_rate_and_epochs_and_the_table_lists_them(made, tmp_path):
    train(made(folds=2, **GRID), tmp_path / "exp")
    run = RunRecord.read(tmp_path / "exp/run.json")
    head, *rows = [line.split("\t") for line in (tmp_path / "exp/selection.tsv").read_text().splitlines()]
    assert head == ["speaker", "lr", "epochs", "metric", "at_start", "best", "loss_at_start", "loss_best"]
    assert [row[0] for row in rows] == run.tasks
    rates, epochs = ([row[column] for row in rows] for column in (1, 2))
    assert run.selection["lr"] == {lr: rates.count(lr) for lr in rates if lr != "-"}
    assert run.selection["epochs"] == {number: epochs.count(number) for number in epochs}
    assert run.unimproved == [row[0] for row in rows if row[1] == "-"]
    assert run.valid_metric == "loss"


def test_resuming_a_finished_run_changes_no_file(made, tmp_path, content):
    for name, settings in {"folds": made(folds=2, **SMALL), "grid": made(has_valid=True, **GRID)}.items():
        train(settings, tmp_path / name)
        before = content(tmp_path / name)
        train(settings, tmp_path / name, resume=True)
        assert content(tmp_path / name) == before


def test_a_run_with_trials_is_not_begun_twice_nor_lengthened(made, tmp_path):
    train(made(folds=2, **SMALL), tmp_path / "exp")
    with pytest.raises(CheckpointError, match="holds a run already"):
        train(made(folds=2, **SMALL), tmp_path / "exp")
    with pytest.raises(CheckpointError, match="trials over .* cannot be trained for more epochs"):
        train(made(folds=2, **{**SMALL, "max_epochs": 5}), tmp_path / "exp", resume=True)


def test_a_killed_run_resumes_to_the_same_bytes_and_until_its_trials_are_over_with_other_rates(
    made, tmp_path, kill_at, tensors_in, assert_same, content
):
    whole, killed, first, yaml = (tmp_path / name for name in ("whole", "killed", "first.yaml", "tiny.yaml"))
    settings = made(folds=2, **{**GRID, "save_every_steps": 1})
    for path, rates in ((first, (0.002, 0.5)), (yaml, GRID["lr"])):
        experiment.save(made(folds=2, **{**GRID, "lr": rates, "save_every_steps": 1}), path)
    train(settings, whole)
    words = ("--exp", killed, "--device", "cpu", "--resume")
    kill_at(1, killed / "trials/lr_0.5_fold_1", "train", first, *words)
    with pytest.raises(CheckpointError, match=f"{killed}: holds a run already"):
        train(settings, killed)
    kill_at(1, killed, "train", yaml, *words)
    train(settings, killed, resume=True)
    assert_same(tensors_in(killed), tensors_in(whole))
    for name in ("adapter.safetensors", "selection.tsv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    names = {name.replace("whole", "killed") for name in content(whole)}
    assert {name for name in content(killed) if "lr_0.5" not in name} == names


def test_folds_beside_a_validation_set_and_neither_are_refused(made, tmp_path):
    with pytest.raises(ConfigError, match=r"folds=2 holds out .* data\.valid \(.*valid\): set data\.valid"):
        train(made(has_valid=True, folds=2, **SMALL), tmp_path / "exp")
    with pytest.raises(ConfigError, match=r"valid is missing; name a .*or hold out .* with train\.folds"):
        train(made(**SMALL), tmp_path / "exp")


def test_early_stopping_and_averages_beside_folds_are_refused(made):
    with pytest.raises(ValueError, match="so patience must be null and average 1, not 3 and 2"):
        made(folds=2, patience=3, average=2)


def test_a_choice_per_speaker_is_refused_where_weights_are_shared(made, tmp_path):
    settings = made(adapter=SHARED, folds=2, select="speaker", **SMALL)
    with pytest.raises(ConfigError, match=r"train\.select: speaker: .*share trained weights"):
        train(settings, tmp_path / "exp")


def test_a_shared_adapter_is_trained_for_the_epochs_of_all(made, tmp_path):
    train(made(adapter=SHARED, folds=3, **SMALL), tmp_path / "exp")
    run = RunRecord.read(tmp_path / "exp/run.json")
    assert run.selection["epochs"] == {str(run.epochs - 3 * SMALL["max_epochs"]): 3}


def test_speakers_whom_no_epoch_helps_keep_the_shared_adapter_that_they_start_from(made, tmp_path):
    train(made(folds=2, shared=True, **SMALL), tmp_path / "shared")
    train(made(folds=2, start=str(tmp_path / "shared"), min_gain=0.9, **SMALL), tmp_path / "exp")
    shared, own = (checkpoint.load(tmp_path / name / "adapter.safetensors") for name in ("shared", "exp"))
    assert (shared.unimproved, own.unimproved) == ((), own.tasks)
    assert all((own.weights[name] == weight).all() for name, weight in shared.weights.items())


def test_cached_encoder_outputs_are_computed_once_for_all_trials(made, tmp_path):
    train(made(adapter={"kind": "hff", "cache": True}, folds=2, **GRID), tmp_path / "exp")
    arks = [str(path.relative_to(tmp_path / "exp")) for path in (tmp_path / "exp").rglob("*.ark")]
    assert arks == ["taps/train.ark"]
    assert checkpoint.load(tmp_path / "exp/adapter.safetensors").kind == "hff"
