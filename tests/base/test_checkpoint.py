"""Base models on disk: whole, damaged, partial, foreign; and what tells one from another."""

import copy
import os
import pickle
import re
import shutil
import subprocess
import zipfile

import pytest
import torch
from torch.nn import Parameter

from adaptkit.base import checkpoint, fold
from adaptkit.errors import CheckpointError
from adaptkit.records import RecordedModel, RunRecord, write_record
from adaptkit.tokens import bpe_tokens
from tests.fixtures.models import OPTIONS, STREAMING


@pytest.fixture
def folder(base, tmp_path):
    """A base model on disk that a test may spoil."""
    checkpoint.save(tmp_path, base.config, base.model.state_dict())
    return tmp_path


def rewrite(folder, change):
    """Change the weights on disk."""
    weights = torch.load(folder / "model.pth", weights_only=True)
    change(weights)
    torch.save(weights, folder / "model.pth")


def test_a_saved_model_is_loaded_to_the_same_output_and_fingerprint(base, folder, new_batch, encode):
    loaded, batch = checkpoint.load(folder), new_batch((-1, -1))
    assert torch.equal(encode(loaded, None, batch), encode(base, None, batch))
    assert loaded.fingerprint == base.fingerprint


def test_a_loaded_model_is_frozen_and_in_eval(folder):
    model = checkpoint.load(folder).model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_facts_of_a_loaded_model(base):
    assert (base.width, base.num_blocks, base.subsampling) == (16, 2, 4)
    assert (base.frame_shift_ms, base.rate_hz) == (10.0, 8000)
    assert base.num_parameters == sum(p.numel() for p in base.model.parameters())


@pytest.mark.parametrize(("written", "rate_hz"), [("16k", 16000), (8000, 8000), ("22.05k", 22050)])
def test_the_rate_of_a_frontend_is_read_as_espnet_writes_it(new_base, written, rate_hz):
    options = {"fs": written, "hop_length": 160, "n_fft": 256, "n_mels": 20}
    reading = new_base(input_size=None, frontend="default", frontend_conf=options, adaptkit=None)
    assert reading.rate_hz == rate_hz
    assert reading.frame_shift_ms == pytest.approx(1000 * 160 / rate_hz)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("config.yaml", "model.pth: no config.yaml beside it; copy"),
        ("model.pth", "not a base model: expected config.yaml and model.pth"),
    ],
)
def test_a_missing_file_is_refused(folder, lost, message):
    (folder / lost).unlink()
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


def test_a_missing_folder_is_refused_with_both_commands_that_make_one(tmp_path):
    remedy = "'adaptkit base import' makes one of a released model, 'adaptkit base train' trains one"
    with pytest.raises(CheckpointError, match=f"no such file or folder; {remedy}"):
        checkpoint.load(tmp_path / "base")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_weights_are_refused(folder, part):
    content = (folder / "model.pth").read_bytes()
    (folder / "model.pth").write_bytes(content[: int(part * len(content))])
    with pytest.raises(CheckpointError, match="model.pth: not a complete file of model weights"):
        checkpoint.load(folder)


def test_a_pointer_of_git_lfs_is_named(folder):
    (folder / "model.pth").write_text("version https://git-lfs.example/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(CheckpointError, match="a Git LFS pointer; run 'git lfs pull'"):
        checkpoint.load(folder)


def test_a_changed_byte_of_the_weights_is_refused(folder):
    content = bytearray((folder / "model.pth").read_bytes())
    weights = torch.load(folder / "model.pth", weights_only=True)
    place = content.find(weights["ctc.ctc_lo.weight"].numpy().tobytes())
    assert place > 0
    content[place + 2] ^= 1
    (folder / "model.pth").write_bytes(content)
    assert torch.load(folder / "model.pth", weights_only=True)  # which torch reads without a word
    with pytest.raises(CheckpointError, match="model.pth: not a complete .* checksum of .* does not match"):
        checkpoint.load(folder)


def test_a_compressed_archive_is_refused(folder):
    with zipfile.ZipFile(folder / "model.pth") as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(folder / "model.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="its entries are compressed"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["model.pth", "config.yaml"])
def test_a_fifo_is_refused_without_waiting_for_a_writer(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match="expected config.yaml and model.pth|no config.yaml beside it"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(4, 4).to_sparse(),
        torch.zeros(4, dtype=torch.complex64),
        torch.zeros(1).expand(10**9),
        torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8),
        torch.zeros(4, device="meta"),
    ],
    ids=["sparse", "complex", "expanded", "quantised", "meta"],
)
def test_a_tensor_that_is_not_plain_is_refused(folder, tensor):
    rewrite(folder, lambda weights: weights.update({"ctc.ctc_lo.bias": tensor}))
    with pytest.raises(CheckpointError, match=r"model.pth: (ctc.ctc_lo.bias: not a plain|not a complete)"):
        checkpoint.load(folder)


def test_weights_saved_as_parameters_are_loaded(base, folder):
    rewrite(folder, lambda weights: weights.update({"normalize.mean": Parameter(weights["normalize.mean"])}))
    assert checkpoint.load(folder).fingerprint == base.fingerprint


class Touch:
    """What runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    "write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))]
)
def test_a_pickle_is_refused_and_not_run(folder, write, tmp_path):
    write({"a": Touch(tmp_path / "ran")}, folder / "model.pth")
    with pytest.raises(CheckpointError, match="not a complete file of model weights"):
        checkpoint.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_training_checkpoint_is_refused_with_the_file_to_give(folder):
    torch.save({"model": {"a": torch.zeros(1)}, "epoch": 3}, folder / "model.pth")
    with pytest.raises(CheckpointError, match="contains more than model weights; use ESPnet's model file"):
        checkpoint.load(folder)


def test_a_missing_an_extra_and_a_reshaped_weight_are_all_named(folder):
    def spoil(weights):
        del weights["ctc.ctc_lo.bias"]
        weights["more"] = torch.zeros(1)
        weights["ctc.ctc_lo.weight"] = torch.zeros(3, 3)

    rewrite(folder, spoil)
    expected = "missing: ctc.ctc_lo.bias; not in the model: more; wrong shape: ctc.ctc_lo.weight"
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.load(folder)


def test_a_lost_statistics_file_is_replaced_by_the_weights(folder, base, new_batch, encode):
    config = checkpoint.read_yaml(folder / "config.yaml")
    config["normalize_conf"] = {"stats_file": "/nowhere/feats_stats.npz"}
    checkpoint.write_yaml(folder / "config.yaml", config)
    loaded, batch = checkpoint.load(folder), new_batch((-1, -1))
    assert torch.equal(encode(loaded, None, batch), encode(base, None, batch))
    assert loaded.fingerprint == base.fingerprint  # wherever the file was


def test_lost_statistics_that_the_weights_lack_are_refused(folder):
    config = checkpoint.read_yaml(folder / "config.yaml")
    config["normalize_conf"] = {"stats_file": "/nowhere/feats_stats.npz"}
    checkpoint.write_yaml(folder / "config.yaml", config)
    rewrite(folder, lambda weights: weights.pop("normalize.mean"))
    with pytest.raises(CheckpointError, match="model.pth: has no normalize.mean and normalize.std"):
        checkpoint.load(folder)


def test_a_configuration_without_tokens_is_refused(folder):
    config = checkpoint.read_yaml(folder / "config.yaml")
    checkpoint.write_yaml(folder / "config.yaml", {**config, "token_list": None})
    with pytest.raises(CheckpointError, match="config.yaml: has no list 'token_list'"):
        checkpoint.load(folder)


def test_a_model_of_unknown_features_is_refused(folder):
    config = checkpoint.read_yaml(folder / "config.yaml")
    checkpoint.write_yaml(folder / "config.yaml", {**config, "adaptkit": None})
    with pytest.raises(CheckpointError, match="reads features of 20 bins without options"):
        checkpoint.load(folder)


def test_a_bpe_model_is_found_beside_the_weights_when_it_has_moved(base, tmp_path):
    tokens = bpe_tokens(["AB BA", "ABBA CAB"], 12, tmp_path / "bpe.model")
    config = {**base.config, "token_list": list(tokens.tokens), "bpemodel": "/nowhere/bpe.model"}
    assert checkpoint.wrap(tmp_path, config, base.model).tokens == tokens


def test_the_bpe_model_beside_the_weights_comes_before_one_in_the_working_folder(base, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    tokens = bpe_tokens(["AB BA", "ABBA CAB"], 12, tmp_path / "model/bpe.model")
    bpe_tokens(["XY YX", "XYYX YXY"], 12, tmp_path / "bpe.model")
    monkeypatch.chdir(tmp_path)
    config = {**base.config, "token_list": list(tokens.tokens), "bpemodel": "bpe.model"}
    assert checkpoint.wrap(tmp_path / "model", config, base.model).tokens == tokens


def test_one_changed_weight_changes_the_fingerprint(base):
    model = copy.deepcopy(base.model)
    model.ctc.ctc_lo.bias.data[0] += 1e-6
    assert checkpoint.wrap(base.path, base.config, model).fingerprint != base.fingerprint


def test_one_changed_statistic_changes_the_fingerprint(base):
    model = copy.deepcopy(base.model)
    model.encoder.encoders[0].conv_module.norm.running_mean[0] += 1e-6
    assert checkpoint.wrap(base.path, base.config, model).fingerprint != base.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"encoder_conf": {"output_size": 16, "attention_heads": 4}},  # the same weights, other heads
        {"token_list": ["<blank>", "<unk>", "<space>", "A", "C", "B", "<sos/eos>"]},
        {"normalize_conf": {"norm_vars": False}},
        {"adaptkit": {"features": {**OPTIONS.to_dict(), "low_hz": 100.0}}},
        {"model_conf": {"ctc_weight": 1.0, "sym_space": "A"}},
        {"token_type": "word"},
    ],
)
def test_another_configuration_of_the_same_weights_changes_the_fingerprint(base, change):
    assert checkpoint.wrap(base.path, {**base.config, **change}, base.model).fingerprint != base.fingerprint


def test_another_bpe_model_changes_the_fingerprint_but_its_folder_does_not(base, tmp_path):
    for name, texts in {"one": ["AB BA", "ABBA CAB"], "two": ["BC CB", "CBBC ACB"]}.items():
        (tmp_path / name).mkdir()
        bpe_tokens(texts, 8, tmp_path / name / "bpe.model")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    config = {**base.config, "bpemodel": "bpe.model"}
    found = [checkpoint.wrap(tmp_path / name, config, base.model) for name in ("one", "copy", "two")]
    assert found[0].fingerprint == found[1].fingerprint
    assert len({base.fingerprint, found[0].fingerprint, found[2].fingerprint}) == 3


def test_a_lost_bpe_model_is_refused_with_the_place_to_copy_it_to(base, tmp_path):
    config = {**base.config, "bpemodel": "/nowhere/bpe.model"}
    expected = f"bpemodel /nowhere/bpe.model does not exist; copy it to {tmp_path}/bpe.model"
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.wrap(tmp_path, config, base.model)


def test_features_are_fingerprinted_with_their_defaults(base):
    given = {"rate_hz": 8000, "num_bins": 20}
    same = checkpoint.wrap(base.path, {**base.config, "adaptkit": {"features": given}}, base.model)
    assert same.fingerprint == base.fingerprint


def test_a_model_that_differs_from_its_record_is_refused_until_the_record_is_removed(base, tmp_path):
    folder = tmp_path / "base"
    fold.write(base, folder)
    assert checkpoint.load(folder).fingerprint == base.fingerprint
    assert RunRecord.read(folder / "run.json").base_fingerprint == base.fingerprint
    rewrite(folder, lambda weights: weights["ctc.ctc_lo.bias"].add_(1))
    for source in (folder, folder / "model.pth"):
        with pytest.raises(CheckpointError, match="run.json was written for .* has changed since") as caught:
            checkpoint.load(source)
    subprocess.run(["bash", "-c", re.search("'(rm .*)'$", str(caught.value))[1]], check=True)
    assert checkpoint.load(folder).fingerprint != base.fingerprint


def test_the_fingerprint_depends_on_no_folder(base):
    assert checkpoint.wrap(base.path / "elsewhere", base.config, base.model).fingerprint == base.fingerprint


@pytest.mark.parametrize("name", ["state.safetensors", "train.jsonl"])
def test_a_base_whose_training_has_not_finished_is_refused(base, tmp_path, name):
    checkpoint.save(tmp_path, base.config, base.model.state_dict())
    assert checkpoint.load(tmp_path).fingerprint == base.fingerprint  # as of ESPnet: no file of a training
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="has not finished .*'adaptkit base train CONFIG --resume'"):
        checkpoint.load(tmp_path)
    counts = {"base_fingerprint": base.fingerprint, "params_base": base.num_parameters}
    write_record(tmp_path, RecordedModel("base", "base", (), base.num_parameters, 0), **counts, device="cpu")
    assert checkpoint.load(tmp_path).fingerprint == base.fingerprint


def test_a_model_that_fails_on_several_blocks_of_time_is_refused(new_base, tmp_path):
    conf = {**STREAMING, "init_average": False}  # of which ESPnet 202511 makes a TypeError
    broken = new_base(encoder="contextual_block_transformer", encoder_conf=conf)
    checkpoint.save(tmp_path, broken.config, broken.model.state_dict())
    with pytest.raises(CheckpointError, match="the model that it describes does not run: TypeError"):
        checkpoint.load(tmp_path)
