"""Language models in folders: which are loaded, and which are refused."""

import pytest
import torch

from adaptkit.base.search import lm as language_models
from adaptkit.errors import AdaptkitError, CheckpointError
from tests.fixtures.models import TOKENS


@pytest.fixture
def refused(base):
    def check(path, message):
        with pytest.raises(AdaptkitError, match=message):
            language_models.load(path, base)

    return check


@pytest.mark.parametrize("kind", ["transformer", "seq_rnn"])
def test_a_folder_and_its_file_are_the_same_model(base, new_lm, kind):
    folder = new_lm(kind, TOKENS)
    by_folder = language_models.load(folder, base)
    by_file = language_models.load(folder / "valid.loss.ave.pth", base)
    saved = torch.load(folder / "valid.loss.ave.pth", weights_only=True)
    assert by_folder.path == by_file.path == folder / "valid.loss.ave.pth"
    assert by_folder.digest == by_file.digest
    assert all(torch.equal(by_file.module.state_dict()[n.removeprefix("lm.")], t) for n, t in saved.items())
    assert not by_folder.module.training


def test_other_tokens_are_refused(new_lm, refused):
    other = (*TOKENS[:3], "B", "A", *TOKENS[5:])
    refused(new_lm("seq_rnn", other), "7 tokens and the recogniser 7, which differ from token 3")
    refused(new_lm("transformer", TOKENS[:-1]), "6 tokens and the recogniser 7, which differ from token 6")


def test_a_foreign_file_is_refused(new_lm, base_dir, refused):
    folder = new_lm("seq_rnn", TOKENS)
    torch.save(torch.load(base_dir / "model.pth"), folder / "valid.loss.ave.pth")
    refused(folder, "not from a language model, whose parameters begin with 'lm.'")


def test_a_cut_file_is_refused(new_lm, refused):
    path = new_lm("seq_rnn", TOKENS) / "valid.loss.ave.pth"
    path.write_bytes(path.read_bytes()[:-500])
    refused(path, "not a complete file of model weights")


def test_other_sizes_than_the_weights_are_refused(new_lm, refused):
    refused(new_lm("seq_rnn", TOKENS, lm_conf={"unit": 25, "nlayers": 2}), "wrong shape")
    refused(new_lm("seq_rnn", TOKENS, lm_conf={"units": 24}), "lm_conf.units: .*did you mean 'unit'")
    refused(new_lm("seq_rnn", TOKENS, lm_conf={"unit": 2**16, "nlayers": 99}), "more than .* GiB")


def test_other_kinds_are_refused(new_lm, refused):
    refused(new_lm("seq_rnn", TOKENS, lm="transformer_opt"), "lm: transformer_opt: not a language model that")
    refused(new_lm("seq_rnn", TOKENS, model="lm_multitask"), "model: lm_multitask: .*model: lm")


def test_several_or_no_files_are_refused(new_lm, refused, tmp_path):
    folder = new_lm("seq_rnn", TOKENS)
    (folder / "2epoch.pth").write_bytes(b"other")
    (folder / "valid.loss.ave.pth").rename(folder / "1epoch.pth")
    refused(folder, "2 models: 1epoch.pth, 2epoch.pth; give the path of one")
    for path in folder.glob("*.pth"):
        path.unlink()
    refused(folder, "no .pth of the language model beside config.yaml")
    refused(tmp_path / "none.pth", "no such file")


def test_an_archive_without_one_is_refused(new_archive, refused):
    refused(new_archive("wsj_conformer"), "holds no language model")


def test_a_training_state_is_refused(new_lm, refused):
    folder = new_lm("seq_rnn", TOKENS)
    (folder / "valid.loss.ave.pth").rename(folder / "checkpoint.pth")
    refused(folder, "an ESPnet training state")


def test_nothing_but_tensors_is_unpickled(new_lm, refused):
    folder = new_lm("seq_rnn", TOKENS)
    torch.save({"lm.x": CheckpointError("code")}, folder / "valid.loss.ave.pth")
    refused(folder, "not a complete file of model weights")
