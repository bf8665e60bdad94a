"""The benchmark of loading Submodels: what is timed and weighed, and what is refused."""

import sys

import pytest

from adaptkit.adapters import api
from adaptkit.bench import loading as bench
from adaptkit.bench.submodels import random_submodels
from adaptkit.errors import AdaptkitError
from adaptkit.submodels.cache import SubmodelCache

RESIDUAL = api.read_config({"kind": "residual", "bottleneck": 4})
BYTES = 4 * 2 * (2 * 16 * 4 + 4 + 16)  # of float32, L (2 D R + R + D)


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
    with pytest.raises(AdaptkitError, match="the loaded Submodel of b differs from the written one"):
        bench.time_load(cache, tmp_path, others, 1)
    cache.close()


PROGRAM = """
import sys
from pathlib import Path
from adaptkit.adapters import api
from adaptkit.base import checkpoint
from adaptkit.bench.loading import measure_residents

base, entry = checkpoint.load(Path(sys.argv[1])), api.read_config({"kind": "residual", "bottleneck": 4})
found = measure_residents(base, entry, 50_000)
print(found.bytes_each, found.after_mib - found.before_mib)
"""


@pytest.mark.slow
def test_submodels_in_memory_weigh_what_they_are(run_process, base_dir):
    done = run_process(sys.executable, "-c", PROGRAM, base_dir)  # which no other test has left memory to

    bytes_each, more_mib = map(float, done.stdout.split())
    assert bytes_each == BYTES
    assert more_mib == pytest.approx(50_000 * BYTES / 2**20, rel=0.2)
