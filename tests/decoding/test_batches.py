"""Decoding with a folder of Submodels, of which few are in memory at a time."""

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from adaptkit.adapters.catalog import available
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import number_tasks, read_examples
from adaptkit.decoding.batches import recognise_with_submodels
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import recognise
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.folder import SubmodelFolder

TASKS = ("spk1 a", "spk1 b", "spk10 a", "spk10 b", "spk2 a")  # spk2 b is left to the base
SPACE = {"bank": "space", "space_dim": 2}
SMALL = 260  # frames of a batch of a few utterances


@pytest.fixture
def many(base, corpus):
    """The training set with six tasks, two of each speaker, one of which the adapters do not know."""
    read = read_examples(corpus / "dump/train", base)
    utterances = tuple(
        replace(u, task=f"{u.speaker} {'ab'[index % 2]}") for index, u in enumerate(read.data.utterances)
    )
    data = replace(read.data, utterances=utterances)
    return replace(read, data=data, task_ids=number_tasks(data, TASKS, unknown="base"))


def open_cache(base, folder, num_slots):
    bytes_each = SubmodelFolder(folder, base).bytes_each
    return closing(SubmodelCache(folder, base, budget_bytes=num_slots * bytes_each))


def said(adapted, examples, batch_frames, submodels=None):
    with adapted.hooked():
        if submodels is None:
            return recognise(adapted, examples, batch_frames)
        return recognise_with_submodels(adapted, examples, batch_frames, submodels)


# the same as with a bank of all


@pytest.mark.slow
@pytest.mark.parametrize("kind", available())
def test_decoding_with_a_slot_too_few_equals_decoding_with_the_whole_bank(
    base, new_stack, export, many, kind, bank
):
    stack = new_stack(base, kind, tasks=TASKS, is_trained=True, **bank)
    expected = said(AdaptedModel(base, stack).eval(), many, SMALL)
    with open_cache(base, export(stack), len(TASKS) - 1) as submodels:
        found = said(AdaptedModel(base, submodels.stack).eval(), many, SMALL, submodels)
        assert submodels.stats().evictions > 0
    assert found == expected
    assert len({h.score for h in found}) == len(found)
    alone = {h.utt_id: h.score for h in said(AdaptedModel(base).eval(), many, SMALL)}
    changed = {h.utt_id for h in found if abs(h.score - alone[h.utt_id]) > 1e-3}  # in other batches, maybe
    assert changed == {u.utt_id for u in many.data.utterances if u.task != "spk2 b"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", available())
def test_what_leaves_the_encoder_is_the_same_bit_for_bit(
    base, new_stack, new_batch, encode, export, kind, bank
):
    stack = new_stack(base, kind, tasks=TASKS, is_trained=True, **bank)
    with open_cache(base, export(stack), len(TASKS) - 1) as submodels:
        for task_ids in ((0, 4, -1, 2), (3, 1, 3, 4), (-1, 2, 0, 0), (-1, -1)):
            batch = new_batch(task_ids)
            names = [TASKS[task] if task >= 0 else None for task in task_ids]
            with submodels.using(names) as slots:
                found = encode(base, submodels.stack, replace(batch, task_ids=tuple(slots)))
            assert torch.equal(found, encode(base, stack, batch))


def test_batches_mix_submodels_and_rows_of_the_base(base, many):
    plan = [list(range(len(many)))]
    (batch,) = load_batches(many, plan)
    assert set(batch.task_ids) == {-1, 0, 1, 2, 3, 4}


def test_a_batch_of_more_speakers_than_slots_is_refused_with_what_would_do(base, new_stack, export, many):
    stack = new_stack(base, tasks=TASKS, is_trained=True)
    with open_cache(base, export(stack), 2) as submodels:
        adapted = AdaptedModel(base, submodels.stack).eval()
        with pytest.raises(
            ConfigError, match=r"has 3 speakers .*, but only 2 fit .*; raise --submodel-mb to 1"
        ):
            said(adapted, many, 12000, submodels)
        assert submodels.stats().misses == 0


def test_loading_workers_do_not_change_what_is_found(base, new_stack, export, many):
    stack = new_stack(base, tasks=TASKS, is_trained=True)
    expected = said(AdaptedModel(base, stack).eval(), many, SMALL)
    with open_cache(base, export(stack), 4) as submodels:
        adapted = AdaptedModel(base, submodels.stack).eval()
        with adapted.hooked():
            found = recognise_with_submodels(adapted, many, SMALL, submodels, num_workers=2)
    assert found == expected
