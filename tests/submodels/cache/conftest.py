"""A cache over the Submodels of six tasks, and what tests do with it."""

import pytest
import torch

from adaptkit.adapters.per_task import task_parameters
from adaptkit.model import checkpoint
from adaptkit.submodels import export as folders
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.files import Submodel, file_name, read, write
from adaptkit.submodels.folder import SubmodelFolder

TASKS = tuple(f"spk{number}" for number in range(6))


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


@pytest.fixture(scope="session")
def in_slot():
    """Copy the weights that lie in a slot."""
    return lambda cache, slot: {name: table[slot].clone() for name, table in task_parameters(cache.stack)}


@pytest.fixture(scope="session")
def in_bank():
    """Return the weights of a task in a bank."""
    return lambda stack, task: {
        name: table[stack.tasks.index(task)] for name, table in task_parameters(stack)
    }


@pytest.fixture(scope="session")
def use():
    """Use each by itself, in this order."""

    def run(cache, *tasks):
        for task in tasks:
            with cache.using([task]):
                pass

    return run


@pytest.fixture(scope="session")
def use_at_once():
    """Use some together."""

    def run(cache, *tasks):
        with cache.using(tasks):
            pass

    return run


@pytest.fixture(scope="session")
def count_loads(use):
    """Count how many of them have to be loaded, one after the other."""

    def count(cache, *tasks):
        before = cache.stats().misses
        use(cache, *tasks)
        return cache.stats().misses - before

    return count


@pytest.fixture(scope="session")
def give_weights():
    """Put a Submodel whose weights are all `value` in place of a task's."""

    def put(folder, task, value):
        before = read(folder / file_name(task))
        weights = {name: torch.full_like(weight, value) for name, weight in before.weights.items()}
        fields = (task, before.adapters, before.base_fingerprint, before.shared, before.step, weights)
        write(folder, Submodel(*fields))

    return put
