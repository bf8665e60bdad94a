"""Folders of Submodels: what is wrong with a file is told, and the others are used."""

import re
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from adaptkit.adapters import api
from adaptkit.errors import CheckpointError
from adaptkit.model import checkpoint
from adaptkit.submodels import export as folders
from adaptkit.submodels import files


def problems_in(folder, base=None):
    return {entry.task: entry.problem for entry in folders.check(folder, base) if entry.problem}


def truncate(folder):
    path = folder / "spk10.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(folder):
    path = folder / "spk10.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def write_other(folder, **changes):
    path = folder / "spk10.safetensors"
    files.write(folder, replace(files.read(path), **changes))


def take_a_weight(folder):
    weights = dict(files.read(folder / "spk10.safetensors").weights)
    weights.popitem()
    write_other(folder, weights=weights)


DAMAGE = {
    "damaged or truncated": truncate,
    "damaged: the checksum": flip_a_bit,
    "for base model other, not .*; move it": lambda folder: write_other(folder, base_fingerprint="other"),
    "with shared weights other, not .*; move it": lambda folder: write_other(folder, shared="other"),
    "of adapter type tpa, not residual .*; move it": lambda folder: write_other(
        folder, adapters=(api.read_config({"kind": "tpa"}),)
    ),
    "does not match its own configuration: .*; export it": take_a_weight,
    "not written by adaptkit": lambda folder: safetensors.torch.save_file(
        {"a": torch.zeros(1)}, folder / "spk10.safetensors"
    ),
    "holds the Submodel of 'spk1'; rename it to spk1.safetensors": lambda folder: (
        folder / "spk10.safetensors"
    ).write_bytes((folder / "spk1.safetensors").read_bytes()),
}


@pytest.fixture(params=DAMAGE)
def damaged(request, folder):
    """A folder whose spk10 has a problem, and what it is."""
    DAMAGE[request.param](folder)
    return folder, request.param


def test_a_problem_is_listed_with_its_file_alone(damaged, base):
    folder, reason = damaged
    problems = problems_in(folder, base)
    assert problems.keys() == {"spk10"}
    assert re.search(reason, problems["spk10"])


def test_a_problem_stops_a_merge_with_its_reason(damaged, pack, tmp_path):
    folder, reason = damaged
    with pytest.raises(CheckpointError, match=rf"1 problem:\n  .*/spk10.safetensors: .*{reason}"):
        pack(folder)
    assert not (tmp_path / "merged").exists()


def test_the_others_are_merged_when_problems_are_skipped(damaged, base, new_exp, tmp_path):
    folder, _ = damaged
    done = folders.pack(folder, base, tmp_path / "merged", skip_problems=True)
    whole = checkpoint.load(tmp_path / "exp/adapter.safetensors").weights
    merged = checkpoint.load(tmp_path / "merged/adapter.safetensors")
    assert done.tasks == merged.tasks == ("spk1", "spk2")
    assert [entry.task for entry in done.left_out] == ["spk10"]
    assert all(torch.equal(weight[[0, 2]], merged.weights[name]) for name, weight in whole.items())


def test_a_scan_reads_heads_alone(folder, base):
    flip_a_bit(folder)
    assert not any(entry.problem for entry in folders.scan(folder, base))


def test_all_problems_are_told_together(folder, pack):
    for task in ("spk1", "spk2"):
        (folder / f"{task}.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"2 problems:\n  .*spk1\.saf.*\n  .*spk2\.saf"):
        pack(folder)


def test_of_another_base_every_file_is_a_problem(folder, new_base):
    problems = problems_in(folder, new_base(seed=1))
    assert problems.keys() == {"spk1", "spk10", "spk2"}
    assert "exp/tiny is" in problems["spk1"]


def test_a_merge_for_another_base_is_refused_in_one_line(folder, new_base, tmp_path):
    with pytest.raises(CheckpointError, match="set --base to the folder of the right one") as refused:
        folders.pack(folder, new_base(seed=1), tmp_path / "merged", skip_problems=True)
    assert "\n" not in str(refused.value)


def test_what_a_killed_run_left_is_no_submodel(folder):
    (folder / ".spk3.17.partial.safetensors").write_bytes(b"half")
    (folder / "README").write_text("mine")
    assert [entry.task for entry in folders.check(folder)] == ["spk1", "spk10", "spk2"]


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_submodels_is_named_with_what_writes_them(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"\+shared.safetensors: no such file; 'adaptkit submodels exp"):
        folders.scan(tmp_path / name)


def test_a_folder_with_nothing_sound_is_not_merged(folder, pack):
    for path in folder.glob("spk*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="has no Submodel to pack"):
        pack(folder)


def test_a_table_ends_with_the_problem(folder):
    flip_a_bit(folder)
    head, *lines = folders.format_entries(folders.check(folder)).splitlines()
    assert head.split() == ["speaker", "adapter", "base", "weights", "parameters", "bytes", "problem"]
    assert [line.split()[0] for line in lines] == ["spk1", "spk10", "spk2"]
    assert lines[1].endswith("copy, export or train it again")


def test_a_name_that_would_spoil_the_table_is_escaped(new_exp, export):
    table = folders.format_entries(folders.scan(export(new_exp(tasks=["a\n\x1b[2J"]))))
    assert table.splitlines()[1].startswith(r"'a\n\x1b[2J'  residual  ")


def test_a_folder_is_counted_in_one_line(folder):
    num_bytes = sum(path.stat().st_size for path in folder.glob("spk*"))
    truncate(folder)
    line = folders.summarise(folders.check(folder))
    assert line == f"3 Submodels of {num_bytes - 1:,} bytes, 1 with a problem"
