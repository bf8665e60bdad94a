"""Masks in training: what goes into the encoder, whichever part is trained and whatever shares the batch."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from adaptkit.adapters.catalog import available
from adaptkit.augment.keyed_random import make_key
from adaptkit.augment.policy import Policy
from adaptkit.augment.specaugment import augment
from adaptkit.data.batches import load_batches
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import recognise
from adaptkit.training import augmentation
from adaptkit.training.validation import validate

SPEC = {"time_warp": 5, "freq_masks": 1, "freq_width": 8, "time_masks": 2, "time_width": 12}
ALL = [list(range(18))]


@pytest.fixture
def augmented(examples, tmp_path):
    """The training set with masks and, where a share is noisy, noise; keywords are parts of its policy."""
    noise = 0.1 * np.random.default_rng(0).normal(size=16000)
    soundfile.write(tmp_path / "hiss.wav", noise, 8000)

    def make(*, noisy=0.0, masks_on="clean", spec=SPEC, seed=0, epoch=0):
        parts = {"spec": spec}
        if noisy:
            parts["noise"] = {"noises": [tmp_path], "room_share": 0.0}
            parts["mix"] = {"noisy": noisy, "masks_on": masks_on}
        return augmentation.augmented(examples, Policy.model_validate(parts), seed).in_epoch(epoch)

    return make


@contextmanager
def recording(model):
    """Keep the features and lengths that go into the encoder, once for each pass."""
    found = []
    handle = model.encoder.embed.register_forward_pre_hook(
        lambda module, args: found.append((args[0].detach().clone(), args[1].sum(dim=(1, 2))))
    )
    try:
        yield found
    finally:
        handle.remove()


def rows_of(passes):
    return [x[:length] for feats, lengths in passes for x, length in zip(feats, lengths, strict=True)]


def fed(adapted, examples, plan=ALL, num_workers=0):
    """Return what goes into the encoder in training for each utterance, (T, F)."""
    adapted.train()
    found = {}
    with adapted.hooked(), torch.no_grad():
        for batch in load_batches(examples, plan, num_workers):
            with recording(adapted.espnet) as passes:
                adapted.loss(batch)
            found.update(zip(batch.utt_ids, rows_of(passes), strict=True))
    return found


def adapters_on(base, stack, examples):
    return AdaptedModel(base, stack, augmentation.spec_of(examples))


@pytest.fixture
def feed(new_base):
    """Return what a base model in training is fed of a set."""

    def run(examples, **options):
        return fed(AdaptedModel(new_base(), spec=augmentation.spec_of(examples)), examples, **options)

    return run


@pytest.fixture
def clean(examples, feed):
    """What goes into the encoder without augmentation."""
    return feed(examples)


def count_changed(one, other):
    assert one.keys() == other.keys()
    return sum(not torch.equal(one[name], other[name]) for name in one)


# the masks


def test_the_encoder_is_fed_normalised_features_masked_as_each_utterances_key_draws(augmented, feed, clean):
    spec, found = Policy.model_validate({"spec": SPEC}).spec, feed(augmented(seed=3, epoch=2))

    for utt_id, feats in clean.items():
        key = torch.tensor([make_key(3, 2, utt_id)])
        expected = augment(spec, feats[None], torch.tensor([len(feats)]), key)[0]
        assert torch.equal(found[utt_id], expected)


def test_masked_places_are_exactly_zero(augmented, feed, clean):
    found = feed(augmented(spec={"time_masks": 1, "time_width": [4, 5]}))

    for utt_id, feats in clean.items():
        is_masked = (found[utt_id] == 0).all(dim=1)
        assert is_masked.sum() == 4  # a mask in frames, of width 4 in [4, 5)
        assert torch.equal(found[utt_id][~is_masked], feats[~is_masked])


@pytest.mark.parametrize("kind", ["residual", "hff", "bitfit"])
def test_adapters_are_trained_on_the_features_that_the_base_is(augmented, feed, clean, base, new_stack, kind):
    examples = augmented(noisy=0.5, masks_on="all")
    by_task = [[row for row in ALL[0] if row // 6 == task] for task in range(3)]

    found = fed(adapters_on(base, new_stack(base, kind), examples), examples, by_task)

    assert count_changed(found, feed(examples)) == 0
    assert count_changed(found, clean) > 0


def test_a_pass_for_each_task_masks_rows_as_one_pass_for_all_does(augmented, feed, clean, base, new_stack):
    examples = augmented()
    found = fed(adapters_on(base, new_stack(base, "full"), examples), examples)  # of tasks 0, 1, 2 in turn

    assert count_changed(found, feed(examples)) == 0
    assert count_changed(found, clean) == 18


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("plan", [[[row] for row in ALL[0]], [ALL[0][::-1]], [ALL[0][::2], ALL[0][1::2]]])
def test_masks_and_noise_do_not_depend_on_the_batch_or_the_process_that_loads_it(
    augmented, feed, plan, num_workers
):
    examples = augmented(noisy=0.5, masks_on="all")  # the last plan is the shares of two processes

    assert count_changed(feed(examples, plan=plan, num_workers=num_workers), feed(examples)) == 0


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_masks_otherwise(augmented, feed, other):
    assert count_changed(feed(augmented(**other)), feed(augmented())) == 18


def test_masks_do_not_depend_on_the_global_random_state(augmented, feed):
    torch.manual_seed(1)
    found = feed(augmented())
    torch.manual_seed(2)

    assert count_changed(found, feed(augmented())) == 0


# masks and noise together


def test_masks_are_stacked_on_noisy_utterances_or_leave_them_alone(augmented, feed):
    unmasked = feed(augmented(noisy=0.5, spec=None))
    mixed, stacked = (feed(augmented(noisy=0.5, masks_on=chosen)) for chosen in ("clean", "all"))
    choose = augmented(noisy=0.5).augmentation.choose

    assert 0 < sum(choose(utt_id).is_noisy for utt_id in unmasked) < 18
    for utt_id, feats in unmasked.items():
        assert torch.equal(mixed[utt_id], feats) == choose(utt_id).is_noisy
        assert not torch.equal(stacked[utt_id], feats)


def test_what_is_masked_without_noise_is_masked_alike_when_mixed(augmented, feed):
    mixed, masked = feed(augmented(noisy=0.5)), feed(augmented())
    chosen = augmented(noisy=0.5).augmentation.choose

    for utt_id in mixed:
        assert torch.equal(mixed[utt_id], masked[utt_id]) != chosen(utt_id).is_noisy


# in a run


@pytest.mark.parametrize("kind", ["residual", "hff"])
def test_each_epoch_of_a_run_masks_anew_and_validation_is_not_masked(new_run, augmented, base, clean, kind):
    run = new_run(kind=kind, max_epochs=2, batch_frames=10**6, plan={"train": augmented()})
    run.adapted.spec = augmentation.spec_of(augmented())
    with recording(base.model) as passes:
        run.fit()
    names = [u.utt_id for u in run.plan.train.data.utterances]
    num_valid = (len(passes) - 2) // 3  # of the start and of two epochs of a step each
    passes, half = passes[num_valid:], num_valid + 1

    for epoch in range(2):
        expected = fed(run.adapted, augmented(epoch=epoch))
        ((order,),) = run.plan.steps(run.adapted.adapters).of_epoch(epoch)
        trained, *validated = passes[epoch * half :][:half]
        pairs = zip(rows_of([trained]), order, strict=True)
        assert all(torch.equal(x, expected[names[row]]) for x, row in pairs)
        assert all(any(torch.equal(x, own) for own in clean.values()) for x in rows_of(validated))


def test_decoding_and_validation_of_an_objective_with_masks_are_those_without(examples, base, augmented):
    with_masks, without = (
        AdaptedModel(base, spec=augmentation.spec_of(augmented())).eval(),
        AdaptedModel(base).eval(),
    )
    with with_masks.hooked():
        found = recognise(with_masks, examples, 500), validate(with_masks, examples, 500)
    with without.hooked():
        assert found == (recognise(without, examples, 500), validate(without, examples, 500))


@pytest.mark.slow
@pytest.mark.parametrize("kind", available())
def test_adapters_of_every_kind_learn_under_masks_and_noise(new_run, augmented, kind):
    examples = augmented(noisy=0.5, masks_on="all")
    runs = [new_run(name, kind, max_epochs=1) for name in ("plain", "masked")]
    masked = replace(runs[1], plan=replace(runs[1].plan, train=examples))
    masked.adapted.spec = augmentation.spec_of(examples)
    for run in (runs[0], masked):
        run.fit()

    losses = [[event["loss"] for event in run.events("step")] for run in runs]
    assert np.isfinite(losses[1]).all()
    assert losses[0] != losses[1]
    assert all(tensor.isfinite().all() for tensor in runs[1].weights.values())
    assert any(not torch.equal(runs[0].weights[name], tensor) for name, tensor in runs[1].weights.items())


def test_a_run_stopped_within_an_epoch_goes_on_with_the_same_masks(new_run, augmented, assert_same):
    examples = augmented(noisy=0.5)
    options = {"save_every_steps": 1, "max_epochs": 3, "plan": {"train": examples}}
    whole, stopped, resumed = new_run("whole", **options), new_run(stop=1, **options), new_run(**options)
    for run in (whole, stopped, resumed):
        run.adapted.spec = augmentation.spec_of(examples)
    whole.fit()
    stopped.fit_until_stopped()
    resumed.fit(resume=True)

    assert_same(resumed.saved(), whole.saved())
