"""The benchmark of loading Submodels: what is timed and weighed, and what is refused."""

import pytest

from adaptkit.adapters import api
from adaptkit.bench import loading as bench
from adaptkit.bench.submodels import random_submodels
from adaptkit.errors import AdaptkitError
from adaptkit.submodels.cache import SubmodelCache

RESIDUAL = api.read_config({"kind": "residual", "bottleneck": 4})
BYTES = 4 * 2 * (2 * 16 * 4 + 4 + 16)  # of float32, L (2 D R + R + D)

pytestmark = pytest.mark.espnet


@pytest.mark.parametrize("num_files", [1, 5])
def test_every_load_comes_from_disk(base, num_files):
    cost = bench.time_loading(base, RESIDUAL, num_files=num_files, num_loads=20)  # it raises if not

    assert (cost.num_loads, cost.bytes_each) == (20, BYTES)
    assert 0 < cost.median_ms <= cost.p99_ms <= cost.max_ms


def test_one_in_a_hundred_loads_may_take_longer():
    assert bench.percentile_99([float(n) for n in range(500)]) == 494
    assert bench.percentile_99([1.0]) == 1


def test_weights_that_are_not_those_written_are_refused(base, tmp_path):
    written, others = (random_submodels(base, RESIDUAL, ["a", "b"]) for _ in range(2))
    bench.write_submodels(tmp_path, base, written)
    next(others.parameters())[1] += 1
    cache = SubmodelCache(tmp_path, base, budget_bytes=BYTES)

    bench.time_load(cache, tmp_path, others, 0)
    with pytest.raises(AdaptkitError, match="Submodel of b has not arrived as it was written"):
        bench.time_load(cache, tmp_path, others, 1)
    cache.close()


def test_submodels_in_memory_weigh_what_they_are(base):
    found = bench.weigh_residents(base, RESIDUAL, 50_000)

    assert found.bytes_each == BYTES
    assert found.after_mib - found.before_mib == pytest.approx(50_000 * BYTES / 2**20, rel=0.2)
