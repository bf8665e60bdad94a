"""Which utterances go together, and what a batch holds."""

import random
import shutil
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from adaptkit.augment.keyed_random import make_key
from adaptkit.augment.policy import Policy
from adaptkit.data.batches import load_batches, plan_batches, shuffle_batches
from adaptkit.errors import AdaptkitError
from adaptkit.features.archive import load_feats
from adaptkit.training import augmentation
from tests.fixtures.models import CONFORMER, STREAMING

LENGTHS = [31, 90, 45, 45, 12, 77, 60, 8, 45, 33]
GROUPS = [(2,), (0,), (-1,), (2,), (0,), (0,), (2,), (2,), (2,), (0,)]


@pytest.fixture
def folder(corpus, tmp_path):
    """The validation set with features, in a folder that a test may spoil."""
    return shutil.copytree(corpus / "dump/valid", tmp_path / "valid")


def padded(plan, lengths):
    return [len(batch) * max(lengths[index] for index in batch) for batch in plan]


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("most", [1, 90, 200, 10**6])
def test_every_utterance_is_planned_once(most, groups):
    for plan in (
        plan_batches(LENGTHS, most, groups=groups),
        shuffle_batches(LENGTHS, most, seed=0, epoch=3, groups=groups),
    ):
        assert Counter(index for batch in plan for index in batch) == Counter(range(len(LENGTHS)))


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_no_batch_of_several_exceeds_the_frames_with_padding(groups):
    for epoch in range(20):
        plan = shuffle_batches(LENGTHS, 100, seed=0, epoch=epoch, groups=groups)
        sizes = zip(padded(plan, LENGTHS), plan, strict=True)
        assert all(size <= 100 for size, batch in sizes if len(batch) > 1)


def test_unequal_groups_do_not_share_a_batch():
    for plan in (
        plan_batches(LENGTHS, 10**6, groups=GROUPS),
        shuffle_batches(LENGTHS, 10**6, seed=0, epoch=0, groups=GROUPS),
    ):
        assert sorted(sorted(batch) for batch in plan) == [[0, 3, 6, 7, 8], [1, 4, 5, 9], [2]]


def test_batches_are_planned_longest_first_whatever_their_groups():
    longest = [max(LENGTHS[index] for index in batch) for batch in plan_batches(LENGTHS, 90, groups=GROUPS)]
    assert longest == sorted(longest, reverse=True)


def test_batches_of_different_groups_are_trained_in_turns():
    groups = [(index // 50,) for index in range(100)]
    plan = shuffle_batches([10] * 100, 10, seed=0, epoch=0, groups=groups)
    changes = sum(groups[one[0]] != groups[other[0]] for one, other in pairwise(plan))
    assert 30 < changes < 70  # 50 on average where the order is random, 1 where it is not


def test_tasks_share_batches_unless_they_change_weights_of_the_base_differently(examples, base, new_stack):
    kinds = {"residual": {}, "full": {}, "bitfit": {"per_task": False}}
    stacks = [None, *(new_stack(base, kind, **options) for kind, options in kinds.items())]
    assert [len(set(examples.groups(stack))) for stack in stacks] == [1, 1, 3, 1]


def test_utterances_of_the_base_do_not_share_batches_with_those_of_changed_weights(examples, base, new_stack):
    mixed = replace(examples, task_ids={"spk1": -1, "spk10": 0, "spk2": 2})
    assert len(set(mixed.groups(new_stack(base, "full", per_task=False)))) == 2


def test_lengths_share_batches_unless_blocks_of_time_depend_on_the_longest(examples, new_base):
    legacy = replace(examples, base=new_base(encoder_conf={**CONFORMER, "rel_pos_type": "legacy"}))
    streaming = new_base(encoder="contextual_block_transformer", encoder_conf=STREAMING)
    assert len(set(examples.groups(None))) == len(set(legacy.groups(None))) == 1
    assert len(set(replace(examples, base=streaming).groups(None))) == len(set(examples.lengths)) > 1


def test_a_run_that_changes_weights_takes_one_task_a_batch(new_run, examples):
    run = new_run(kind="full", batch_frames=10**6)
    tasks = [examples.task_ids[utterance.task] for utterance in examples.data.utterances]
    plan = [batch for step in run.plan.steps(run.adapted.adapters).of_epoch(0) for batch in step]
    assert sorted(sorted({tasks[index] for index in batch}) for batch in plan) == [[0], [1], [2]]


def test_an_epoch_is_planned_again_the_same_and_another_otherwise():
    first, again, other = (shuffle_batches(LENGTHS, 100, seed=0, epoch=epoch) for epoch in (1, 1, 2))
    assert first == again
    assert first != other


def test_another_seed_is_another_order():
    assert shuffle_batches(LENGTHS, 100, seed=0, epoch=1) != shuffle_batches(LENGTHS, 100, seed=1, epoch=1)


def filled(order, lengths, most, groups):
    """Fill batches one utterance after the other."""
    plan = []
    for index in order:
        joined = [*plan[-1], index] if plan else []
        is_full = len(joined) * max((lengths[each] for each in joined), default=0) > most
        if not joined or is_full or groups[joined[0]] != groups[index]:
            plan.append([index])
        else:
            plan[-1].append(index)
    return plan


@pytest.mark.parametrize("num_groups", [1, 4])
def test_plans_are_those_of_lists_sorted_and_shuffled(num_groups):
    for seed in range(40):
        draw = random.Random(seed)
        lengths = draw.choices(range(5, 60), k=draw.randint(1, 80))
        groups = [(draw.randrange(num_groups), -1) for _ in lengths]
        ordered = sorted(range(len(lengths)), key=lambda index: (groups[index], -lengths[index]))
        plan = sorted(filled(ordered, lengths, 150, groups), key=lambda batch: -lengths[batch[0]])
        assert plan_batches(lengths, 150, groups=groups) == plan

        generator, order = random.Random(f"{seed} 2"), list(range(len(lengths)))
        generator.shuffle(order)
        order.sort(key=lambda index: (groups[index], -(20 * lengths[index] // max(lengths))))
        shuffled = filled(order, lengths, 150, groups)
        generator.shuffle(shuffled)
        assert shuffle_batches(lengths, 150, seed=seed, epoch=2, groups=groups) == shuffled


def test_part_of_a_plan_is_a_plan():
    plan = shuffle_batches(LENGTHS, 90, seed=0, epoch=1)
    assert plan[1:3] == [plan[1], plan[2]] == list(plan)[1:3]
    assert plan[-1] == list(plan)[-1]


def test_an_epoch_of_many_utterances_is_planned_in_little_time():
    lengths = [100 + number * 7919 % 1500 for number in range(100_000)]
    groups = [(0,)] * len(lengths)
    before = time.process_time()
    plan = shuffle_batches(lengths, 20_000, seed=0, epoch=0, groups=groups)
    assert time.process_time() - before < 2  # 0.2 to 0.4 s
    assert sum(map(len, plan)) == 100_000


def test_neighbours_change_between_epochs_among_similar_lengths():
    lengths = list(range(1000, 1040))
    plans = [shuffle_batches(lengths, 4200, seed=0, epoch=epoch) for epoch in range(2)]
    first, second = ({frozenset(batch) for batch in plan} for plan in plans)
    assert not first & second


def test_a_batch_holds_features_tokens_and_tasks_with_padding_beyond_the_lengths(examples):
    (batch,) = load_batches(examples, [[0, 7, 17]])
    utterances = [examples.data.utterances[index] for index in (0, 7, 17)]
    assert batch.utt_ids == tuple(u.utt_id for u in utterances) == ("spk1-00", "spk10-01", "spk2-05")
    assert batch.task_ids == (0, 1, 2)
    for row, utterance in enumerate(utterances):
        feats = load_feats(examples.data.feats[utterance.utt_id])
        assert torch.equal(batch.inputs[row, : batch.lengths[row]], feats)
        assert not batch.inputs[row, batch.lengths[row] :].any()
        tokens = batch.tokens[row, : batch.token_lengths[row]].tolist()
        assert tokens == examples.base.tokens.encode(utterance.text)
        assert (batch.tokens[row, batch.token_lengths[row] :] == -1).all()


def test_rows_of_a_batch_are_trimmed_to_the_longest_of_them(new_batch):
    batch = new_batch((0, 1, 2))
    rows = batch.rows([2, 1])
    assert rows.utt_ids == ("utt2", "utt1")
    assert rows.task_ids == (2, 1)
    assert rows.inputs.shape[1] == 53
    assert torch.equal(rows.inputs[1], batch.inputs[1, :53])
    assert torch.equal(rows.tokens, batch.tokens[[2, 1]])


def test_other_processes_load_the_same_batches(examples):
    plan = [[0, 1], [5], [7, 3, 2]]
    here, there = load_batches(examples, plan), load_batches(examples, plan, num_workers=2)
    for one, other in zip(here, there, strict=True):
        assert one.utt_ids == other.utt_ids
        assert torch.equal(one.inputs, other.inputs)


def test_loading_draws_nothing_from_the_global_generator(examples):
    state = torch.random.get_rng_state()
    list(load_batches(examples, [[0], [1]], num_workers=1))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_lost_features_are_one_line_whichever_process_misses_them(examples, num_workers):
    feats = {**examples.data.feats, "spk1-00": "nowhere.ark:0"}
    broken = replace(examples, data=replace(examples.data, feats=feats))
    with pytest.raises(AdaptkitError) as caught:
        list(load_batches(broken, [[1], [0]], num_workers))
    assert str(caught.value) == (
        "nowhere.ark: no such file or folder; run 'adaptkit feats' again, which rewrites damaged archives"
    )


def test_a_batch_holds_the_keys_of_its_rows_and_which_are_masked(examples):
    policy = Policy.model_validate({"spec": {"freq_masks": 1, "freq_width": 5}})
    augmented = augmentation.augmented(examples, policy, 4).in_epoch(1)
    (batch,) = load_batches(augmented, [[7, 0, 17]], num_workers=1)
    keys = [make_key(4, 1, utt_id) for utt_id in ("spk10-01", "spk1-00", "spk2-05")]

    assert batch.mask_keys.tolist() == keys
    assert batch.is_masked.tolist() == [True] * 3
    assert batch.rows([2, 0]).mask_keys.tolist() == [keys[2], keys[0]]
    assert batch.to("cpu").is_masked.dtype == torch.bool


def test_a_batch_that_is_not_augmented_holds_no_keys(examples):
    (batch,) = load_batches(examples, [[0, 1]])
    (plain,) = load_batches(augmentation.augmented(examples, Policy(), 0), [[0, 1]])

    assert (batch.mask_keys, batch.is_masked, plain.mask_keys, plain.is_masked) == (None,) * 4
    assert batch.rows([1]).mask_keys is None
