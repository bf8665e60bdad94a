"""Augmentation in whole trainings: what adapters and base models are fed, and that runs survive it."""

import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from adaptkit import config, experiment
from adaptkit.augment.policy import Policy
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.specaug import translate
from adaptkit.errors import CheckpointError, ConfigError, DataError
from adaptkit.features.archive import load_feats
from adaptkit.features.fbank import cmvn_stats, write_cmvn
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.training import augmentation as sets
from adaptkit.training import base_run
from adaptkit.training import run as training_run

pytestmark = pytest.mark.slow

SPEC = {"time_warp": 5, "freq_masks": 1, "freq_width": 8, "time_masks": 2, "time_width": 12}
OWN = {"apply_time_warp": False, "freq_mask_width_range": [0, 9], "time_mask_width_range": [0, 12]}


@pytest.fixture
def noises(tmp_path):
    """A folder with two recordings of noise."""
    for number in range(2):
        samples = 0.1 * np.random.default_rng(number).normal(size=16000)
        soundfile.write(tmp_path / f"noise{number}.wav", samples, 8000)
    return tmp_path


@pytest.fixture
def both(noises):
    """A policy of masks on all utterances and noise on half of them."""
    noise = {"noises": [str(noises)], "room_share": 0.0}
    return {"spec": SPEC, "noise": noise, "mix": {"noisy": 0.5, "masks_on": "all"}}


@pytest.fixture
def augmented(settings):
    """The experiment of residual adapters, augmented; keywords are options of its training."""

    def make(augment, **training):
        policy = Policy.model_validate(augment) if isinstance(augment, dict) else augment
        return settings(**training).model_copy(update={"augment": policy})

    return make


@pytest.fixture
def base_settings(corpus, tmp_path):
    """An experiment that trains a tiny base model, whose yaml has a SpecAugment, by some augmentation."""
    data = shutil.copytree(corpus / "dump", tmp_path / "dump")
    stats = cmvn_stats(map(load_feats, read_table(data / "train/feats.scp").values()))
    write_cmvn(data / "train/feats_stats.npz", stats)
    encoder = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1}
    model = {
        "input_size": 20,
        "encoder": "conformer",
        "model_conf": {"ctc_weight": 1.0},
        "normalize": "global_mvn",
    }
    content = {**model, "encoder_conf": {**encoder, "rel_pos_type": "latest", "cnn_module_kernel": 7}}
    config.write_yaml(tmp_path / "model.yaml", {**content, "specaug": "specaug", "specaug_conf": OWN})

    def make(name, augment, **training):
        options = {"max_epochs": 2, "batch_frames": 500, "lr": 0.01, "warmup_steps": 2, **training}
        sets = {part: str(data / part) for part in ("train", "valid")}
        section = {"dir": str(tmp_path / name), "model": str(tmp_path / "model.yaml"), "data": sets}
        return experiment.Experiment.model_validate(
            {"name": "tiny", "base": {**section, "augment": augment, "train": options}}
        )

    return make


def adapters_of(settings, folder):
    """Train adapters; give the bytes of their file."""
    training_run.train_adapters(settings, folder, device="cpu")
    return (folder / "adapter.safetensors").read_bytes()


def base_of(settings):
    """Train a base model; give its weights."""
    base_run.train_base(settings, device="cpu")
    return torch.load(settings.base.dir / "model.pth")


# the same, and another


def test_a_policy_of_nothing_is_no_augmentation_bit_for_bit(augmented, tmp_path):
    policies = {"plain": {"speed": [1.0]}, "none": None, "masked": {"spec": SPEC}}
    made = {name: adapters_of(augmented(p, max_epochs=1), tmp_path / name) for name, p in policies.items()}

    assert made["plain"] == made["none"] != made["masked"]


def test_a_base_trained_by_a_policy_of_nothing_is_one_without(base_settings, assert_same):
    assert_same(
        base_of(base_settings("plain", {}, max_epochs=1)), base_of(base_settings("n", None, max_epochs=1))
    )


def test_own_of_a_base_is_its_yamls_specaugment_given_in_full(base_settings, assert_same):
    spec = translate({"specaug": "specaug", "specaug_conf": OWN})
    own, full = (base_of(base_settings(n, a)) for n, a in (("own", "own"), ("full", {"spec": spec})))
    plain = base_of(base_settings("plain", None))

    assert_same(own, full)
    assert not torch.equal(own["encoder.after_norm.weight"], plain["encoder.after_norm.weight"])


def test_own_of_adapters_is_the_specaugment_of_their_base_model(augmented, base, tmp_path, caplog):
    base_checkpoint.save(tmp_path / "b", {**base.config, "specaug": "specaug", "specaug_conf": OWN},
                         base.model.state_dict())  # fmt: skip
    spec = translate({"specaug": "specaug", "specaug_conf": OWN})
    found = []
    for augment in ("own", {"spec": spec}):
        made = augmented(augment, max_epochs=1)
        made = made.model_copy(update={"base": made.base.model_copy(update={"dir": tmp_path / "b"})})
        found.append(adapters_of(made, tmp_path / str(len(found))))

    assert found[0] == found[1]


def test_own_of_a_model_without_specaug_is_none(augmented, tmp_path):
    own, none = (adapters_of(augmented(a, max_epochs=1), tmp_path / str(a)) for a in ("own", None))

    assert own == none


# runs that stop


def test_a_killed_augmented_training_resumes_to_the_same_bytes(
    augmented, both, tmp_path, kill_at, tensors_in, assert_same
):
    policy = {**both, "speed": [0.9, 1.0, 1.1]}
    made = augmented(policy, max_epochs=8, save_every_steps=2, num_workers=1)
    experiment.save(made, tmp_path / "tiny.yaml")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    adapters_of(made, whole)
    kill_at(8, killed, "train", tmp_path / "tiny.yaml", "--exp", killed, "--device", "cpu")
    assert not (killed / "run.json").exists()

    training_run.train_adapters(made, killed, device="cpu", resume=True)
    assert (killed / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()
    assert_same(tensors_in(killed), tensors_in(whole))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"spec": {**SPEC, "freq_masks": 2}}, r"augment\.spec\.freq_masks \(1, now 2\)"),
        ({"mix": {"noisy": 0.5}}, r"augment\.mix\.masks_on \(all, now clean\)"),
        ({"noise": None, "mix": {}}, r"augment\.mix\.masks_on .*augment\.noise"),
        ({"speed": [0.9, 1.1]}, r"augment\.speed"),
    ],
)
def test_a_run_with_another_policy_is_refused(augmented, both, tmp_path, change, named):
    adapters_of(augmented(both, max_epochs=1), tmp_path / "run")
    other = augmented({**both, **change}, max_epochs=1)

    with pytest.raises(CheckpointError, match=f"saved by a run with different settings: {named}"):
        training_run.train_adapters(other, tmp_path / "run", device="cpu", resume=True)


def test_a_run_with_other_noise_recordings_is_refused(augmented, both, noises, tmp_path):
    made = augmented(both, max_epochs=1)
    adapters_of(made, tmp_path / "run")
    training_run.train_adapters(made, tmp_path / "run", device="cpu", resume=True)  # as it was

    (noises / "noise1.wav").unlink()
    with pytest.raises(CheckpointError, match="saved by a run with different settings: noise recordings"):
        training_run.train_adapters(made, tmp_path / "run", device="cpu", resume=True)


def test_a_run_whose_own_specaugment_has_changed_is_refused(augmented, base, tmp_path):
    made = augmented("own", max_epochs=1)
    made = made.model_copy(update={"base": made.base.model_copy(update={"dir": tmp_path / "b"})})
    described = {**base.config, "specaug": "specaug", "specaug_conf": OWN}
    base_checkpoint.save(tmp_path / "b", described, base.model.state_dict())
    adapters_of(made, tmp_path / "run")
    config.write_yaml(tmp_path / "b/config.yaml", {**described, "specaug_conf": {**OWN, "num_freq_mask": 1}})

    with pytest.raises(
        CheckpointError,
        match=r"different settings: SpecAugment of the model's yaml, freq_masks \(2, now 1\)",
    ):
        training_run.train_adapters(made, tmp_path / "run", device="cpu", resume=True)


# what is refused


def test_noise_on_features_of_another_making_is_refused_and_masks_are_not(augmented, both, corpus, tmp_path):
    data = shutil.copytree(corpus / "dump/train", tmp_path / "train")
    soundfile.write(tmp_path / "other.wav", np.random.default_rng(0).normal(size=4000), 8000)
    write_table(data / "wav.scp", dict.fromkeys(read_table(data / "wav.scp"), str(tmp_path / "other.wav")))
    masked, noisy = (
        made.model_copy(update={"data": made.data.model_copy(update={"train": data})})
        for made in (augmented({"spec": SPEC}, max_epochs=1), augmented(both, max_epochs=1))
    )

    adapters_of(masked, tmp_path / "masked")
    with pytest.raises(DataError, match=r"feats\.scp: differs from .* 'adaptkit feats' \(spk1-00\)"):
        adapters_of(noisy, tmp_path / "noisy")


@pytest.mark.parametrize("policy", [{}, {"spec": SPEC}])
def test_a_cache_of_what_the_encoder_gives_is_for_features_that_stay(augmented, tmp_path, policy):
    content = config.dump(augmented(policy, max_epochs=1))
    made = experiment.Experiment.model_validate({**content, "adapters": [{"kind": "hff", "cache": True}]})

    with pytest.raises(ConfigError, match="'cache: false' or 'augment: null'") if policy else nullcontext():
        adapters_of(made, tmp_path / "run")


def test_masks_wider_than_the_features_are_refused(augmented, tmp_path):
    wide = augmented({"spec": {"freq_masks": 1, "freq_width": 27}}, max_epochs=1)

    with pytest.raises(ConfigError, match="wider than features of 20 bins"):
        training_run.train_adapters(wide, tmp_path / "run", device="cpu")


def test_masks_of_zeros_on_features_that_are_not_normalised_are_warned_of(new_base, examples, caplog):
    examples = replace(examples, base=new_base(normalize=None, normalize_conf={}))
    for fill, is_warned in (("mean", False), ("zero", True)):
        caplog.clear()
        sets.augmented(examples, Policy.model_validate({"spec": {**SPEC, "fill": fill}}), 0)
        assert ("differ from their mean" in caplog.text) == is_warned
