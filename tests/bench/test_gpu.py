"""`adaptkit bench gpu`: all benchmarks in one run, on the CPU with the smallest sizes."""

import json

import pytest
import torch

from adaptkit.adapters.catalog import available
from adaptkit.bench import gpu

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(adaptkit, tmp_path_factory):
    """The folder with what is measured on the CPU."""
    folder = tmp_path_factory.mktemp("bench")
    done = adaptkit("bench", "gpu", "--small", "--device", "cpu", "--out", folder)
    assert (done.exit_code, done.stdout) == (0, (folder / "bench.md").read_text()), done.stderr
    return folder


@pytest.fixture(scope="module")
def found(out):
    """What is measured, as it was written."""
    read = json.loads((out / "bench.json").read_text())
    return gpu.Findings(**{**read, "sections": [gpu.Section(**section) for section in read["sections"]]})


def test_every_adapter_type_floor_and_peer_is_a_row_in_both_precisions(found):
    for section, precision in zip(found.sections, gpu.PRECISIONS, strict=False):
        names = {row[0] for row in section.rows}
        assert precision in section.title
        assert names >= {"fine-tuning", "forward alone", "ESPnet's trainer", *available()}
        assert names >= {"PEFT, 1 speaker", "PEFT, 2 in turn", "hff, cached"}


def test_all_that_serving_many_speakers_costs_is_measured(found):
    titles = [section.title.split(":")[0] for section in found.sections[2:]]
    assert titles == [
        "Submodels trained per hour",
        "Greedy decoding with residual",
        "Greedy decoding with lora",
        "SpecAugment",
        "Decoding, greedy",
        "Decoding, beam",
        "Loading Submodels into slots",
        "20 resident Submodels",
    ]
    assert all(row[1] > 0 for section in found.sections for row in section.rows if row[0] != "forward alone")


def test_one_speaker_in_a_job_is_one_by_one(found):
    rows = found.sections[2].rows
    assert [row[0] for row in rows] == [
        f"{k} in one job, {precision}" for precision in gpu.PRECISIONS for k in (1, 2)
    ]
    assert [row[4] for row in rows if row[0].startswith("1 ")] == [1, 1]


def test_the_table_names_the_device_and_has_every_row(found, out):
    page = (out / "bench.md").read_text()
    assert page.startswith(f"# {found.device}\n")
    assert f"torch {torch.__version__.partition('+')[0]}" in page
    assert page.count("\n| ") == sum(1 + len(section.rows) for section in found.sections)
