"""What all tests share: the fixtures of six modules, and an environment that is not the user's."""

import gc
import os
from importlib import metadata

os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"  # read by typer when it is imported: no colours in boxes
os.environ.pop("TERMINAL_WIDTH", None)  # likewise

FIXTURES = tuple(
    f"tests.fixtures.{name}" for name in ("models", "archives", "corpora", "noises", "runs", "servers")
)


def pytest_configure(config):
    """Load the fixtures, except in the process that only hands out tests to others (pytest-xdist)."""
    is_handing_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    for name in () if is_handing_out else FIXTURES:
        config.pluginmanager.import_plugin(name)


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
