"""What adapters beside the encoder read: what left its blocks, and the same from disk."""

import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch

from adaptkit import config
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.augment.policy import Policy
from adaptkit.base.padding import ignoring_padding
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import read_examples
from adaptkit.errors import ConfigError, DataError
from adaptkit.features.archive import load_feats
from adaptkit.kaldi.tables import read_table
from adaptkit.model import encoder_cache
from adaptkit.model.adapted import AdaptedModel
from adaptkit.training import augmentation
from tests.fixtures.models import VARIANTS

ALL_TASKS = (0, 1, 2)


@pytest.fixture
def cached_hff(base, new_stack):
    """Untrained adapters that want a cache."""
    return new_stack(base, "hff", cache=True)


@pytest.fixture
def own_examples(base, corpus, tmp_path):
    """The validation set of base rows, in a folder that a test may spoil."""
    folder = shutil.copytree(corpus / "dump/valid", tmp_path / "valid")
    return read_examples(folder, base)


@pytest.fixture
def write(own_examples, cached_hff, tmp_path):
    """Write the cache of a set under exp/taps/valid, or take the one that is there."""

    def run(examples=own_examples, adapters=cached_hff, batch_frames=300):
        return encoder_cache.cached(
            examples, adapters, tmp_path / "exp/taps/valid", batch_frames=batch_frames
        )

    return run


def together(*stacks):
    members, configs = ([*chain.from_iterable(parts)] for parts in (stacks, (s.configs for s in stacks)))
    return AdapterStack(members, configs, stacks[0].tasks)


def made_at(path: Path) -> int:
    return path.stat().st_mtime_ns


# reading


def test_what_is_read_is_what_left_the_blocks_and_the_encoder(variant, new_stack, new_batch):
    batch, blocks = new_batch(ALL_TASKS), []
    sites = encoder_cache.find(variant, new_stack(variant, "hff"))

    def keep(module, args, output):
        blocks.append(output[0][0] if isinstance(output[0], tuple) else output[0])

    with torch.no_grad(), ignoring_padding(variant.model), ExitStack() as stack:
        for block in variant.model.encoder.encoders:
            stack.callback(block.register_forward_hook(keep).remove)
        encoded, frames = variant.model.encode(batch.inputs.clone(), batch.lengths)
        expected = [*blocks, encoded[0] if isinstance(encoded, tuple) else encoded]
        read = encoder_cache.read(variant.model, sites, batch)
    assert torch.equal(read.inputs, torch.cat(expected, -1))
    assert torch.equal(read.lengths, frames)


def test_only_tapped_blocks_are_read_and_the_encoders_output_last(base, new_stack):
    stack = together(new_stack(base, "hff", taps=(1,)), new_stack(base, "hff", taps=(1,)))
    assert [site.name for site in encoder_cache.find(base, stack)] == ["encoder.encoders.1", "encoder"]


def test_what_is_read_is_ready_for_training(base, new_stack, new_batch):
    read = encoder_cache.read(
        base.model, encoder_cache.find(base, new_stack(base, "hff")), new_batch(ALL_TASKS)
    )
    assert read.has_taps
    assert not read.inputs.requires_grad
    assert not any(tensor.is_inference() for tensor in (read.inputs, read.lengths))


def test_reading_leaves_the_batch_as_it_was(base, new_stack, new_batch):
    batch = new_batch(ALL_TASKS)
    before = batch.inputs.clone()
    encoder_cache.read(base.model, encoder_cache.find(base, new_stack(base, "hff")), batch)
    assert torch.equal(batch.inputs, before)


def test_a_kind_that_acts_inside_leaves_nothing_to_read_beforehand(base, new_stack):
    stack = together(new_stack(base, "residual"), new_stack(base, "hff"))
    assert encoder_cache.find(base, stack) == ()
    assert AdaptedModel(base, stack).taps == ()


def test_weights_of_the_ctc_count_as_inside_where_blocks_use_it(base, new_base, new_stack):
    conf = {"output_size": 16, "num_blocks": 2, "attention_heads": 2, "linear_units": 24}
    inner = new_base(encoder_conf={**conf, "interctc_layer_idx": [1]})
    for model, is_read in ((base, True), (inner, False)):
        stack = new_stack(model, "full", parts=["ctc"])
        assert bool(encoder_cache.find(model, stack)) == is_read


def test_settings_of_hff_with_the_ctc_leave_the_encoder_alone_and_with_the_encoder_do_not(base):
    entries = config.read_yaml(Path(__file__).parents[2] / "conf/adapters/hff_full.yaml")["adapters"]
    for parts, is_read in ((["ctc"], True), (["encoder"], False)):
        configs = [api.read_config(entry) for entry in (entries[0], {**entries[1], "parts": parts})]
        assert bool(encoder_cache.find(base, api.build(configs, base.sites, ["one"], seed=0))) == is_read


# on disk


def test_a_cache_holds_what_would_be_read_of_each_utterance_alone(base, write, cached_hff, own_examples):
    cached = write()
    adapted = AdaptedModel(base, cached_hff)
    for row, utterance in enumerate(own_examples.data.utterances):
        (batch,) = load_batches(own_examples, [[row]])
        with adapted.hooked():
            expected = adapted.read_taps(batch).inputs[0]
        found = load_feats(cached.taps[utterance.utt_id])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_loss_from_a_cache_has_the_terms_of_intermediate_ctc(new_base, new_stack, own_examples, write):
    base = new_base(**VARIANTS["interctc"])
    stack, examples = new_stack(base, "hff", cache=True), replace(own_examples, base=base)
    (cached,), (plain,) = (load_batches(e, [[3, 0, 1]]) for e in (write(examples, stack), examples))
    beside, inside = AdaptedModel(base, stack), AdaptedModel(base, new_stack(base, "residual"))
    with torch.no_grad(), beside.hooked(), inside.hooked():
        torch.testing.assert_close(beside.loss(cached), inside.loss(plain))
        torch.testing.assert_close(beside.loss(cached.rows([2])), inside.loss(plain.rows([2])))


def test_batches_of_a_cache_hold_taps_and_the_same_tokens(write, own_examples):
    (cached,), (plain,) = (load_batches(e, [[3, 0]]) for e in (write(), own_examples))
    assert (cached.has_taps, plain.has_taps) == (True, False)
    assert cached.inputs.shape == (2, int(cached.lengths.max()), 3 * 16)  # two blocks and the encoder's
    assert cached.utt_ids == plain.utt_ids
    assert torch.equal(cached.tokens, plain.tokens)
    assert cached.rows([1]).has_taps


def test_a_cache_leaves_the_plan_of_batches_as_it_was(write, own_examples):
    cached = write()
    assert cached.lengths == own_examples.lengths
    assert cached.groups(None) == own_examples.groups(None)


def test_a_whole_cache_is_used_again(write, tmp_path):
    write()
    before = made_at(tmp_path / "exp/taps/valid.ark")
    write(batch_frames=10**6)
    assert made_at(tmp_path / "exp/taps/valid.ark") == before


def test_a_cache_is_made_again_for_other_blocks_utterances_features_or_base(
    write, own_examples, base, new_base, new_stack, tmp_path
):
    ark, other = tmp_path / "exp/taps/valid.ark", new_base(seed=1)
    write()
    changes = (
        {"adapters": new_stack(base, "hff", cache=True, taps=(0,))},
        {"examples": own_examples.without({"spk1-00"})},
        {"examples": replace(own_examples, base=other), "adapters": new_stack(other, "hff", cache=True)},
    )
    for change in changes:
        before = made_at(ark)
        write(**change)
        assert made_at(ark) != before


def test_a_cache_is_made_again_when_the_features_are_newer(write, own_examples, cached_hff, tmp_path):
    location = own_examples.data.feats["spk1-00"]
    own = shutil.copy(location.rpartition(":")[0], tmp_path / "own.ark")
    feats = {**own_examples.data.feats, "spk1-00": f"{own}:{location.rpartition(':')[2]}"}
    moved = replace(own_examples, data=replace(own_examples.data, feats=feats))
    write(moved)
    before = made_at(tmp_path / "exp/taps/valid.ark")
    os.utime(own, (0, 0))
    write(moved)
    assert made_at(tmp_path / "exp/taps/valid.ark") != before


def test_a_truncated_or_unrecorded_cache_is_made_again(write, tmp_path):
    folder = tmp_path / "exp/taps"
    write()
    whole = (folder / "valid.ark").read_bytes()
    (folder / "valid.ark").write_bytes(whole[:-10])
    write()
    assert (folder / "valid.ark").read_bytes() == whole
    (folder / "valid.json").unlink()
    before = made_at(folder / "valid.ark")
    write()
    assert made_at(folder / "valid.ark") != before


def test_what_a_killed_run_was_writing_is_removed(write, tmp_path):
    leftover = tmp_path / "exp/taps/.valid.123.partial.ark"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    write()
    assert sorted(path.name for path in leftover.parent.iterdir()) == ["valid.ark", "valid.json", "valid.scp"]


def test_a_cache_that_cannot_be_written_whole_leaves_nothing_that_counts(write, own_examples, tmp_path):
    feats = {**own_examples.data.feats, "spk2-01": "nowhere.ark:0"}
    with pytest.raises(DataError, match="nowhere.ark"):
        write(replace(own_examples, data=replace(own_examples.data, feats=feats)))
    assert not (tmp_path / "exp/taps").exists()


def test_a_cache_beside_a_kind_that_acts_inside_is_refused_with_its_name(write, base, new_stack, cached_hff):
    stack = together(new_stack(base, "residual"), cached_hff)
    with pytest.raises(
        ConfigError, match="'cache: true' stores encoder outputs, but residual needs the encoder"
    ):
        write(adapters=stack)


def test_a_cache_of_an_augmented_set_is_refused_and_not_written(write, own_examples, tmp_path):
    policy = Policy.model_validate({"spec": {"freq_masks": 1, "freq_width": 5}})
    with pytest.raises(
        ConfigError, match="'augment' changes the features .* 'cache: false' or 'augment: null'"
    ):
        write(augmentation.augmented(own_examples, policy, 0))
    assert not (tmp_path / "exp/taps").exists()


def test_a_table_of_the_cache_names_every_utterance(write, own_examples, tmp_path):
    write()
    table = read_table(tmp_path / "exp/taps/valid.scp")
    assert set(table) == {utterance.utt_id for utterance in own_examples.data.utterances}


# training from disk


def test_training_from_a_cache_is_training_without(new_run):
    options = {"kind": "hff", "max_epochs": 2, "is_trained": True}
    plain, cached = new_run("plain", **options), new_run("cached", **options)
    cached.adapted.adapters[0].is_cached = True
    plain.fit()
    cached.fit()
    for name, tensor in plain.weights.items():
        torch.testing.assert_close(cached.weights[name], tensor, atol=1e-4, rtol=0)
    losses = [[event["loss"] for event in run.events("step")] for run in (plain, cached)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_an_encoder_that_fails_does_not_matter_once_the_cache_is_there(new_run):
    first, run = new_run(kind="hff", max_epochs=1), new_run("again", kind="hff", max_epochs=1)
    cached = first.plan.cached(first.adapted.adapters)

    def refuse(module, args):
        raise AssertionError("the encoder was run")

    with_cache = replace(run, plan=replace(run.plan, train=cached.train, valid=cached.valid))
    hook = run.adapted.espnet.encoder.register_forward_pre_hook(refuse)
    try:
        assert with_cache.fit().is_done
    finally:
        hook.remove()


def test_a_resumed_run_takes_its_cache_again(new_run, assert_same):
    options = {"kind": "hff", "save_every_steps": 2}
    whole, stopped, resumed = (new_run("whole", **options), new_run(stop=1, **options), new_run(**options))
    for run in (whole, stopped, resumed):
        run.adapted.adapters[0].is_cached = True
    whole.fit()
    stopped.fit_until_stopped()
    before = made_at(resumed.plan.folder / "taps/train.ark")
    resumed.fit(resume=True)
    assert made_at(resumed.plan.folder / "taps/train.ark") == before
    assert_same(resumed.saved(), whole.saved())


def test_other_processes_load_a_cache_too(write):
    cached = write()
    (here,), (there,) = (load_batches(cached, [[0, 1]], num_workers=workers) for workers in (0, 1))
    assert there.has_taps
    assert torch.equal(here.inputs, there.inputs)


def test_a_cached_kind_says_so(base, new_stack):
    assert new_stack(base, "hff", cache=True).is_cached
    assert not new_stack(base, "hff").is_cached
    assert api.read_config({"kind": "hff"}).cache is False
