"""Whole trainings in folders: of adapters, of a base model, killed, resumed, and divided among processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptkit import batches, checkpoint, config, dump, experiment, train
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.errors import CheckpointError, ConfigError, DataError
from adaptkit.features import FbankOptions, cmvn_stats, load_feats, write_cmvn
from adaptkit.kaldi import datadir
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.record import RunRecord

pytestmark = pytest.mark.espnet
COMMAND = Path(sys.executable).with_name("adaptkit")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
ESPNET_YAML = {
    "input_size": 20,
    "encoder": "conformer",
    "encoder_conf": {
        **{
            "output_size": 16,
            "attention_heads": 2,
            "linear_units": 24,
            "num_blocks": 2,
            "macaron_style": True,
        },
        **{"rel_pos_type": "latest", "cnn_module_kernel": 7, "dropout_rate": 0.2},
    },
    "model_conf": {"ctc_weight": 1.0},
    "normalize": "global_mvn",
    "specaug": "specaug",
    "specaug_conf": {
        "apply_time_warp": False,
        "num_freq_mask": 1,
        "freq_mask_width_range": [0, 5],
        "apply_time_mask": False,
    },
    "optim": "adam",  # ESPnet's own training, which is not used
}


@pytest.fixture
def base_settings(corpus, tmp_path):
    """An experiment that trains a base model with dropout and SpecAugment; keywords are training options."""
    data = shutil.copytree(corpus / "dump", tmp_path / "dump")
    stats = cmvn_stats(map(load_feats, read_table(data / "train/feats.scp").values()))
    write_cmvn(data / "train/feats_stats.npz", stats)
    config.write_yaml(tmp_path / "conformer.yaml", ESPNET_YAML)

    def make(tokens=None, **training):
        options = {"max_epochs": 3, "batch_frames": 500, "lr": 0.01, "warmup_steps": 2, **training}
        section = {"dir": str(tmp_path / "base"), "model": str(tmp_path / "conformer.yaml"), "train": options}
        section["data"] = {"train": str(data / "train"), "valid": str(data / "valid")}
        section["tokens"] = tokens or {"type": "char"}
        return experiment.Experiment.model_validate({"name": "tiny", "base": section})

    return make


def with_training(settings, **changes):
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


def content(folder):
    """Every file with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights_in(folder):
    """The weights of a saved state."""
    tensors, _ = checkpoint.read_tensors(folder / "state.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("weights.", "optimizer."))}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def kill_at(step, folder, command):
    """Run a command and kill it as soon as its journal holds a step."""
    journal = folder / "train.jsonl"
    with subprocess.Popen(
        command, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None:
            if journal.exists() and f'"step": {step},' in journal.read_text():
                process.send_signal(signal.SIGKILL)
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        process.wait()
        assert process.returncode == -signal.SIGKILL, process.stderr.read().decode()


# adapters


@pytest.fixture(scope="module")
def trained(base_dir, corpus, tmp_path_factory):
    """A folder with trained adapters; no test may change it."""
    folder = tmp_path_factory.mktemp("exp") / "tiny"
    sets = {"train": str(corpus / "dump/train"), "valid": str(corpus / "dump/valid")}
    entry = {"kind": "residual", "bottleneck": 4}
    section = {"name": "tiny", "base": {"dir": str(base_dir)}, "data": sets, "adapters": [entry]}
    settings = experiment.Experiment.model_validate({**section, "train": {"max_epochs": 1, "lr": 0.01}})
    train.train_adapters(settings, folder, device="cpu")
    return folder, settings


def test_a_training_leaves_adapters_settings_journal_state_and_record(trained):
    folder, settings = trained
    names = {"adapter.safetensors", "config.yaml", "run.json", "state.safetensors", "train.jsonl"}
    assert {path.name for path in folder.iterdir()} == names
    assert experiment.load(folder / "config.yaml") == settings


def test_the_record_counts_parameters_and_steps(trained, base):
    run = RunRecord.read(trained[0] / "run.json")
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


def test_a_refused_second_run_changes_no_file(trained):
    folder, settings = trained
    before = content(folder)
    for resume, message in ((False, "holds a run already"), (True, r"another train\.lr \(0\.01, now 0\.5\)")):
        with pytest.raises(CheckpointError, match=message):
            train.train_adapters(with_training(settings, lr=0.5), folder, device="cpu", resume=resume)
    assert content(folder) == before


def test_resuming_a_finished_training_changes_no_file(trained):
    folder, settings = trained
    before = content(folder)
    train.train_adapters(settings, folder, device="cpu", resume=True)
    assert content(folder) == before


def test_a_resumed_training_may_load_and_save_otherwise(trained):
    folder, settings = trained
    changed = with_training(settings, num_workers=1, save_every_steps=7)
    train.train_adapters(changed, folder, device="cpu", resume=True)


def test_resuming_on_other_utterances_is_refused(settings, corpus, tmp_path):
    data, folder = shutil.copytree(corpus / "dump/train", tmp_path / "train"), tmp_path / "exp"
    made = settings(max_epochs=1)
    made = made.model_copy(update={"data": made.data.model_copy(update={"train": data})})
    train.train_adapters(made, folder, device="cpu")
    write_table(data / "text", {**read_table(data / "text"), "spk1-00": "CAB"})
    with pytest.raises(CheckpointError, match="saved by a run with another training set"):
        train.train_adapters(made, folder, device="cpu", resume=True)


def test_a_killed_training_resumes_to_the_same_bytes(settings, tmp_path):
    made = settings(max_epochs=25, save_every_steps=2, average=3)
    experiment.save(made, tmp_path / "tiny.yaml")
    train.train_adapters(made, tmp_path / "whole", device="cpu")
    killed = tmp_path / "killed"
    words = ["train", str(tmp_path / "tiny.yaml"), "--exp", str(killed), "--device", "cpu"]
    kill_at(11, killed, [str(COMMAND), *words])
    assert not (killed / "run.json").exists()
    train.train_adapters(made, killed, device="cpu", resume=True)
    assert (killed / "adapter.safetensors").read_bytes() == (
        tmp_path / "whole/adapter.safetensors"
    ).read_bytes()
    assert_equal(weights_in(killed), weights_in(tmp_path / "whole"))
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
    with pytest.raises(
        CheckpointError, match=r"valid: the adapters know 3 tasks .* and not 'spk3'; did you mean 'spk2'"
    ):
        train.train_adapters(made, tmp_path / "exp", device="cpu")


def test_an_experiment_without_adapters_or_data_is_refused(settings, tmp_path):
    for change in ({"adapters": ()}, {"data": None}):
        with pytest.raises(ConfigError, match="experiment 'tiny': needs 'data'"):
            train.train_adapters(settings().model_copy(update=change), tmp_path, device="cpu")


# what the data must be


@pytest.fixture
def with_texts(settings, corpus, tmp_path):
    """The experiment, with some texts of the training set changed."""

    def make(**texts):
        data = shutil.copytree(corpus / "dump/train", tmp_path / "train")
        named = {name.replace("_", "-"): text for name, text in texts.items()}
        write_table(data / "text", {**read_table(data / "text"), **named})
        made = settings(max_epochs=1)
        return made.model_copy(update={"data": made.data.model_copy(update={"train": data})})

    return make


def test_characters_outside_the_token_list_are_refused_with_their_utterances(with_texts, tmp_path):
    expected = "train/text: 2 utterances hold 'X', 'Y', outside the base model's 7 tokens: spk1-00, spk2-01"
    with pytest.raises(DataError, match=expected):
        train.train_adapters(with_texts(spk1_00="AX", spk2_01="Y"), tmp_path / "exp", device="cpu")


def test_more_than_5_percent_too_short_utterances_are_refused(with_texts, tmp_path):
    expected = r"1 of 18 utterances are too short for their text: spk1-00 \(\d+ .*, 40 tokens, 39 repeats\)"
    with pytest.raises(DataError, match=expected):
        train.train_adapters(with_texts(spk1_00="A" * 40), tmp_path / "exp", device="cpu")


def test_a_few_too_short_utterances_are_left_out_and_said(corpus, base, tmp_path, caplog):
    data = datadir.read(corpus / "dump/train")
    twice = tuple(replace(u, utt_id=f"{u.utt_id}x", recording=f"{u.utt_id}x") for u in data.utterances)
    recordings = {f"{name}x": location for name, location in data.recordings.items()}
    both = replace(
        data, path=tmp_path / "data", utterances=(*data.utterances, *twice), feats=None, duration_sec=None
    )
    datadir.write(replace(both, recordings={**data.recordings, **recordings}))
    dump.extract(tmp_path / "data", tmp_path / "dump", FbankOptions(rate_hz=8000, num_bins=20))
    write_table(tmp_path / "dump/text", {**read_table(tmp_path / "dump/text"), "spk1-00": "A" * 40})
    assert len(train.read_set(tmp_path / "dump", base)) == 35
    assert "1 of 36 utterances are too short for their text: spk1-00" in caplog.text
    assert "they are left out" in caplog.text


# a base model


def test_a_trained_base_is_read_back_and_its_model_is_described(base_settings, tmp_path):
    train.train_base(base_settings(max_epochs=1), device="cpu")
    trained = base_checkpoint.load(tmp_path / "base")
    assert trained.tokens.tokens == ("<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>")
    assert trained.features["num_bins"] == 20
    assert RunRecord.read(tmp_path / "base/run.json").base_fingerprint == trained.fingerprint
    assert Path(trained.config["normalize_conf"]["stats_file"]).parent == tmp_path / "base"


def test_a_base_with_bpe_keeps_its_tokens_beside_it(base_settings, tmp_path):
    train.train_base(base_settings(tokens={"type": "bpe", "size": 8}, max_epochs=1), device="cpu")
    trained = base_checkpoint.load(tmp_path / "base")
    assert trained.tokens.bpe_model == tmp_path / "base/bpe.model"
    assert len(trained.tokens.tokens) == 8


def test_a_killed_base_training_resumes_to_the_same_weights(base_settings, tmp_path):
    made = base_settings(max_epochs=12, save_every_steps=2, average=2)
    experiment.save(made, tmp_path / "tiny.yaml")
    kill_at(
        8, tmp_path / "base", [str(COMMAND), "base", "train", str(tmp_path / "tiny.yaml"), "--device", "cpu"]
    )
    train.train_base(made, device="cpu", resume=True)
    resumed = torch.load(tmp_path / "base/model.pth"), weights_in(tmp_path / "base")
    shutil.rmtree(tmp_path / "base")
    train.train_base(made, device="cpu")
    assert_equal(resumed[0], torch.load(tmp_path / "base/model.pth"))
    assert_equal(resumed[1], weights_in(tmp_path / "base"))


def test_a_refused_second_base_changes_no_file(base_settings, tmp_path):
    train.train_base(base_settings(tokens={"type": "bpe", "size": 8}, max_epochs=1), device="cpu")
    before = content(tmp_path / "base")
    other = base_settings(tokens={"type": "bpe", "size": 9}, max_epochs=1)
    for resume, message in ((False, "holds a run already"), (True, r"base\.tokens\.size \(8, now 9\)")):
        with pytest.raises(CheckpointError, match=message):
            train.train_base(other, device="cpu", resume=resume)
    assert content(tmp_path / "base") == before


def test_training_a_base_moves_its_weights_and_statistics(base_settings, tmp_path):
    train.train_base(base_settings(max_epochs=1), device="cpu")
    norm = base_checkpoint.load(tmp_path / "base").model.encoder.encoders[0].conv_module.norm
    assert norm.num_batches_tracked > 0
    assert norm.running_mean.any()


def test_a_base_without_a_model_to_build_is_refused(settings):
    with pytest.raises(ConfigError, match="base: needs 'model'"):
        train.train_base(settings(), device="cpu")


# several processes


def test_two_processes_train_as_one_with_the_same_global_batches(settings, base_dir, corpus, tmp_path):
    """Batches of 1 to 7 utterances, so that shares are uneven and one is borrowed."""
    made = settings(max_epochs=3, batch_frames=330, accumulate=2)
    read = batches.read_examples(corpus / "dump/train", base_checkpoint.load(base_dir))
    sizes = [len(b) for e in range(3) for b in batches.shuffle_batches(read.lengths, 330, seed=0, epoch=e)]
    assert {1} < {size % 2 for size in sizes} | {min(sizes)}
    experiment.save(made, tmp_path / "tiny.yaml")
    train.train_adapters(made, tmp_path / "one", device="cpu")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "adaptkit"]
    words = ["train", str(tmp_path / "tiny.yaml"), "--exp", str(tmp_path / "two"), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, *launch, *words], env=ONE_THREAD, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    one, two = (checkpoint.load(tmp_path / name / "adapter.safetensors") for name in ("one", "two"))
    assert one.step == two.step
    for name, tensor in one.weights.items():
        torch.testing.assert_close(two.weights[name], tensor, atol=2e-4, rtol=0)
    losses = [
        re.findall(r'"loss": ([\d.]+), "grad', (tmp_path / n / "train.jsonl").read_text())
        for n in ("one", "two")
    ]
    assert [float(x) for x in losses[1]] == pytest.approx([float(x) for x in losses[0]], rel=1e-4)
    assert json.loads((tmp_path / "two/run.json").read_text())["steps"] == len(losses[0])
