"""A base model from a stranger: nothing that its files name is run, unpickled or fetched without trust."""

import os
import pickle

import numpy as np
import pytest
import torch

from adaptkit.base import build, checkpoint
from adaptkit.base.trust import VARIABLE, is_config_trusted, trusting
from adaptkit.config import read_yaml, write_yaml
from adaptkit.errors import AdaptkitError, ConfigError


class Touch:
    """What makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def ran(tmp_path):
    """The file that a payload makes if it runs."""
    return tmp_path / "ran"


@pytest.fixture
def payload(ran, tmp_path):
    """A pickle that runs a command, as torch.load(weights_only=False) and numpy's allow_pickle read it."""
    torch.save(Touch(ran), tmp_path / "payload.pt")
    np.save(tmp_path / "payload.npy", np.array([Touch(ran)], dtype=object), allow_pickle=True)
    (tmp_path / "payload.pkl").write_bytes(pickle.dumps(Touch(ran)))
    return tmp_path / "payload.pt"


@pytest.fixture
def folder(base, tmp_path):
    """A base model on disk."""
    checkpoint.save(tmp_path / "base", base.config, base.model.state_dict())
    return tmp_path / "base"


def change(folder, **changes):
    """Change the configuration of a model."""
    write_yaml(folder / "config.yaml", {**read_yaml(folder / "config.yaml"), **changes})


@pytest.mark.parametrize(
    ("section", "name", "options"),
    [
        ("frontend", "espnet_ssl", {"path_or_url": "PAYLOAD"}),
        ("frontend", "s3prl", {"frontend_conf": {"upstream": "hubert_local", "path_or_url": "PAYLOAD"}}),
        ("frontend", "whisper", {"download_dir": "PAYLOAD"}),
        ("preencoder", "nowhere", {}),
        ("encoder", "hugging_face_transformers", {"model_name_or_path": "PAYLOAD"}),
        ("postencoder", "hugging_face_transformers", {"model_name_or_path": "PAYLOAD"}),
        ("decoder", "hugging_face_transformers", {"model_name_or_path": "PAYLOAD"}),
    ],
)
def test_a_class_outside_the_table_is_refused_with_what_trust_opens(
    folder, payload, ran, section, name, options
):
    given = {key: str(payload) if value == "PAYLOAD" else value for key, value in options.items()}
    change(folder, **{"input_size": None, "frontend": "default", section: name, f"{section}_conf": given})
    with pytest.raises(ConfigError, match=rf"config.yaml: .*{section}: {name}.*may run code.*{VARIABLE}=1"):
        checkpoint.load(folder)
    assert not ran.exists()


def test_the_command_line_refuses_it_and_names_its_option(folder, adaptkit):
    change(folder, encoder="confomer", encoder_conf={})
    done = adaptkit("base", "info", folder)
    assert done.exit_code == 1
    assert "encoder: confomer, did you mean 'conformer'?: not among the classes" in done.stderr
    assert f"run 'export {VARIABLE}=1' and the same command again, or put --trust-config after" in done.stderr


@pytest.mark.parametrize("is_trusted", [False, True])
@pytest.mark.parametrize(
    ("section", "name", "options", "reason"),
    [
        ("encoder", "wav2vec2", {"w2v_url": "PAYLOAD"}, "no sites for adapters in the blocks of fairseq"),
        ("encoder", "rnn", {}, "no blocks with attention"),
        ("decoder", "mlm", {}, "fills in masked tokens"),
        ("postencoder", "length_adaptor", {}, "depend on the padding"),
        ("model", "maskctc", {}, "masked tokens"),
    ],
)
def test_a_class_that_cannot_work_is_refused_with_the_reason(
    folder, payload, ran, section, name, options, reason, is_trusted
):
    given = {key: str(payload) if value == "PAYLOAD" else value for key, value in options.items()}
    change(folder, **{section: name, f"{section}_conf": given})
    with (
        trusting(is_trusted),
        pytest.raises(ConfigError, match=rf"config.yaml: {section}: {name}: .*{reason}.*docs/models.md"),
    ):
        checkpoint.load(folder)
    assert not ran.exists()


@pytest.mark.parametrize("is_trusted", [False, True])
def test_a_front_end_without_its_package_is_refused_with_its_name(new_archive, is_trusted):
    archive = new_archive("wavlm_conformer_stub")
    with (
        trusting(is_trusted),
        pytest.raises(ConfigError, match="frontend: s3prl needs the package s3prl.*'pip install s3prl'"),
    ):
        checkpoint.load(archive)


@pytest.mark.parametrize("suffix", [".npy", ".pkl", ".pt"])
def test_pickled_statistics_are_not_run(base, folder, payload, ran, suffix):
    stats = {"stats_file": str(payload.with_suffix(suffix))}
    change(folder, normalize_conf=stats)
    assert checkpoint.load(folder).fingerprint == base.fingerprint  # the statistics are those in the weights
    with pytest.raises(ConfigError, match="config.yaml: normalize_conf: GlobalMVN rejects"):
        build.build({**base.config, "normalize_conf": stats})
    assert not ran.exists()


def test_statistics_that_are_a_fifo_are_refused_without_waiting(base, tmp_path):
    os.mkfifo(tmp_path / "stats.npz")
    with pytest.raises(AdaptkitError, match="is a FIFO, not a regular file"):
        build.build({**base.config, "normalize_conf": {"stats_file": str(tmp_path / "stats.npz")}})


@pytest.mark.parametrize(
    "line", ["init: !!python/object/apply:os.system ['touch RAN']", "init: !!python/name:os.system ''"]
)
def test_a_tag_in_the_configuration_is_refused(folder, ran, line):
    with open(folder / "config.yaml", "a") as file:
        file.write(line.replace("RAN", str(ran)) + "\n")
    with pytest.raises(ConfigError, match="invalid yaml: the tag .* is not allowed"):
        checkpoint.load(folder)
    assert not ran.exists()


def test_torch_reads_tensors_only_in_a_process_without_trust(payload, ran, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "tensors.pt")
    with trusting(False):
        assert torch.load(tmp_path / "tensors.pt", weights_only=False)["a"] == 0
        with pytest.raises(pickle.UnpicklingError):
            torch.load(payload, weights_only=False)
    assert not ran.exists()


def test_trust_reaches_other_processes_and_ends_with_the_command(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    before = dict(os.environ)
    with trusting(True):
        assert is_config_trusted()
        assert os.environ[VARIABLE] == "1"
        with trusting(False):  # a process that inherits it
            assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    assert dict(os.environ) == before
