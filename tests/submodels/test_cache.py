"""The cache of Submodels: what lies in its slots, what gives way, and what threads see of it."""

import copy
import os
import random
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch

from adaptkit import checkpoint
from adaptkit.adapters import api
from adaptkit.adapters.per_task import task_parameters
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.submodels import folders
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.files import SHARED_FILE, Submodel, file_name, read, write
from adaptkit.submodels.watch import SubmodelFolder

pytestmark = pytest.mark.espnet

TASKS = tuple(f"spk{number}" for number in range(6))
SPACE = {"bank": "space", "space_dim": 2}
PATIENCE = 60  # seconds after which a test gives up on threads


@pytest.fixture
def stack(base, new_stack):
    """A bank of six tasks, whose Submodels lie in `folder`."""
    return new_stack(base, bottleneck=2, tasks=TASKS, is_trained=True)


@pytest.fixture
def export(base, tmp_path):
    """Write the Submodels of a bank into folder `name`."""

    def run(stack, name="submodels"):
        path = tmp_path / "exp/adapter.safetensors"
        checkpoint.save(path, stack, base.fingerprint, 7, stack.state_dict())
        folders.export(path, base, tmp_path / name)
        return tmp_path / name

    return run


@pytest.fixture
def folder(export, stack):
    return export(stack)


@pytest.fixture
def new_cache(base, folder):
    """Open `folder`, or another, with room for `num_slots`."""
    opened = []

    def make(num_slots, place=folder):
        bytes_each = SubmodelFolder(place, base).bytes_each
        opened.append(SubmodelCache(place, base, budget_bytes=num_slots * bytes_each))
        return opened[-1]

    yield make
    for cache in opened:
        cache.close()


def in_slot(cache, slot):
    return {name: table[slot].clone() for name, table in task_parameters(cache.stack)}


def in_bank(stack, task):
    return {name: table[stack.tasks.index(task)] for name, table in task_parameters(stack)}


def use(cache, *tasks):
    """Use each by itself, in this order."""
    for task in tasks:
        with cache.using([task]):
            pass


def count_loads(cache, *tasks):
    """Count how many of them have to be loaded, one after the other."""
    before = cache.stats().misses
    use(cache, *tasks)
    return cache.stats().misses - before


def until(is_so):
    """Wait for what a thread brings about."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        Event().wait(0.001)


def flip_bit(path):
    """Damage the last weight."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def give_weights(folder, task, value):
    """Put a Submodel whose weights are all `value` in place of a task's."""
    before = read(folder / file_name(task))
    weights = {name: torch.full_like(weight, value) for name, weight in before.weights.items()}
    fields = (task, before.adapters, before.base_fingerprint, before.shared, before.step, weights)
    write(folder, Submodel(*fields))


def holds(cache, task, value):
    with cache.using([task]) as (slot,):
        return all(bool((weight == value).all()) for weight in in_slot(cache, slot).values())


# slots


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
    with pytest.raises(ConfigError, match="a Submodel takes .* bytes, and .* --submodel-mb 1 would do"):
        SubmodelCache(folder, base, budget_bytes=bytes_each - 1)


def test_slots_that_nothing_was_written_to_take_no_memory(base, new_stack, export):
    folder = export(new_stack(base, bottleneck=256, tasks=TASKS, is_trained=True))
    before = resident_mib()
    with closing(SubmodelCache(folder, base, budget_bytes=2**30)) as cache:
        use(cache, *TASKS)
        assert cache.num_slots * cache.bytes_each > 2**30 - cache.bytes_each
        assert resident_mib() - before < 100


def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.parametrize("kind", api.available())
def test_each_row_gets_the_slot_that_holds_the_weights_of_its_task(
    base, new_stack, export, new_cache, assert_same, kind, bank
):
    stack = new_stack(base, kind, tasks=TASKS, is_trained=True, **bank)
    cache = new_cache(3, export(stack, kind))
    for tasks in (["spk5", None, "spk0", "spk5"], ["spk1", "spk2", "spk0"], [None]):
        with cache.using(tasks) as slots:
            for task, slot in zip(tasks, slots, strict=True):
                assert (task is None) == (slot == -1)
                if task is not None:
                    assert_same(in_slot(cache, slot), in_bank(stack, task))


@pytest.mark.parametrize("kind", api.available())
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


def test_the_least_recently_used_gives_way(new_cache):
    cache = new_cache(3)
    use(cache, "spk0", "spk1", "spk2", "spk0", "spk3")  # spk1 gave way
    assert count_loads(cache, "spk0", "spk2", "spk3") == 0
    assert count_loads(cache, "spk1") == 1  # spk0 gave way
    assert count_loads(cache, "spk2", "spk3", "spk1") == 0
    assert cache.stats().evictions == 2


def test_hits_misses_and_bytes_are_counted(new_cache):
    cache = new_cache(2)
    use(cache, "spk0", "spk0", "spk1", "spk2")
    with cache.using(["spk2", "spk2", None, "spk1"]):
        stats = cache.stats()
    assert (stats.hits, stats.misses, stats.loads, stats.evictions) == (3, 3, 3, 1)
    assert (stats.num_slots, stats.num_known, stats.num_resident) == (2, 6, 2)
    assert stats.resident_bytes == 2 * cache.bytes_each
    assert 0 < stats.load_seconds_max <= stats.load_seconds


def test_what_is_pinned_stays(new_cache):
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
        ConfigError, match=r"3 Submodels .*\(pinned\), and 2 may be; --submodel-mb 1 would do"
    ):
        cache.pin(["spk1", "spk2"])
    with pytest.raises(CheckpointError, match="has no Submodel of 'spk'; did you mean 'spk"):
        cache.pin(["spk"])
    assert cache.stats().num_pinned == 2


def test_what_is_prefetched_is_a_hit(new_cache, stack, assert_same):
    cache = new_cache(3)
    cache.prefetch(["spk0", "spk1", "nobody", "spk0"])
    with cache.using(["spk1"]) as (slot,):
        assert_same(in_slot(cache, slot), in_bank(stack, "spk1"))
    until(lambda: cache.stats().loads == 2)
    assert count_loads(cache, "spk0", "spk1") == 0


def test_prefetching_takes_no_slot_that_is_in_use(new_cache, stack, assert_same):
    cache = new_cache(2)
    with cache.using(["spk0"]) as (slot,):
        cache.prefetch(["spk1", "spk2", "spk3"])
        until(lambda: cache.stats().loads == 2)
        assert_same(in_slot(cache, slot), in_bank(stack, "spk0"))
    assert count_loads(cache, "spk0", "spk1") == 0


def test_prefetching_keeps_what_is_asked_for_too(new_cache):
    cache = new_cache(2)
    use(cache, "spk0", "spk1")
    cache.prefetch(["spk2", "spk0"])  # spk1 was used last, and gives way all the same
    assert count_loads(cache, "spk0", "spk2") == 0


def test_more_submodels_than_slots_are_refused_with_a_budget_that_does(base, new_cache, folder):
    cache = new_cache(2)
    with pytest.raises(ConfigError, match="--submodel-mb 1 would do"), cache.using(TASKS):
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
        assert (cache.describe(slot).task, cache.describe(slot).step) == ("spk3", 7)
        with cache.using(["spk3"]) as (other,):
            assert (cache.describe(slot).step, cache.describe(other).step) == (7, 8)
        path.unlink()
        cache.refresh()
        assert cache.describe(slot).step == 7


def use_at_once(cache, *tasks):
    with cache.using(tasks):
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_slots_are_on_the_device_of_the_base(base, folder, stack):
    moved = replace(base, model=copy.deepcopy(base.model).cuda())
    bytes_each = SubmodelFolder(folder, base).bytes_each
    with closing(SubmodelCache(folder, moved, budget_bytes=2 * bytes_each)) as cache:
        for task in TASKS:
            with cache.using([task]) as (slot,):
                there, own = in_slot(cache, slot), in_bank(stack, task)
                assert all(there[name].is_cuda and torch.equal(there[name].cpu(), own[name]) for name in own)


# files


def test_an_unknown_task_is_refused_with_the_nearest_name(new_cache):
    cache = new_cache(2)
    with pytest.raises(CheckpointError, match=r"submodels: has no Submodel of 'spk'; did you mean 'spk\d'\?"):
        use_at_once(cache, "spk1", "spk")
    assert cache.stats().misses == 0


def test_a_new_file_is_known_after_a_look(new_cache, folder):
    aside = shutil.move(folder / file_name("spk3"), folder.parent / "aside")
    cache = new_cache(2)
    assert "spk3" not in cache.known()
    shutil.move(aside, folder / file_name("spk3"))
    assert cache.refresh() == ["spk3"]
    assert cache.known() == list(TASKS)
    use(cache, "spk3")


def test_a_removed_file_is_unknown_after_a_look(new_cache, folder):
    cache = new_cache(2)
    use(cache, "spk3")
    (folder / file_name("spk3")).unlink()
    assert cache.refresh() == ["spk3"]
    assert cache.stats().num_resident == 0
    with pytest.raises(CheckpointError, match="has no Submodel of 'spk3'"):
        use(cache, "spk3")


def test_a_file_that_was_removed_since_the_look_is_unknown_once_asked_for(new_cache, folder):
    cache = new_cache(2)
    (folder / file_name("spk3")).unlink()
    with pytest.raises(CheckpointError, match="spk3.safetensors: no such file"):
        use(cache, "spk3")
    assert "spk3" not in {*cache.known(), *cache.problems()}
    with pytest.raises(CheckpointError, match="has no Submodel of 'spk3'"):
        use(cache, "spk3")


def test_a_file_that_turns_out_to_be_spoilt_during_a_look_stays_so(base, folder):
    watched = SubmodelFolder(folder, base)
    watched.take(watched.look())
    flip_bit(folder / file_name("spk3"))
    watched.take(watched.look())
    look = watched.look()
    watched.spoil(watched.find("spk3"), "spoilt")
    assert watched.take(look) == []
    assert watched.problems() == {"spk3": "spoilt"}
    flip_bit(folder / file_name("spk3"))
    assert watched.take(watched.look()) == ["spk3"]
    assert watched.problems() == {}


def test_a_changed_file_is_read_again(new_cache, folder):
    cache = new_cache(2)
    use(cache, "spk3", "spk4")
    give_weights(folder, "spk3", 3.0)
    assert not holds(cache, "spk3", 3.0)
    assert cache.refresh() == ["spk3"]
    assert holds(cache, "spk3", 3.0)
    assert count_loads(cache, "spk4") == 0
    assert cache.refresh() == []


def test_a_replaced_file_is_noticed_even_with_the_size_and_time_of_the_other(new_cache, folder):
    cache, path = new_cache(2), folder / file_name("spk3")
    use(cache, "spk3")
    status = path.stat()
    give_weights(folder, "spk3", 3.0)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    cache.refresh()
    assert holds(cache, "spk3", 3.0)


def test_who_uses_a_changed_file_keeps_its_weights_to_the_end(new_cache, folder, stack, assert_same):
    cache = new_cache(2)
    with cache.using(["spk3"]) as (slot,):
        for value in (1.0, 2.0):
            give_weights(folder, "spk3", value)
            cache.refresh()
            assert holds(cache, "spk3", value)
        assert_same(in_slot(cache, slot), in_bank(stack, "spk3"))
    use_at_once(cache, "spk0", "spk1")  # both slots are free again


def test_a_flipped_bit_is_told_to_who_asks_and_the_others_load(new_cache, folder):
    flip_bit(folder / file_name("spk3"))
    cache = new_cache(2)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="spk3.safetensors: damaged"):
            use_at_once(cache, "spk3", "spk1")
    assert cache.problems().keys() == {"spk3"}
    assert "spk3" not in cache.known()
    stats = cache.stats()
    assert (stats.failures, stats.num_resident) == (1, 1)
    use_at_once(cache, "spk1", "spk2")


def test_all_that_is_damaged_is_told_at_once(new_cache, folder):
    for task in ("spk3", "spk4"):
        flip_bit(folder / file_name(task))
    cache = new_cache(3)
    with pytest.raises(CheckpointError, match=r"spk3.safetensors: damaged.*\n.*spk4.safetensors: damaged"):
        cache.check(["spk4", "spk3", "nobody", "spk1"][::-1])
    with pytest.raises(CheckpointError, match=r"spk3.safetensors: damaged.*\n.*spk4.safetensors: damaged"):
        use_at_once(cache, "spk3", "spk1", "spk4")
    cache.check(["nobody", "spk1"])


def test_a_damaged_file_that_was_mended_is_known_again(new_cache, folder, stack, assert_same):
    path = folder / file_name("spk3")
    flip_bit(path)
    cache = new_cache(2)
    with pytest.raises(CheckpointError, match="damaged"):
        use(cache, "spk3")
    cache.refresh()
    assert "spk3" in cache.problems()
    flip_bit(path)
    assert cache.refresh() == ["spk3"]
    assert cache.problems() == {}
    with cache.using(["spk3"]) as (slot,):
        assert_same(in_slot(cache, slot), in_bank(stack, "spk3"))


def test_a_damaged_header_is_a_problem_from_the_start(new_cache, folder):
    path = folder / file_name("spk3")
    path.write_bytes(path.read_bytes()[:100])
    (folder / "spk9.safetensors").write_text("no tensors")
    cache = new_cache(2)
    assert cache.problems().keys() == {"spk3", "spk9"}
    with pytest.raises(CheckpointError, match="spk3.safetensors: damaged or truncated"):
        use(cache, "spk3")


def test_a_file_under_the_name_of_another_task_is_a_problem(new_cache, folder):
    os.replace(folder / file_name("spk3"), folder / file_name("spk4"))
    cache = new_cache(2)
    assert "holds the Submodel of 'spk3'; rename it to spk3.safetensors" in str(cache.problems())
    with pytest.raises(CheckpointError, match="holds the Submodel of 'spk3'"):
        use(cache, "spk4")


def test_what_a_killed_export_left_is_no_submodel(new_cache, folder):
    shutil.copy(folder / file_name("spk3"), folder / ".spk3.1234.partial.safetensors")
    cache = new_cache(2)
    assert (cache.known(), cache.problems()) == (list(TASKS), {})


def test_a_submodel_of_other_shared_weights_is_refused(base, new_stack, new_cache, export, folder):
    export(new_stack(base, "hra", tasks=TASKS, is_trained=True), "other")
    shutil.copy(folder.parent / "other" / file_name("spk3"), folder)
    cache = new_cache(2)
    with pytest.raises(CheckpointError, match=r"spk3.safetensors: of kind hra, not residual"):
        use(cache, "spk3")
    use(cache, "spk4")


def test_other_shared_weights_are_never_mixed_in(base, new_stack, new_cache, export, tmp_path):
    stack = new_stack(base, "hra", tasks=TASKS, is_trained=True)
    first = export(stack, "first")
    for parameter in stack.parameters():
        torch.nn.init.ones_(parameter)
    second = export(stack, "second")
    cache = new_cache(3, first)
    use(cache, "spk0")
    shutil.copy(first / SHARED_FILE, tmp_path)
    shutil.copy(second / SHARED_FILE, first)
    with pytest.raises(CheckpointError, match=r"\+shared.safetensors: has changed .*; restart to use it"):
        use(cache, "spk1")
    use(cache, "spk0")
    shutil.copy(tmp_path / SHARED_FILE, first)
    cache.refresh()
    use(cache, "spk1")


def test_submodels_of_another_base_are_refused(new_base, folder):
    with pytest.raises(CheckpointError, match="submodels: Submodels of the base model"):
        SubmodelCache(folder, new_base(seed=1), budget_bytes=1)


def test_a_folder_that_is_gone_is_told_and_what_is_in_memory_stays(new_cache, folder):
    cache = new_cache(2)
    use(cache, "spk0")
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="submodels: no such file or folder"):
        cache.refresh()
    use(cache, "spk0")
    with pytest.raises(CheckpointError, match="no such file"):
        use(cache, "spk1")
    assert "spk1" in cache.problems()  # which nobody removed


# threads


@pytest.fixture
def threads():
    with ThreadPoolExecutor(8) as executor:
        yield executor


def test_who_finds_no_slot_waits_until_one_is_free(new_cache, threads):
    cache = new_cache(2)
    with cache.using(["spk0", "spk1"]):
        waiting = threads.submit(use_at_once, cache, "spk2", "spk1")
        until(lambda: cache.stats().waits == 1)
        assert not waiting.done()
    waiting.result(PATIENCE)


def test_slots_are_given_in_turn_so_that_nobody_waits_for_ever(new_cache, threads):
    cache, order = new_cache(2), []

    def use_and_tell(*tasks):
        with cache.using(tasks):
            order.append(tasks)

    with cache.using(["spk0"]):
        both = threads.submit(use_and_tell, "spk1", "spk2")
        until(lambda: cache.stats().waits == 1)
        one = threads.submit(use_and_tell, "spk3")  # it has room, and waits for its turn
        until(lambda: cache.stats().waits == 2)
    both.result(PATIENCE)
    one.result(PATIENCE)
    assert order == [("spk1", "spk2"), ("spk3",)]


def test_who_waits_for_slots_that_a_pin_takes_is_refused(new_cache, threads):
    cache = new_cache(2)
    with cache.using(["spk0"]):
        waiting = threads.submit(use_at_once, cache, "spk1", "spk2")
        until(lambda: cache.stats().waits == 1)
        cache.pin(["spk0"])
        with pytest.raises(ConfigError, match="2 at once beside 1 pinned"):
            waiting.result(PATIENCE)


def test_a_closed_cache_tells_who_waits_and_who_comes(new_cache, threads):
    cache = new_cache(1)
    with cache.using(["spk0"]):
        waiting = threads.submit(use, cache, "spk1")
        until(lambda: cache.stats().waits == 1)
        cache.close()
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result(PATIENCE)
    with pytest.raises(RuntimeError, match="closed"):
        use(cache, "spk0")


@pytest.mark.parametrize("num_slots", [3, 5])
def test_every_thread_finds_the_weights_of_its_own_speakers(
    new_cache, stack, threads, assert_same, num_slots
):
    cache = new_cache(num_slots)

    def work(seed):
        chance = random.Random(seed)
        for _ in range(100):
            tasks = chance.choices([*TASKS, None], k=chance.randint(1, 3))
            with cache.using(tasks) as slots:
                cache.prefetch(chance.choices(TASKS, k=2))
                for task, slot in zip(tasks, slots, strict=True):
                    if task is not None:
                        assert_same(in_slot(cache, slot), in_bank(stack, task))

    for done in [threads.submit(work, seed) for seed in range(8)]:
        done.result(PATIENCE)
    stats = cache.stats()
    assert stats.evictions > 0
    assert stats.num_resident <= num_slots


def test_files_that_change_all_the_time_are_never_half_new(new_cache, folder, threads):
    cache, is_over = new_cache(3), Event()

    def change():
        value = 0.0
        while not is_over.is_set():
            value += 1
            give_weights(folder, f"spk{int(value) % 6}", value)
            cache.refresh()

    def work(seed):
        chance = random.Random(seed)
        for _ in range(100):
            with cache.using(chance.sample(TASKS, 2)) as slots:
                before = [in_slot(cache, slot) for slot in slots]
                whole = {float(weight.reshape(-1)[0]) for weight in before[0].values()}
                after = [in_slot(cache, slot) for slot in slots]
                assert len(whole) == 1
                assert all(
                    torch.equal(one[name], other[name])
                    for one, other in zip(before, after, strict=True)
                    for name in one
                )

    for task in TASKS:
        give_weights(folder, task, 0.0)
    cache.refresh()
    changing = threads.submit(change)
    working = [threads.submit(work, seed) for seed in range(6)]
    try:
        for done in working:
            done.result(PATIENCE)
    finally:
        is_over.set()
    changing.result(PATIENCE)
