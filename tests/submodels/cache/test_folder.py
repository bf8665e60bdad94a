"""The cache of Submodels over files that come, go, change, are damaged or belong elsewhere."""

import os
import shutil

import pytest
import torch

from adaptkit.errors import CheckpointError
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.files import SHARED_FILE, file_name
from adaptkit.submodels.folder import SubmodelFolder

TASKS = tuple(f"spk{number}" for number in range(6))


def flip_bit(path):
    """Damage the last weight."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def holds(in_slot):
    """Return whether all weights of a task are `value`."""

    def look(cache, task, value):
        with cache.using([task]) as (slot,):
            return all(bool((weight == value).all()) for weight in in_slot(cache, slot).values())

    return look


def test_an_unknown_task_is_refused_with_the_nearest_name(new_cache, use_at_once):
    cache = new_cache(2)
    with pytest.raises(CheckpointError, match=r"submodels: has no Submodel of 'spk'; did you mean 'spk\d'\?"):
        use_at_once(cache, "spk1", "spk")
    assert cache.stats().misses == 0


def test_a_new_file_is_known_after_a_look(new_cache, folder, use):
    aside = shutil.move(folder / file_name("spk3"), folder.parent / "aside")
    cache = new_cache(2)
    assert "spk3" not in cache.known()
    shutil.move(aside, folder / file_name("spk3"))
    assert cache.refresh() == ["spk3"]
    assert cache.known() == list(TASKS)
    use(cache, "spk3")


def test_a_removed_file_is_unknown_after_a_look(new_cache, folder, use):
    cache = new_cache(2)
    use(cache, "spk3")
    (folder / file_name("spk3")).unlink()
    assert cache.refresh() == ["spk3"]
    assert cache.stats().num_resident == 0
    with pytest.raises(CheckpointError, match="has no Submodel of 'spk3'"):
        use(cache, "spk3")


def test_a_file_that_was_removed_since_the_look_is_unknown_once_asked_for(new_cache, folder, use):
    cache = new_cache(2)
    (folder / file_name("spk3")).unlink()
    with pytest.raises(CheckpointError, match="spk3.safetensors: no such file"):
        use(cache, "spk3")
    assert "spk3" not in {*cache.known(), *cache.problems()}
    with pytest.raises(CheckpointError, match="has no Submodel of 'spk3'"):
        use(cache, "spk3")


def test_a_file_that_turns_out_to_be_damaged_during_a_scan_stays_so(base, folder):
    watched = SubmodelFolder(folder, base)
    watched.take(watched.look())
    flip_bit(folder / file_name("spk3"))
    watched.take(watched.look())
    look = watched.look()
    watched.mark_damaged(watched.find("spk3"), "damaged")
    assert watched.take(look) == []
    assert watched.problems() == {"spk3": "damaged"}
    flip_bit(folder / file_name("spk3"))
    assert watched.take(watched.look()) == ["spk3"]
    assert watched.problems() == {}


def test_a_changed_file_is_read_again(new_cache, folder, use, count_loads, give_weights, holds):
    cache = new_cache(2)
    use(cache, "spk3", "spk4")
    give_weights(folder, "spk3", 3.0)
    assert not holds(cache, "spk3", 3.0)
    assert cache.refresh() == ["spk3"]
    assert holds(cache, "spk3", 3.0)
    assert count_loads(cache, "spk4") == 0
    assert cache.refresh() == []


def test_a_replaced_file_is_noticed_even_with_the_size_and_time_of_the_other(
    new_cache, folder, use, give_weights, holds
):
    cache, path = new_cache(2), folder / file_name("spk3")
    use(cache, "spk3")
    status = path.stat()
    give_weights(folder, "spk3", 3.0)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    cache.refresh()
    assert holds(cache, "spk3", 3.0)


def test_who_uses_a_changed_file_keeps_its_weights_to_the_end(
    new_cache, folder, stack, assert_same, in_slot, in_bank, use_at_once, give_weights, holds
):
    cache = new_cache(2)
    with cache.using(["spk3"]) as (slot,):
        for value in (1.0, 2.0):
            give_weights(folder, "spk3", value)
            cache.refresh()
            assert holds(cache, "spk3", value)
        assert_same(in_slot(cache, slot), in_bank(stack, "spk3"))
    use_at_once(cache, "spk0", "spk1")  # both slots are free again


def test_a_flipped_bit_is_told_to_who_asks_and_the_others_load(new_cache, folder, use_at_once):
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


def test_all_that_is_damaged_is_told_at_once(new_cache, folder, use_at_once):
    for task in ("spk3", "spk4"):
        flip_bit(folder / file_name(task))
    cache = new_cache(3)
    with pytest.raises(CheckpointError, match=r"spk3.safetensors: damaged.*\n.*spk4.safetensors: damaged"):
        cache.check(["spk4", "spk3", "nobody", "spk1"][::-1])
    with pytest.raises(CheckpointError, match=r"spk3.safetensors: damaged.*\n.*spk4.safetensors: damaged"):
        use_at_once(cache, "spk3", "spk1", "spk4")
    cache.check(["nobody", "spk1"])


def test_a_damaged_file_that_was_mended_is_known_again(
    new_cache, folder, stack, assert_same, in_slot, in_bank, use
):
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


def test_a_damaged_header_is_a_problem_from_the_start(new_cache, folder, use):
    path = folder / file_name("spk3")
    path.write_bytes(path.read_bytes()[:100])
    (folder / "spk9.safetensors").write_text("no tensors")
    cache = new_cache(2)
    assert cache.problems().keys() == {"spk3", "spk9"}
    with pytest.raises(CheckpointError, match="spk3.safetensors: damaged or truncated"):
        use(cache, "spk3")


def test_a_file_under_the_name_of_another_task_is_a_problem(new_cache, folder, use):
    os.replace(folder / file_name("spk3"), folder / file_name("spk4"))
    cache = new_cache(2)
    assert "holds the Submodel of 'spk3'; rename it to spk3.safetensors" in str(cache.problems())
    with pytest.raises(CheckpointError, match="holds the Submodel of 'spk3'"):
        use(cache, "spk4")


def test_what_a_killed_export_left_is_no_submodel(new_cache, folder):
    shutil.copy(folder / file_name("spk3"), folder / ".spk3.1234.partial.safetensors")
    cache = new_cache(2)
    assert (cache.known(), cache.problems()) == (list(TASKS), {})


def test_a_submodel_of_other_shared_weights_is_refused(base, new_stack, new_cache, export, folder, use):
    export(new_stack(base, "hra", tasks=TASKS, is_trained=True), "other")
    shutil.copy(folder.parent / "other" / file_name("spk3"), folder)
    cache = new_cache(2)
    with pytest.raises(CheckpointError, match=r"spk3.safetensors: of adapter type hra, not residual"):
        use(cache, "spk3")
    use(cache, "spk4")


def test_other_shared_weights_are_never_mixed_in(base, new_stack, new_cache, export, tmp_path, use):
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
    with pytest.raises(CheckpointError, match="submodels: Submodels for base model"):
        SubmodelCache(folder, new_base(seed=1), budget_bytes=1)


def test_a_folder_that_is_gone_is_told_and_what_is_in_memory_stays(new_cache, folder, use):
    cache = new_cache(2)
    use(cache, "spk0")
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="submodels: no such file or folder"):
        cache.refresh()
    use(cache, "spk0")
    with pytest.raises(CheckpointError, match="no such file"):
        use(cache, "spk1")
    assert "spk1" in cache.problems()  # which nobody removed
