"""The slots of the cache of Submodels: how many there are, what lies in them, and what gives way."""

import copy
import resource
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptkit.adapters.catalog import available
from adaptkit.adapters.per_task import task_parameters
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.files import file_name, read, write
from adaptkit.submodels.folder import SubmodelFolder

TASKS = tuple(f"spk{number}" for number in range(6))
SPACE = {"bank": "space", "space_dim": 2}


def test_a_budget_in_bytes_is_a_number_of_slots(base, folder, stack):
    bytes_each = sum(table[0].numel() * 4 for _, table in task_parameters(stack))
    for budget_bytes, num_slots in ((bytes_each, 1), (3 * bytes_each - 1, 2), (3 * bytes_each, 3)):
        cache = SubmodelCache(folder, base, budget_bytes=budget_bytes)
        cache.close()
        assert (cache.bytes_each, cache.num_slots, len(cache.stack.tasks)) == (
            bytes_each,
            num_slots,
            num_slots,
        )


def test_a_budget_that_holds_no_submodel_is_refused_with_one_that_does(base, folder):
    bytes_each = SubmodelFolder(folder, base).bytes_each
    with pytest.raises(ConfigError, match="a Submodel takes .* bytes, but only .* raise --submodel-mb to 1"):
        SubmodelCache(folder, base, budget_bytes=bytes_each - 1)


def test_slots_that_nothing_was_written_to_take_no_memory(base, new_stack, export, use):
    folder = export(new_stack(base, bottleneck=256, tasks=TASKS, is_trained=True))
    before = resident_mib()
    with closing(SubmodelCache(folder, base, budget_bytes=2**30)) as cache:
        use(cache, *TASKS)
        assert cache.num_slots * cache.bytes_each > 2**30 - cache.bytes_each
        assert resident_mib() - before < 100


def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.parametrize("kind", available())
def test_each_row_gets_the_slot_that_holds_the_weights_of_its_task(
    base, new_stack, export, new_cache, assert_same, kind, bank, in_slot, in_bank
):
    stack = new_stack(base, kind, tasks=TASKS, is_trained=True, **bank)
    cache = new_cache(3, export(stack, kind))
    for tasks in (["spk5", None, "spk0", "spk5"], ["spk1", "spk2", "spk0"], [None]):
        with cache.using(tasks) as slots:
            for task, slot in zip(tasks, slots, strict=True):
                assert (task is None) == (slot == -1)
                if task is not None:
                    assert_same(in_slot(cache, slot), in_bank(stack, task))


@pytest.mark.parametrize("kind", available())
def test_what_tasks_share_is_in_the_stack(base, new_stack, export, new_cache, assert_same, kind):
    stack = new_stack(base, kind, tasks=TASKS, is_trained=True, **SPACE)
    cache = new_cache(3, export(stack, kind))
    own = {name for name, _ in task_parameters(stack)}
    shared, there = (
        {name: weight for name, weight in each.state_dict().items() if name not in own}
        for each in (stack, cache.stack)
    )
    assert shared
    assert_same(there, shared)


def test_the_least_recently_used_gives_way(new_cache, use, count_loads):
    cache = new_cache(3)
    use(cache, "spk0", "spk1", "spk2", "spk0", "spk3")  # spk1 gave way
    assert count_loads(cache, "spk0", "spk2", "spk3") == 0
    assert count_loads(cache, "spk1") == 1  # spk0 gave way
    assert count_loads(cache, "spk2", "spk3", "spk1") == 0
    assert cache.stats().evictions == 2


def test_hits_misses_and_bytes_are_counted(new_cache, use):
    cache = new_cache(2)
    use(cache, "spk0", "spk0", "spk1", "spk2")
    with cache.using(["spk2", "spk2", None, "spk1"]):
        stats = cache.stats()
    assert (stats.hits, stats.misses, stats.loads, stats.evictions) == (3, 3, 3, 1)
    assert (stats.num_slots, stats.num_known, stats.num_resident) == (2, 6, 2)
    assert stats.resident_bytes == 2 * cache.bytes_each
    assert 0 < stats.load_seconds_max <= stats.load_seconds


def test_what_is_pinned_stays(new_cache, use, count_loads):
    cache = new_cache(2)
    cache.pin(["spk0"])
    use(cache, "spk0", "spk1", "spk2", "spk3")
    assert count_loads(cache, "spk0") == 0
    cache.unpin(["spk0"])
    use(cache, "spk4", "spk5")
    assert count_loads(cache, "spk0") == 1


def test_more_pins_than_slots_are_refused(new_cache):
    cache = new_cache(2)
    cache.pin(["spk0", "spk1"])
    with pytest.raises(
        ConfigError, match=r"3 Submodels .*\(pinned\), but only 2 fit; raise --submodel-mb to 1"
    ):
        cache.pin(["spk1", "spk2"])
    with pytest.raises(CheckpointError, match="has no Submodel of 'spk'; did you mean 'spk"):
        cache.pin(["spk"])
    assert cache.stats().num_pinned == 2


def test_what_is_prefetched_is_a_hit(new_cache, stack, assert_same, in_slot, in_bank, count_loads, until):
    cache = new_cache(3)
    cache.prefetch(["spk0", "spk1", "nobody", "spk0"])
    with cache.using(["spk1"]) as (slot,):
        assert_same(in_slot(cache, slot), in_bank(stack, "spk1"))
    until(lambda: cache.stats().loads == 2)
    assert count_loads(cache, "spk0", "spk1") == 0


def test_prefetching_takes_no_slot_that_is_in_use(
    new_cache, stack, assert_same, in_slot, in_bank, count_loads, until
):
    cache = new_cache(2)
    with cache.using(["spk0"]) as (slot,):
        cache.prefetch(["spk1", "spk2", "spk3"])
        until(lambda: cache.stats().loads == 2)
        assert_same(in_slot(cache, slot), in_bank(stack, "spk0"))
    assert count_loads(cache, "spk0", "spk1") == 0


def test_prefetching_keeps_what_is_asked_for_too(new_cache, use, count_loads):
    cache = new_cache(2)
    use(cache, "spk0", "spk1")
    cache.prefetch(["spk2", "spk0"])  # spk1 was used last, and gives way all the same
    assert count_loads(cache, "spk0", "spk2") == 0


def test_more_submodels_than_slots_are_refused_with_a_budget_that_does(
    base, new_cache, folder, use, use_at_once
):
    cache = new_cache(2)
    with pytest.raises(ConfigError, match="raise --submodel-mb to 1"), cache.using(TASKS):
        pass
    assert cache.megabytes(10**6) * 2**20 // cache.bytes_each >= 10**6
    cache.pin(["spk0"])
    use(cache, "spk0")
    with pytest.raises(ConfigError, match=r"3 Submodels .*\(2 at once beside 1 pinned\)"):
        use_at_once(cache, "spk1", "spk2")
    use_at_once(cache, "spk0", "spk2")


def test_a_slot_tells_what_lies_in_it_and_not_what_lies_on_disk(new_cache, folder):
    cache, path = new_cache(2), folder / file_name("spk3")
    with cache.using(["spk3"]) as (slot,):
        write(folder, replace(read(path), step=8))
        cache.refresh()
        assert (cache.submodel_in(slot).task, cache.submodel_in(slot).step) == ("spk3", 7)
        with cache.using(["spk3"]) as (other,):
            assert (cache.submodel_in(slot).step, cache.submodel_in(other).step) == (7, 8)
        path.unlink()
        cache.refresh()
        assert cache.submodel_in(slot).step == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_slots_are_on_the_device_of_the_base(base, folder, stack, in_slot, in_bank):
    moved = replace(base, model=copy.deepcopy(base.model).cuda())
    bytes_each = SubmodelFolder(folder, base).bytes_each
    with closing(SubmodelCache(folder, moved, budget_bytes=2 * bytes_each)) as cache:
        for task in TASKS:
            with cache.using([task]) as (slot,):
                there, own = in_slot(cache, slot), in_bank(stack, task)
                assert all(there[name].is_cuda and torch.equal(there[name].cpu(), own[name]) for name in own)
