"""Adapter files: whole or refused, and averages of weights."""

import json
import os
import zlib

import pytest
import safetensors.torch
import torch

from adaptkit.errors import AdaptkitError, CheckpointError, ConfigError
from adaptkit.model import checkpoint
from adaptkit.tensors import read_tensors, write_tensors


@pytest.fixture
def path(base, new_stack, tmp_path):
    """An adapter file that a test may spoil."""
    stack, path = new_stack(base, is_trained=True, bottleneck=4), tmp_path / "adapter.safetensors"
    checkpoint.save(path, stack, base.fingerprint, 7, stack.state_dict())
    return path


def rewrite(path, **changes):
    """Change the header of a file; a key that becomes None is left out."""
    tensors, header = read_tensors(path)
    kept = {key: value for key, value in {**header, **changes}.items() if value is not None}
    write_tensors(path, tensors, kept)


def flip(path, place, bit=0):
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


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


@pytest.mark.parametrize("place", [-1, -200])
def test_a_flipped_bit_in_the_weights_of_an_adapter_file_is_refused(path, place):
    flip(path, place)
    with pytest.raises(CheckpointError, match="adapter.safetensors: damaged: the checksum does not match"):
        checkpoint.load(path)


def test_a_flipped_bit_in_a_training_state_is_refused(new_run):
    new_run("run", max_epochs=1).fit()
    again = new_run("run", max_epochs=2)
    flip(again.plan.folder / "state.safetensors", -1)
    with pytest.raises(CheckpointError, match="state.safetensors: damaged: .* remove .* to start over"):
        again.fit(resume=True)


def test_the_seal_is_the_checksum_of_the_file_with_zeros_in_its_place(path):
    content = path.read_bytes()
    with safetensors.safe_open(path, framework="pt") as file:
        seal = json.loads(file.metadata()["adaptkit"])["crc32"]
    assert content.count(seal.encode()) == 1
    assert zlib.crc32(content.replace(seal.encode(), b"00000000")) == int(seal, 16)


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
        {"adapters": []},
        {"adapters": [{"kind": 5}]},
        {"adapters": [{"kind": "residual", "bottleneck": 10**26}]},
        {"tasks": 3},
        {"tasks": "spk"},
        {"tasks": ["spk1", 2, "spk3"]},
        {"tasks": ["spk1", "spk1", "spk2"]},
        {"base_fingerprint": None},
        {"base_fingerprint": 5},
        {"step": None},
        {"step": "7"},
        {"step": True},
    ],
    ids=json.dumps,
)
def test_a_damaged_header_is_refused(path, damage):
    rewrite(path, **damage)
    with pytest.raises(CheckpointError, match="the header of the adapter file is incomplete"):
        checkpoint.load(path)


def test_weights_that_do_not_fit_the_header_are_refused(path, base):
    rewrite(path, tasks=["spk1"])
    with pytest.raises(CheckpointError, match="does not fit the configuration it comes with; wrong shape"):
        checkpoint.restore(checkpoint.load(path), base, path)


@pytest.mark.parametrize(
    "claim",
    [
        {"tasks": [f"spk{number}" for number in range(30_000)]},
        {"adapters": [{"kind": "residual", "bottleneck": 65536}]},
        {"adapters": [{"kind": "residual", "bank": "space", "space_dim": 65536}]},
        {"adapters": [{"kind": "full"}] * 99},
    ],
    ids=["tasks", "bottleneck", "space", "full"],
)
def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_it_is_built(path, base, claim):
    rewrite(path, **claim)
    file = checkpoint.load(path)
    with pytest.raises(CheckpointError, match="its header does not fit its weights .* take more than 1.*MiB"):
        checkpoint.restore(file, base, path)


def test_new_adapters_larger_than_the_memory_are_refused(base, new_stack):
    with pytest.raises(ConfigError, match="residual for 100000 speakers take more than .* MiB; reduce"):
        new_stack(base, bottleneck=65536, tasks=[f"spk{number}" for number in range(100_000)])


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "adapter.safetensors")
    with pytest.raises(AdaptkitError, match="is a FIFO"):
        checkpoint.load(tmp_path / "adapter.safetensors")


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path}: is a folder, not a regular file"):
        checkpoint.load(tmp_path)


def test_a_missing_file_is_named_with_what_writes_it(tmp_path):
    with pytest.raises(
        CheckpointError, match="nowhere.safetensors: no such file; 'adaptkit train' writes it"
    ):
        checkpoint.load(tmp_path / "nowhere.safetensors")
