"""The cache of Submodels under threads: who waits for whom, and what each sees."""

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch

from adaptkit.errors import ConfigError

TASKS = tuple(f"spk{number}" for number in range(6))
PATIENCE = 60  # seconds after which a test gives up on threads


@pytest.fixture
def threads():
    with ThreadPoolExecutor(8) as executor:
        yield executor


def test_who_finds_no_slot_waits_until_one_is_free(new_cache, threads, use_at_once, until):
    cache = new_cache(2)
    with cache.using(["spk0", "spk1"]):
        waiting = threads.submit(use_at_once, cache, "spk2", "spk1")
        until(lambda: cache.stats().waits == 1)
        assert not waiting.done()
    waiting.result(PATIENCE)


def test_slots_are_given_in_turn_so_that_nobody_waits_for_ever(new_cache, threads, until):
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


def test_who_waits_for_slots_that_a_pin_takes_is_refused(new_cache, threads, use_at_once, until):
    cache = new_cache(2)
    with cache.using(["spk0"]):
        waiting = threads.submit(use_at_once, cache, "spk1", "spk2")
        until(lambda: cache.stats().waits == 1)
        cache.pin(["spk0"])
        with pytest.raises(ConfigError, match="2 at once beside 1 pinned"):
            waiting.result(PATIENCE)


def test_a_closed_cache_tells_who_waits_and_who_comes(new_cache, threads, use, until):
    cache = new_cache(1)
    with cache.using(["spk0"]):
        waiting = threads.submit(use, cache, "spk1")
        until(lambda: cache.stats().waits == 1)
        cache.close()
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result(PATIENCE)
    with pytest.raises(RuntimeError, match="closed"):
        use(cache, "spk0")


@pytest.mark.slow
@pytest.mark.parametrize("num_slots", [3, 5])
def test_every_thread_finds_the_weights_of_its_own_speakers(
    new_cache, stack, threads, assert_same, num_slots, in_slot, in_bank
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


@pytest.mark.slow
def test_files_that_change_all_the_time_are_never_half_new(new_cache, folder, threads, in_slot, give_weights):
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
