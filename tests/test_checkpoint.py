"""Adapter files: whole or refused, and averages of weights."""

import itertools
import json
import os
import shutil
import threading

import pytest
import safetensors.torch
import torch

from adaptkit import checkpoint
from adaptkit.errors import CheckpointError

pytestmark = pytest.mark.espnet


@pytest.fixture
def path(base, new_stack, tmp_path):
    """An adapter file that a test may spoil."""
    stack, path = new_stack(base, is_trained=True, bottleneck=4), tmp_path / "adapter.safetensors"
    checkpoint.save(path, stack, base.fingerprint, 7, stack.state_dict())
    return path


def rewrite(path, **changes):
    """Change the header of a file; a key that becomes None is left out."""
    tensors, header = checkpoint.read_tensors(path)
    kept = {key: value for key, value in {**header, **changes}.items() if value is not None}
    checkpoint.write_tensors(path, tensors, kept)


def test_an_adapter_file_says_what_it_is(path, base):
    file = checkpoint.load(path)
    assert (file.kind, file.step, file.base_fingerprint) == ("residual", 7, base.fingerprint)
    assert file.tasks == ("spk1", "spk10", "spk2")
    assert file.adapters[0].bottleneck == 4


def test_the_same_weights_are_the_same_bytes(path, base):
    before = path.read_bytes()
    stack = checkpoint.restore(checkpoint.load(path), base, path)
    checkpoint.save(path, stack, base.fingerprint, 7, stack.state_dict())
    assert path.read_bytes() == before


def test_restored_adapters_are_frozen_and_in_eval(path, base):
    stack = checkpoint.restore(checkpoint.load(path), base, path)
    assert not stack.training
    assert not any(parameter.requires_grad for parameter in stack.parameters())


@pytest.mark.parametrize("part", [0.0, 0.0005, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused_with_its_size(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    size = int(part * len(content))
    with pytest.raises(CheckpointError, match=rf"damaged or truncated \({size} bytes\)"):
        checkpoint.load(path)


def test_a_pickle_is_refused(path):
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        checkpoint.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"adaptkit": "{no json"}, {"adaptkit": "7"}])
def test_safetensors_of_another_program_are_refused(path, metadata):
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="a safetensors file, but not written by adaptkit"):
        checkpoint.load(path)


@pytest.mark.parametrize("number", [2, "1", [1]])
def test_another_format_is_refused_with_its_number(path, number):
    rewrite(path, format=number)
    with pytest.raises(CheckpointError, match="an adapter file of format .*, not 1"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "damage",
    [
        {"adapters": None},
        {"adapters": 5},
        {"adapters": [5]},
        {"adapters": [{"kind": "residul"}]},
        {"adapters": [{"kind": "residual", "bottleneck": 0}]},
        {"tasks": None},
        {"tasks": 3},
        {"base_fingerprint": None},
        {"step": None},
    ],
    ids=json.dumps,
)
def test_a_damaged_header_is_refused(path, damage):
    rewrite(path, **damage)
    with pytest.raises(CheckpointError, match="the header of the adapter file is not whole"):
        checkpoint.load(path)


def test_weights_that_do_not_fit_the_header_are_refused(path, base):
    rewrite(path, tasks=["spk1"])
    with pytest.raises(
        CheckpointError, match="does not fit the configuration it comes with; of another shape"
    ):
        checkpoint.restore(checkpoint.load(path), base, path)


def test_a_file_that_is_replaced_all_the_time_is_read_whole(tmp_path):
    path, is_over = tmp_path / "a.safetensors", threading.Event()
    sides = [tmp_path / "side0.safetensors", tmp_path / "side1.safetensors"]
    for number, side in enumerate(sides):
        checkpoint.write_tensors(side, {"a": torch.full((4,), float(number))}, {"number": number})

    def replace():
        for number in itertools.cycle((0, 1)):
            if is_over.is_set():
                return
            os.link(sides[number], tmp_path / "next")
            os.replace(tmp_path / "next", path)

    shutil.copy(sides[0], path)
    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        seen = [checkpoint.read_tensors(path) for _ in range(5000)]
    finally:
        is_over.set()
        replacing.join()
    assert {header["number"] for _, header in seen} == {0, 1}
    assert all(bool((tensors["a"] == header["number"]).all()) for tensors, header in seen)


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path}: Is a directory"):
        checkpoint.load(tmp_path)


def test_a_missing_file_is_named_with_what_writes_it(tmp_path):
    with pytest.raises(
        CheckpointError, match="nowhere.safetensors: no such file; 'adaptkit train' writes it"
    ):
        checkpoint.load(tmp_path / "nowhere.safetensors")


def test_tensors_of_any_kind_survive_a_round_trip(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    tensors = {"scalar": torch.tensor(3), "turned": whole.T, "part": whole[:, 1], "half": whole.bfloat16()}
    checkpoint.write_tensors(tmp_path / "x.safetensors", tensors, {"a": [1, None, 0.1]})
    read, header = checkpoint.read_tensors(tmp_path / "x.safetensors")
    assert header == {"a": [1, None, 0.1]}
    assert all(
        torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors
    )


def test_an_average_is_the_mean_and_counters_are_the_last_ones():
    weights = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(9)},
    ]
    averaged = checkpoint.average(weights)
    assert torch.equal(averaged["w"], torch.tensor([2.0, 4.0]))
    assert averaged["n"] == 9
