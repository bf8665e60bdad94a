"""Whole trainings of adapters: what they leave, what they refuse, and that they survive being killed."""

import shutil
import time

import pytest

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.errors import CheckpointError, ConfigError, DataError
from adaptkit.kaldi import datadir, subset
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.model import checkpoint
from adaptkit.records import RunRecord
from adaptkit.tensors import read_tensors, write_tensors
from adaptkit.training import enroll
from adaptkit.training import run as training_run
from adaptkit.training.state import identify

pytestmark = pytest.mark.slow


def with_training(settings, **changes):
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


@pytest.fixture(scope="module")
def trained(base_dir, corpus, tmp_path_factory):
    """A folder with trained adapters; no test may change it."""
    folder = tmp_path_factory.mktemp("exp") / "tiny"
    sets = {"train": str(corpus / "dump/train"), "valid": str(corpus / "dump/valid")}
    entry = {"kind": "residual", "bottleneck": 4}
    section = {"name": "tiny", "base": {"dir": str(base_dir)}, "data": sets, "adapters": [entry]}
    settings = experiment.Experiment.model_validate({**section, "train": {"max_epochs": 1, "lr": 0.01}})
    training_run.train_adapters(settings, folder, device="cpu")
    return folder, settings


def test_a_training_leaves_adapters_settings_journal_state_and_record(trained):
    folder, settings = trained
    names = {"adapter.safetensors", "config.yaml", "run.json", "state.safetensors", "train.jsonl"}
    assert {path.name for path in folder.iterdir()} == names | {"validation.tsv"}
    assert experiment.load(folder / "config.yaml") == settings


def test_speakers_enrolled_in_an_experiment_are_not_lost_when_it_is_trained_on(settings, corpus, tmp_path):
    folder, sets = tmp_path / "exp", {}
    for name in ("train", "valid"):
        data = datadir.read(corpus / "dump" / name)
        chosen = subset.choose_speakers(data, ["spk1", "spk10"])
        sets[name] = tmp_path / name
        subset.save(subset.subset(data, chosen, path=sets[name]), [data])
    made = settings(max_epochs=1)
    made = made.model_copy(update={"data": made.data.model_copy(update=sets)})
    training_run.train_adapters(made, folder, device="cpu")
    last = ("train.folds=null", "train.max_epochs=1")
    added = enroll.EnrollOptions(
        folder, corpus / "dump/train", speakers=("spk2",), start="mean", overrides=last
    )
    enroll.enroll(added, device="cpu")
    before = (folder / "adapter.safetensors").read_bytes(), (folder / "run.json").read_bytes()

    training_run.train_adapters(made, folder, device="cpu", resume=True)
    with pytest.raises(CheckpointError, match=f"spk2 are enrolled in {folder} and would be lost; train in"):
        training_run.train_adapters(with_training(made, max_epochs=2), folder, device="cpu", resume=True)
    (folder / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match="would be lost: the run has lost its state and would begin"):
        training_run.train_adapters(made, folder, device="cpu", resume=True)
    assert ((folder / "adapter.safetensors").read_bytes(), (folder / "run.json").read_bytes()) == before


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("name", ["model.pth", "adapter.safetensors"])
def test_a_folder_with_weights_that_no_training_left_is_refused_untouched(
    trained, base_dir, tmp_path, name, is_resumed
):
    folder, settings = tmp_path / "made", trained[1]
    shutil.copytree(base_dir if name == "model.pth" else trained[0], folder)
    for path in ("state.safetensors", "train.jsonl"):  # as of an import, 'enroll --out' or 'pack'
        (folder / path).unlink(missing_ok=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=f"made: holds {name}, which .* choose another folder"):
        training_run.train_adapters(settings, folder, device="cpu", resume=is_resumed)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_finished_training_without_its_state_is_refused_and_starts_over_with_resume(
    trained, tmp_path, caplog
):
    folder, settings = tmp_path / "made", trained[1]
    shutil.copytree(trained[0], folder)
    (folder / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match="made: holds adapter.safetensors"):
        training_run.train_adapters(settings, folder, device="cpu")
    adapter = (folder / "adapter.safetensors").read_bytes()
    training_run.train_adapters(settings, folder, device="cpu", resume=True)
    assert "made: finished, but state.safetensors is gone; the training starts over" in caplog.text
    assert (folder / "adapter.safetensors").read_bytes() == adapter


def test_the_record_counts_parameters_and_steps(trained, base):
    run = RunRecord.read(trained[0] / "run.json")
    assert run.valid_metric == "wer"
    per_task = 2 * (2 * 16 * 4 + 4 + 16)  # L (2DR + R + D)
    assert (run.params_per_task, run.params_trainable) == (per_task, 3 * per_task)
    assert (run.kind, run.tasks, run.params_base) == (
        "residual",
        ["spk1", "spk10", "spk2"],
        base.num_parameters,
    )
    assert (run.base_fingerprint, run.steps > 0) == (base.fingerprint, True)


def test_trained_adapters_are_for_the_base_on_disk(trained, base_dir, base):
    before = base_checkpoint.load(base_dir)
    path = trained[0] / "adapter.safetensors"
    stack = checkpoint.restore(checkpoint.load(path), before, path)
    assert any(parameter.any() for name, parameter in stack.named_parameters() if ".up." in name)
    assert before.fingerprint == base.fingerprint


def test_a_refused_second_run_changes_no_file(trained, content):
    folder, settings = trained
    before = content(folder)
    for resume, message in (
        (False, "holds a run already"),
        (True, r"different settings: train\.lr \(0\.01, now 0\.5\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            training_run.train_adapters(with_training(settings, lr=0.5), folder, device="cpu", resume=resume)
    assert content(folder) == before


def test_resuming_a_finished_training_changes_no_file(trained, content):
    folder, settings = trained
    before = content(folder)
    training_run.train_adapters(settings, folder, device="cpu", resume=True)
    assert content(folder) == before


def test_a_state_of_an_earlier_version_without_later_options_is_resumed(trained, content, tmp_path):
    folder, settings = shutil.copytree(trained[0], tmp_path / "earlier"), trained[1]
    tensors, header = read_tensors(folder / "state.safetensors")
    for name in ("shared", "freeze_shared", "decay_towards"):
        del header["identity"][f"train.{name}"]
    write_tensors(folder / "state.safetensors", tensors, header)
    before = content(folder)
    training_run.train_adapters(settings, folder, device="cpu", resume=True)
    assert content(folder) == before


def test_a_resumed_training_may_load_and_save_otherwise(trained, content):
    folder, settings = trained
    before = content(folder)
    changed = with_training(settings, num_workers=1, save_every_steps=7)
    training_run.train_adapters(changed, folder, device="cpu", resume=True)
    assert content(folder) == before


def test_resuming_on_other_utterances_is_refused(settings, corpus, tmp_path):
    data, folder = shutil.copytree(corpus / "dump/train", tmp_path / "train"), tmp_path / "exp"
    made = settings(max_epochs=1)
    made = made.model_copy(update={"data": made.data.model_copy(update={"train": data})})
    training_run.train_adapters(made, folder, device="cpu")
    write_table(data / "text", {**read_table(data / "text"), "spk1-00": "CAB"})
    with pytest.raises(CheckpointError, match="saved by a run with different settings: training set"):
        training_run.train_adapters(made, folder, device="cpu", resume=True)


def test_a_killed_training_resumes_to_the_same_bytes(settings, tmp_path, kill_at, tensors_in, assert_same):
    made = settings(max_epochs=12, save_every_steps=2, average=3)
    experiment.save(made, tmp_path / "tiny.yaml")
    training_run.train_adapters(made, tmp_path / "whole", device="cpu")
    killed = tmp_path / "killed"
    kill_at(8, killed, "train", tmp_path / "tiny.yaml", "--exp", killed, "--device", "cpu")
    assert not (killed / "run.json").exists()
    before = read_tensors(killed / "state.safetensors")[1]["state"]["cpu_seconds"]
    started = time.process_time()
    training_run.train_adapters(made, killed, device="cpu", resume=True)
    spent = RunRecord.read(killed / "run.json").cpu_seconds
    assert 0 < before < spent < before + time.process_time() - started + 0.5  # the killed process is counted
    assert (killed / "adapter.safetensors").read_bytes() == (
        tmp_path / "whole/adapter.safetensors"
    ).read_bytes()
    assert_same(tensors_in(killed), tensors_in(tmp_path / "whole"))
    assert {path.name for path in killed.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


def test_a_speaker_of_the_validation_set_alone_is_refused(settings, corpus, tmp_path):
    shutil.copytree(corpus / "dump/valid", tmp_path / "valid")
    tasks = {
        utt_id: speaker.replace("spk2", "spk3")
        for utt_id, speaker in read_table(tmp_path / "valid/utt2spk").items()
    }
    write_table(tmp_path / "valid/utt2task", tasks)
    made = settings()
    made = made.model_copy(update={"data": made.data.model_copy(update={"valid": tmp_path / "valid"})})
    expected = r"valid: has speakers without utterances in .*train: 'spk3'; did you mean 'spk2'.*--spk-list"
    with pytest.raises(DataError, match=expected):
        training_run.train_adapters(made, tmp_path / "exp", device="cpu")


def test_adapters_that_no_speaker_owns_are_validated_on_any_speaker(settings, corpus, tmp_path):
    valid = shutil.copytree(corpus / "dump/valid", tmp_path / "valid")
    write_table(valid / "utt2task", dict.fromkeys(read_table(valid / "utt2spk"), "stranger"))
    made = settings(max_epochs=1)
    shared = (api.read_config({"kind": "bitfit", "per_task": False}),)
    for name, folder in {"known": corpus / "dump/valid", "strange": valid}.items():
        sets = made.data.model_copy(update={"valid": folder})
        own = made.model_copy(update={"data": sets, "adapters": shared})
        training_run.train_adapters(own, tmp_path / name, device="cpu")
    known, strange = (checkpoint.load(tmp_path / n / "adapter.safetensors") for n in ("known", "strange"))
    assert all(strange.weights[name].equal(weight) for name, weight in known.weights.items())


def test_validation_speakers_without_training_utterances_go_as_the_message_says(
    settings, corpus, tmp_path, adaptkit
):
    data = datadir.read(corpus / "dump/train")
    chosen = subset.choose_speakers(data, ["spk1", "spk10"])
    subset.save(subset.subset(data, chosen, path=tmp_path / "train"), [data])
    sets = {"train": tmp_path / "train", "valid": corpus / "dump/valid"}
    made = settings(max_epochs=1)
    made = made.model_copy(update={"data": made.data.model_copy(update=sets)})
    with pytest.raises(DataError, match="OUT --spk-list FILE' with spk1, spk10 in FILE"):
        training_run.train_adapters(made, tmp_path / "exp", device="cpu")
    (tmp_path / "FILE").write_text("spk1\nspk10\n")
    words = ["data", "subset", corpus / "dump/valid", tmp_path / "OUT", "--spk-list", tmp_path / "FILE"]
    assert adaptkit(*words).exit_code == 0
    made = made.model_copy(update={"data": made.data.model_copy(update={"valid": tmp_path / "OUT"})})
    training_run.train_adapters(made, tmp_path / "exp", device="cpu")


def test_a_speaker_whose_only_utterance_is_too_short_is_named(settings, corpus, tmp_path):
    data = shutil.copytree(corpus / "dump/train", tmp_path / "train")
    tasks = {utt_id: speaker for utt_id, speaker in read_table(data / "utt2spk").items()}
    write_table(data / "utt2task", {**tasks, "spk1-00": "alone"})
    write_table(data / "text", {**read_table(data / "text"), "spk1-00": "A" * 90})
    made = settings(max_epochs=1)
    made = made.model_copy(update={"data": made.data.model_copy(update={"train": data})})
    with pytest.raises(DataError, match="spk1-00 .*; alone would have none left: correct"):
        training_run.train_adapters(made, tmp_path / "exp", device="cpu")


@pytest.mark.parametrize(("is_normalized", "ctc_weight"), [(True, 0.3), (False, 0.3), (True, 1.0)])
def test_a_base_whose_loss_couples_the_rows_of_a_batch_is_warned_of(
    settings, new_base, tmp_path, caplog, is_normalized, ctc_weight
):
    decoder = {"attention_heads": 2, "linear_units": 24, "num_blocks": 1}
    conf = {"ctc_weight": ctc_weight, "length_normalized_loss": is_normalized}
    base = new_base(decoder="transformer", decoder_conf=decoder, model_conf=conf)
    base_checkpoint.save(tmp_path / "base", base.config, base.model.state_dict())
    made = settings(max_epochs=1)
    made = made.model_copy(update={"base": made.base.model_copy(update={"dir": tmp_path / "base"})})
    training_run.train_adapters(made, tmp_path / "exp", device="cpu")
    expected = 1 if is_normalized and ctc_weight < 1 else 0
    assert caplog.text.count("its length_normalized_loss couples") == expected


def test_an_experiment_without_adapters_or_data_is_refused(settings, tmp_path):
    for change in ({"adapters": ()}, {"data": None}):
        with pytest.raises(ConfigError, match="experiment 'tiny': needs 'data'"):
            training_run.train_adapters(settings().model_copy(update=change), tmp_path, device="cpu")


def test_what_test_sets_share_with_the_training_set_is_warned_of_without_changing_the_run(
    settings, corpus, base, caplog
):
    plain, train = settings(), corpus / "dump/train"
    sets = plain.data.model_copy(update={"test": (train,)})
    training_run.read_sets(sets, base, allow_pipes=False)
    assert f"{train}: 18 of 18 utterances are in the training set {train}: spk1-00" in caplog.text
    other = plain.model_copy(update={"data": sets})
    assert identify(other, "data") == identify(plain, "data")
