"""Files of tensors: whole or refused, and averages of weights."""

import itertools
import json
import os
import re
import shutil
import threading
import tracemalloc

import pytest
import safetensors.torch
import torch

from adaptkit.errors import CheckpointError
from adaptkit.tensors import (
    UninitialisedWeights,
    average_tensors,
    begin_writing,
    load_strictly,
    read_tensors,
    write_tensors,
)


def flip(path, place, bit=0):
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("bit", range(8))
def test_any_bit_of_a_file_that_is_flipped_is_refused(tmp_path, bit):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.arange(3.0), "b": torch.tensor([1, 2])}, {"step": 7})
    whole = path.read_bytes()
    for place in range(len(whole)):
        flip(path, place, bit)
        with pytest.raises(CheckpointError):
            read_tensors(path)
        path.write_bytes(whole)


def test_another_seal_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, {"step": 7})
    whole = path.read_bytes()
    (seal,) = re.findall(rb'crc32\\": \\"([0-9a-f]{8})', whole)
    for other in (b"00000000", b"ffffffff", seal[::-1], seal.upper(), seal[:-1] + b" "):
        path.write_bytes(whole.replace(seal, other))
        with pytest.raises(CheckpointError, match="damaged: the checksum does not match"):
            read_tensors(path)


@pytest.mark.parametrize(
    "header",
    [
        *({"step": 7}, {}, {"step": 7, "crc32": "00000000"}, {"crc32": "", "step": 7}),
        *({"crc32": 7}, {"crc32": None}, {"crc32": "00000000"}, {"crc32": "00000000", "step": 7}),
    ],
    ids=json.dumps,
)
def test_a_file_without_its_seal_is_refused(tmp_path, header):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={"adaptkit": json.dumps(header)})
    with pytest.raises(CheckpointError, match="damaged.*: (it has no checksum|the checksum does not match)"):
        read_tensors(path)


def test_a_file_is_what_safetensors_writes(tmp_path):
    path, numbers = tmp_path / "a.safetensors", torch.arange(-3, 4)
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    whole = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    tensors = {f"{dtype} ü": numbers.to(dtype) for dtype in (*whole, *floats)}
    write_tensors(path, tensors, {"name": "ü"})
    (seal,) = re.findall(rb'crc32\\": \\"([0-9a-f]{8})', path.read_bytes())
    header = json.dumps({"crc32": seal.decode(), "name": "ü"})
    assert path.read_bytes() == safetensors.torch.save(tensors, {"adaptkit": header})


def test_tensors_that_change_while_their_file_is_completed_are_as_they_were(tmp_path):
    path, tensor = tmp_path / "a.safetensors", torch.zeros(3)
    finish = begin_writing(path, {"a": tensor}, {})
    tensor += 1
    assert not path.exists()
    finish()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]
    assert not read_tensors(path)[0]["a"].any()


def test_the_seal_takes_no_copy_of_the_file(tmp_path):
    path, tensor = tmp_path / "a.safetensors", torch.zeros(8_000_000)
    peaks = []
    for use in (
        lambda: write_tensors(path, {"a": tensor}, {}),
        lambda: read_tensors(path),
    ):
        tracemalloc.start()
        try:
            use()
            peaks.append(tracemalloc.get_traced_memory()[1] / path.stat().st_size)
        finally:
            tracemalloc.stop()
    assert peaks[0] < 0.5  # blocks of the file
    assert 2 <= peaks[1] < 2.5  # what is read, and its tensors


def test_a_file_that_is_replaced_all_the_time_is_read_whole(tmp_path):
    path, is_over = tmp_path / "a.safetensors", threading.Event()
    sides = [tmp_path / "side0.safetensors", tmp_path / "side1.safetensors"]
    for number, side in enumerate(sides):
        write_tensors(side, {"a": torch.full((4,), float(number))}, {"number": number})

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
        seen = [read_tensors(path) for _ in range(5000)]
    finally:
        is_over.set()
        replacing.join()
    assert {header["number"] for _, header in seen} == {0, 1}
    assert all(bool((tensors["a"] == header["number"]).all()) for tensors, header in seen)


def test_tensors_of_any_kind_survive_a_round_trip(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    tensors = {
        **{"scalar": torch.tensor(3), "turned": whole.T, "part": whole[:, 1], "half": whole.bfloat16()},
        **{"same": whole, "again": whole, "spread": torch.ones(1).expand(4), "none": torch.zeros(0, 2)},
    }
    write_tensors(tmp_path / "x.safetensors", tensors, {"a": [1, None, 0.1]})
    read, header = read_tensors(tmp_path / "x.safetensors")
    assert header == {"a": [1, None, 0.1]}
    assert all(
        torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors
    )


def test_equal_tensors_are_the_same_bytes_however_they_lie_in_memory(tmp_path):
    whole, contents = torch.arange(6.0).reshape(2, 3), []
    for tensors in ({"a": whole, "b": whole[0]}, {"b": whole.T.clone()[:, 0], "a": whole.T.contiguous().T}):
        write_tensors(tmp_path / "x.safetensors", tensors, {"step": 7})
        contents.append((tmp_path / "x.safetensors").read_bytes())
    assert contents[0] == contents[1]


def test_an_average_is_the_mean_and_counters_are_the_last_ones():
    weights = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(9)},
    ]
    averaged = average_tensors(weights)
    assert torch.equal(averaged["w"], torch.tensor([2.0, 4.0]))
    assert averaged["n"] == 9


@pytest.mark.parametrize(
    ("weight", "problem"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), "another type of numbers: weight"),
        (torch.zeros(2, 3, dtype=torch.complex64), "another type of numbers: weight"),
        (torch.zeros(2, 3, dtype=torch.bool), "another type of numbers: weight"),
        (torch.full((2, 3), float("nan")), "not finite: weight"),
        (torch.full((2, 3), float("inf"), dtype=torch.float16), "not finite: weight"),
        (torch.zeros(6), "wrong shape: weight"),
    ],
    ids=["integers", "complex", "bools", "nan", "inf", "shape"],
)
def test_weights_that_torch_would_convert_or_that_are_no_numbers_are_refused(tmp_path, weight, problem):
    model = torch.nn.Linear(3, 2, bias=False)
    with pytest.raises(CheckpointError, match=f"does not fit the configuration it comes with; {problem}"):
        load_strictly(model, {"weight": weight}, tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_loaded(tmp_path, dtype):
    model = torch.nn.Linear(3, 2, bias=False)
    load_strictly(model, {"weight": torch.ones(2, 3, dtype=dtype)}, tmp_path / "a.safetensors")
    assert model.weight.equal(torch.ones(2, 3))


def test_weights_that_a_model_takes_over_are_its_own_without_a_copy(tmp_path):
    model = torch.nn.Linear(2, 2)
    weights = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    load_strictly(model, weights, tmp_path, takes_over=True)
    assert model.weight.data_ptr() == weights["weight"].data_ptr()
    assert isinstance(model.weight, torch.nn.Parameter)
    load_strictly(model, weights, tmp_path)
    assert torch.equal(model.weight, weights["weight"])


def test_weights_that_share_memory_or_are_of_another_type_are_copied(tmp_path):
    model, both = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), torch.ones(2, 2)
    weights = {"0.weight": both, "1.weight": both, "0.bias": torch.ones(4)[:2]}
    weights["1.bias"] = torch.ones(2, dtype=torch.float64)
    load_strictly(model, weights, tmp_path, takes_over=True)
    model[0].weight.data.add_(1)
    assert torch.equal(model[1].weight, torch.ones(2, 2))
    assert model[1].bias.dtype == torch.float32
    assert model[0].bias.untyped_storage().nbytes() == 8


def test_tensors_that_a_model_shares_stay_shared(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[1].weight = model[0].weight
    weights = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    load_strictly(model, weights, tmp_path, takes_over=True)
    assert model[1].weight is model[0].weight


def test_weights_left_uninitialised_draw_no_random_numbers():
    state = torch.get_rng_state()
    with UninitialisedWeights():
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LSTM(2, 2), torch.nn.Embedding(2, 2))
    assert torch.equal(torch.get_rng_state(), state)
