"""What all tests share: the fixtures of seven modules, and an environment that is not the user's."""

import gc
import os
from importlib import metadata

import pytest

os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"  # read by typer when it is imported: no colours in boxes
os.environ.pop("TERMINAL_WIDTH", None)  # likewise

IMPORTING = {  # what takes seconds to import: the files that do
    "espnet": ("tests/base/search/test_against_espnet.py", "tests/bench/test_decoding.py"),
    "peft": tuple(f"tests/bench/test_{name}.py" for name in ("gpu", "peers", "submodels")),
}
gc.disable()  # until all tests are collected: what imports make stays
FIXTURES = tuple(
    f"tests.fixtures.{name}"
    for name in ("models", "archives", "corpora", "noises", "forks", "runs", "servers")
)


def pytest_configure(config):
    """Load the fixtures, except in the process that only hands out tests to others (pytest-xdist)."""
    is_handing_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    for name in () if is_handing_out else FIXTURES:
        config.pluginmanager.import_plugin(name)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Look for examples to run in the docstrings of the package alone, and not in those of tests."""
    found = yield
    return [one for one in found if type(one) is pytest.Module]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hand out whole files, and those that import ESPnet's recogniser (19 s) or PEFT to the same worker."""
    from xdist.scheduler import LoadScopeScheduling

    if config.getoption("dist") != "loadscope":
        return None

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return next((name for name, files in IMPORTING.items() if file in files), file)

    return ByFile(config, log)


def pytest_report_header():
    """Say which ESPnet is tested: `make test-next-espnet` puts a newer one first."""
    return f"ESPnet {metadata.version('espnet')}"


def pytest_collection_modifyitems(items):
    """Begin with files that start processes or take long, so that several workers end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Spare the garbage collector what stays to the end, modules and tests: a seventh of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)  # as a small model has thousands of objects
    gc.enable()
