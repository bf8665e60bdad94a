"""Adapters in the base's own weights: the same output without them, what is refused, and the way back."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptkit import config, experiment
from adaptkit.adapters import api
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.fold import fold, narrow, read_last, unfold, write
from adaptkit.decoding.run import DecodeOptions, decode_folder
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.kaldi.tables import read_table
from adaptkit.model import checkpoint
from tests.fixtures.models import BRANCHFORMER

TPA = {"kind": "tpa", "bottleneck": 5, "input": "normed", "activation": "swish"}
LORA = {"kind": "lora", "rank": 3, "alpha": 6}
LISTS = {
    "lora": [LORA],
    "tpa": [TPA],
    "tpa of one block": [{**TPA, "blocks": [1]}],
    "lora+tpa": [LORA, TPA],
    "tpa+tpa": [{**TPA, "blocks": [0]}, {**TPA, "bottleneck": 2}],
    "full": [{"kind": "full"}],
    "bitfit+tpa+lora": [{"kind": "bitfit"}, TPA, LORA],
}
TASKS = ("spk1", "spk10", "spk2")


@pytest.fixture(params=LISTS)
def entries(request):
    """Every list of adapters that can be folded."""
    return LISTS[request.param]


def build(base, entries):
    """Adapters that change the output; for a Transformer, whose units have relu, with that.

    A Branchformer has no feed-forward that units could be added to: it has lora in their place.
    """
    if base.config["encoder"] == "branchformer":
        entries = [LORA if entry["kind"] == "tpa" else entry for entry in entries]
    if base.config["encoder"] == "transformer":
        entries = [{**entry, "activation": "relu"} if entry["kind"] == "tpa" else entry for entry in entries]
    stack = api.build([api.read_config(entry) for entry in entries], base.sites, TASKS, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in stack.parameters():
        parameter.data.normal_(std=0.2, generator=generator)
    return stack.requires_grad_(False)


def assert_near(one, other):
    torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def assert_far(one, other):
    assert (one - other).abs().max() > 1e-2


def test_a_folded_model_gives_what_its_base_gives_with_the_adapters(variant, entries, new_batch, encode):
    stack, batch = build(variant, entries), new_batch((1, 1))
    expected = encode(variant, stack, batch)
    assert_near(encode(fold(variant, stack, "spk10"), None, batch), expected)
    assert_far(encode(variant, None, batch), expected)


def test_folding_leaves_base_and_adapters_as_they_are(base, entries):
    stack = build(base, entries)
    before = copy.deepcopy((base.config, stack.state_dict()))
    fold(base, stack, "spk2")
    assert base_checkpoint.wrap(base.path, base.config, base.model).fingerprint == base.fingerprint
    assert base.config == before[0]
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in stack.state_dict().items())


def test_a_folded_model_is_loaded_to_the_same_output(variant, entries, new_batch, encode, tmp_path):
    folded, batch = fold(variant, build(variant, entries), "spk1"), new_batch((-1, -1))
    write(folded, tmp_path / "folded")
    loaded = base_checkpoint.load(tmp_path / "folded")
    assert torch.equal(encode(loaded, None, batch), encode(folded, None, batch))
    assert loaded.fingerprint == folded.fingerprint


@pytest.mark.parametrize(
    ("entries", "units"),
    [([LORA], 24), ([TPA], 29), ([{**TPA, "blocks": [1]}], 29), ([TPA, {**TPA, "bottleneck": 2}], 31)],
)
def test_every_feed_forward_gains_as_many_units_as_the_one_that_gains_most(base, entries, units):
    folded = fold(base, build(base, entries), "spk1")
    inner = {site.dim_out for site in folded.sites if site.kind in ("ffn_in", "ffn_macaron_in")}
    assert folded.config["encoder_conf"]["linear_units"] == units
    assert inner == {units}


def test_units_that_a_block_does_not_use_are_zero(base):
    folded = fold(base, build(base, [{**TPA, "blocks": [1]}]), "spk1")
    unused, used = (block.feed_forward for block in folded.model.encoder.encoders)
    assert not unused.w_1.weight[24:].any()
    assert not unused.w_2.weight[:, 24:].any()
    assert used.w_1.weight[24:].all()


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([{"kind": "residual"}], "'residual' cannot be folded into a base model: it is not a linear map"),
        ([LORA, {"kind": "hra"}], "'hra' cannot be folded"),
        ([{**TPA, "input": "raw"}], "'tpa' cannot be folded .* reads a feed-forward's input before the norm"),
        ([{**TPA, "activation": "relu"}], "have the activation swish, the adapter's have relu"),
    ],
)
def test_what_algebra_does_not_allow_is_refused_with_the_reason(base, entries, reason):
    with pytest.raises(ConfigError, match=reason):
        fold(base, build(base, entries), "spk1")


def test_feed_forwards_of_convolutions_are_refused(new_base, model_config):
    conf = {**model_config()["encoder_conf"], "positionwise_layer_type": "conv1d"}
    base = new_base(encoder_conf={**conf, "positionwise_conv_kernel_size": 3})
    with pytest.raises(ConfigError, match="feed_forward_macaron of the base model is not two linear maps"):
        fold(base, build(base, [TPA]), "spk1")


@pytest.mark.parametrize(
    ("task", "tail"), [("spk11", "did you mean 'spk1"), ("xyz", "known: spk1, spk10, spk2")]
)
def test_an_unknown_task_is_refused_with_the_nearest(base, task, tail):
    with pytest.raises(ConfigError, match=f"--speaker {task}: there are no adapters .*; {tail}"):
        fold(base, build(base, [LORA]), task)


def test_unfolding_gives_the_base_up_to_rounding(variant, entries, new_batch, encode):
    stack, batch = build(variant, entries), new_batch((-1, -1))
    restored = unfold(narrow(fold(variant, stack, "spk1")), stack, "spk1")
    assert_near(encode(restored, None, batch), encode(variant, None, batch))
    assert restored.config == {**variant.config, "encoder_conf": restored.config["encoder_conf"]}
    assert restored.config["encoder_conf"] == variant.config["encoder_conf"]


def test_unfolding_units_without_an_output_bias_gives_the_base_bit_for_bit(base):
    stack = build(base, [TPA])
    for up in stack[0].up.values():
        up.bias.zero_()
    assert unfold(narrow(fold(base, stack, "spk1")), stack, "spk1").fingerprint == base.fingerprint


def test_folds_of_two_experiments_are_undone_in_turn(base, new_batch, encode):
    batch, first = new_batch((-1, -1)), build(base, [TPA])
    once = fold(base, first, "spk1")
    second = build(once, [TPA, LORA])
    twice = fold(once, second, "spk2")
    assert [entry["task"] for entry in twice.config["adaptkit"]["merged"]] == ["spk1", "spk2"]
    undone = unfold(narrow(twice), second, "spk2")
    assert_near(encode(undone, None, batch), encode(once, None, batch))
    assert read_last(undone).task == "spk1"


def test_a_model_changed_after_the_fold_is_not_unfolded(base):
    folded = fold(base, build(base, [LORA]), "spk1")
    folded.model.ctc.ctc_lo.bias.data[0] += 1.0
    changed = base_checkpoint.wrap(base.path, folded.config, folded.model)
    with pytest.raises(CheckpointError, match="has changed since 'adaptkit adapters fold' made it"):
        narrow(changed)


def test_a_model_that_was_not_folded_is_not_unfolded(base):
    with pytest.raises(CheckpointError, match="no 'adaptkit: merged:'"):
        narrow(base)


@pytest.mark.parametrize("what", ["task", "weights"])
def test_adapters_other_than_those_of_the_fold_are_not_unfolded(base, what):
    stack = build(base, [LORA])
    narrowed = narrow(fold(base, stack, "spk1"))
    if what == "weights":
        next(stack.parameters())[0] += 1.0  # of spk1
    with pytest.raises(CheckpointError, match="folded with lora of speaker 'spk1'; .* has other weights"):
        unfold(narrowed, stack, "spk2" if what == "task" else "spk1")


def test_other_tasks_may_have_changed_since_the_fold(base):
    stack = build(base, [LORA])
    narrowed = narrow(fold(base, stack, "spk1"))
    next(stack.parameters())[1] += 1.0  # of spk10
    assert unfold(narrowed, stack, "spk1").config["adaptkit"].get("merged") is None


def test_the_statistics_go_along(base, tmp_path):
    write(fold(base, build(base, [LORA]), "spk1"), tmp_path / "folded")
    read = config.read_yaml(tmp_path / "folded/config.yaml")["normalize_conf"]["stats_file"]
    assert read == str(tmp_path / "folded/feats_stats.npz")
    assert np.load(read)["count"] == 10.0


def test_a_folder_with_a_base_model_is_not_written_over(base, base_dir):
    before = (base_dir / "model.pth").read_bytes()
    with pytest.raises(ConfigError, match="already contains a base model"):
        write(base, base_dir)
    assert (base_dir / "model.pth").read_bytes() == before


def test_a_folded_model_does_not_overwrite_an_experiment(base, tmp_path):
    (tmp_path / "adapter.safetensors").touch()
    with pytest.raises(ConfigError, match="already contains adapters; choose another folder"):
        write(base, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_what_a_killed_run_left_is_completed(base, tmp_path):
    folded = fold(base, build(base, [LORA]), "spk1")
    write(folded, tmp_path / "folded")
    names = sorted(path.name for path in (tmp_path / "folded").iterdir())
    (tmp_path / "folded/model.pth").unlink()  # which is written last
    (tmp_path / "folded/.lock").touch()
    write(folded, tmp_path / "folded")
    assert sorted(path.name for path in (tmp_path / "folded").iterdir()) == names


@pytest.fixture
def exp(base, settings, tmp_path):
    """The folder of trained adapters, lora and tpa."""
    stack, folder = build(base, [LORA, TPA]), tmp_path / "exp/tiny"
    experiment.save(settings(), folder / "config.yaml")
    checkpoint.save(folder / "adapter.safetensors", stack, base.fingerprint, 7, stack.state_dict())
    return folder


def decoded(folder, data, out):
    """The texts and scores of spk10, whom both have adapters of."""
    wanted = DecodeOptions(folder, data, out, batch_frames=500)
    decode_folder(wanted, device="cpu")
    tables = (read_table(out / name) for name in ("text", "utt2score"))
    return [{utt: value for utt, value in table.items() if utt.startswith("spk10-")} for table in tables]


def test_a_folded_model_decodes_as_its_base_does_with_the_adapters(exp, base, corpus, tmp_path):
    write(fold(base, build(base, [LORA, TPA]), "spk10"), tmp_path / "folded")
    data = corpus / "dump/train"
    texts, scores = decoded(exp, data, tmp_path / "a")
    own_texts, own_scores = decoded(tmp_path / "folded", data, tmp_path / "b")
    assert len(texts) == 6
    assert own_texts == texts
    for utt_id, score in scores.items():
        assert float(own_scores[utt_id]) == pytest.approx(float(score), abs=1e-2)


def test_the_commands_fold_and_unfold(adaptkit, exp, base, base_dir, tmp_path, new_batch, encode):
    folded, again, batch = tmp_path / "folded", tmp_path / "again", new_batch((-1, -1))
    done = adaptkit("adapters", "fold", exp, "--speaker", "spk10", "--out", folded)
    assert (done.exit_code, done.stdout) == (0, f"{folded}\n")
    undone = adaptkit("adapters", "unfold", folded, exp, "--speaker", "spk10", "--out", again)
    assert (undone.exit_code, undone.stdout) == (0, f"{again}\n")
    assert_near(encode(base_checkpoint.load(again), None, batch), encode(base, None, batch))
    assert_far(encode(base_checkpoint.load(folded), None, batch), encode(base, None, batch))


def test_the_base_model_is_looked_for_where_the_option_says(adaptkit, exp, base, base_dir, tmp_path):
    write(base, tmp_path / "moved")
    words = ["--speaker", "spk1", "--out", tmp_path / "folded", "--base", tmp_path / "moved"]
    done = adaptkit("adapters", "fold", exp, *words)
    assert done.exit_code == 0, done.stderr
    assert read_last(base_checkpoint.load(tmp_path / "folded")).base_fingerprint == base.fingerprint


def test_the_commands_refuse_an_unknown_speaker(adaptkit, exp, tmp_path):
    done = adaptkit("adapters", "fold", exp, "--speaker", "spk11", "--out", tmp_path / "folded")
    assert isinstance(done.error, ConfigError)
    assert not (tmp_path / "folded").exists()


def test_units_are_not_added_to_the_gating_mlp_of_a_branchformer(new_base):
    base = new_base(encoder="branchformer", encoder_conf=BRANCHFORMER)
    stack = api.build([api.read_config(TPA)], base.sites, TASKS, seed=0)
    with pytest.raises(
        ConfigError, match="cgmlp of the base model is not two linear maps with an activation"
    ):
        fold(base, stack, "spk1")


def test_a_folded_release_is_an_archive_of_all_that_it_came_with(new_archive, tmp_path, monkeypatch):
    zipped = shutil.make_archive(tmp_path / "released", "zip", new_archive("librispeech_conformer"))
    base = base_checkpoint.load(Path(zipped))
    monkeypatch.chdir(tmp_path)
    write(fold(base, build(base, [LORA]), "spk1"), Path("folded"))

    loaded = base_checkpoint.load(tmp_path / "folded")
    assert loaded.tokens == base.tokens
    meta, named = config.read_yaml("folded/meta.yaml"), loaded.config
    paths = [*meta["files"].values(), *meta["yaml_files"].values(), "README.md", "LICENSE"]
    assert [path for path in paths if not Path("folded", path).is_file()] == []
    assert set(meta["files"]) == {"asr_model_file", "lm_file"}
    absolute = (named["bpemodel"], named["normalize_conf"]["stats_file"])
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in absolute)


def test_lost_statistics_of_a_release_are_written_from_the_model(new_archive, tmp_path):
    released = shutil.copytree(new_archive("librispeech_conformer"), tmp_path / "released", symlinks=True)
    shutil.rmtree(next(released.glob("exp/asr_stats*")))
    base = base_checkpoint.load(released)
    write(fold(base, build(base, [LORA]), "spk1"), tmp_path / "folded")

    stats = np.load(tmp_path / "folded/feats_stats.npz")
    mean = torch.from_numpy(stats["sum"] / stats["count"])
    torch.testing.assert_close(mean, base.model.normalize.mean.double(), check_dtype=False)
