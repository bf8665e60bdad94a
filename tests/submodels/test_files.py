"""Files of Submodels: their names, and what is told of a damaged or foreign one."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from adaptkit.adapters.kinds import hra, residual
from adaptkit.errors import CheckpointError
from adaptkit.submodels import files
from adaptkit.submodels.files import SHARED_FILE, Shared, Submodel, file_name
from adaptkit.tensors import read_tensors, write_tensors

NAMES = (
    *("spk1", "spk10", "Spk1", "SPK1", "sPk1", "a/b", "a%2Fb", "a%2fb", "a", "b", "a b", " ", "\n", "\0"),
    *("", ".", "..", "...", "%2e", ".spk1", "+shared", "shared", "Shared", "+", "a+b", "~", "-", "con"),
    *("\u00e9", "e\u0301", "Ünal", "ünal", "李", "😀", "x" * 300, "x" * 301, "X" * 300, "李" * 300),
)


@pytest.fixture
def submodel():
    """A Submodel of three weights of three types."""
    weights = {"0.up": torch.randn(2, 3), "0.b": torch.tensor(1.5), "0.n": torch.arange(3)}
    return Submodel("spk1", (residual.Config(bottleneck=4),), "base", "none", 7, weights)


@pytest.fixture
def path(submodel, tmp_path):
    """Its file, which a test may spoil."""
    return files.write(tmp_path, submodel)


def rewrite(path, **changes):
    """Change the header of a file; a key that becomes None is left out."""
    tensors, header = read_tensors(path)
    kept = {key: value for key, value in {**header, **changes}.items() if value is not None}
    write_tensors(path, tensors, kept)


def flip(path, place):
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_an_ordinary_name_is_that_of_its_file():
    assert file_name("spk1-an_251.x~") == "spk1-an_251.x~.safetensors"


def test_no_two_names_share_a_file_even_where_case_does_not_tell():
    for one, other in itertools.combinations(NAMES, 2):
        assert file_name(one).lower() != file_name(other).lower(), (one, other)


@pytest.mark.parametrize("task", NAMES, ids=ascii)
def test_a_name_gives_a_plain_visible_file(task):
    name = file_name(task)
    assert name.isascii()
    assert name.isprintable()
    assert "/" not in name
    assert not name.startswith(".")
    assert name != SHARED_FILE
    assert len(name) < 255 - len(".12345678.partial")


@pytest.mark.parametrize("task", NAMES, ids=ascii)
def test_a_submodel_of_any_name_survives_a_round_trip(task, submodel, tmp_path):
    path = files.write(tmp_path, replace(submodel, task=task))
    assert path.parent == tmp_path
    assert files.read(path).task == task


@pytest.mark.parametrize("task", ["spk1", "a/b", ".", "..", "+shared", "é"])
def test_a_file_name_tells_its_task(task):
    assert files.name_task(Path(file_name(task))) == task


@pytest.mark.parametrize("name", ["Spk1.safetensors", "a%2fb.safetensors", "x+0123456789abcdef.safetensors"])
def test_a_name_that_we_never_give_tells_itself(name):
    assert files.name_task(Path(name)) == name


def test_a_submodel_survives_a_round_trip(path, submodel, assert_same):
    found = files.read(path)
    assert_same(found.weights, submodel.weights)
    assert replace(found, weights={}) == replace(submodel, weights={})
    assert (found.kind, found.num_parameters) == ("residual", 6 + 1 + 3)


def test_the_head_alone_says_the_same(path, submodel):
    assert files.read_head(path) == (replace(submodel, weights={}), 10)


def test_the_same_submodel_is_the_same_bytes(path, submodel):
    before = path.read_bytes()
    files.write(path.parent, replace(submodel, weights=dict(reversed(submodel.weights.items()))))
    assert path.read_bytes() == before


def test_a_slice_is_written_as_the_whole_tensor_it_shows(submodel, tmp_path):
    bank = torch.randn(3, 5, 2)
    path = files.write(tmp_path, replace(submodel, weights={"w": bank.transpose(1, 2)[1]}))
    assert torch.equal(files.read(path).weights["w"], bank[1].T)
    assert path.stat().st_size < 2000


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused_from_its_head(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    for read in (files.read, files.read_head):
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            read(path)


@pytest.mark.parametrize("place", [-1, -20, -50])
def test_a_flipped_bit_in_the_weights_is_refused(path, place):
    flip(path, place)
    with pytest.raises(CheckpointError, match="damaged: the checksum does not match; copy, export"):
        files.read(path)


def test_a_flipped_bit_anywhere_is_refused(path):
    whole = path.read_bytes()
    for place in range(len(whole)):
        flip(path, place)
        with pytest.raises(CheckpointError):
            files.read(path)
        path.write_bytes(whole)


def test_a_changed_header_is_refused(path):
    before, after = rb"\"step\": 7", rb"\"step\": 8"
    assert path.read_bytes().count(before) == 1
    path.write_bytes(path.read_bytes().replace(before, after))
    assert files.read_head(path)[0].step == 8
    with pytest.raises(CheckpointError, match="damaged: the checksum"):
        files.read(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"adaptkit": "{no json"}, {"adaptkit": "7"}])
def test_safetensors_of_another_program_are_refused(path, metadata):
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    for read in (files.read, files.read_head):
        with pytest.raises(CheckpointError, match="a safetensors file, but not written by adaptkit"):
            read(path)


def test_a_pickle_is_refused(path):
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        files.read_head(path)


def test_another_file_of_ours_is_refused_with_what_is_needed(path):
    write_tensors(path, {}, {"format": 1, "tasks": ["spk1"]})
    for read in (files.read, files.read_head):
        with pytest.raises(CheckpointError, match="not a Submodel; 'adaptkit submodels export' writes it"):
            read(path)


def test_another_format_is_refused_with_its_number(path):
    rewrite(path, format=2)
    for read in (files.read, files.read_head):
        with pytest.raises(CheckpointError, match="has format 2, not 1; export it again"):
            read(path)


@pytest.mark.parametrize(
    "damage",
    [
        *({"task": None}, {"task": 5}, {"base_fingerprint": None}, {"shared": [1]}, {"step": "7"}),
        *({"adapters": None}, {"adapters": 5}, {"adapters": [{"kind": "residul"}]}),
    ],
    ids=json.dumps,
)
def test_a_header_that_is_not_whole_is_refused(path, damage):
    rewrite(path, **damage)
    for read in (files.read, files.read_head):
        with pytest.raises(CheckpointError, match="the header is incomplete: .*; export it again"):
            read(path)


@pytest.mark.parametrize("depth", [500, *range(900, 1000, 3), 100_000])
def test_a_deeply_nested_header_is_refused(path, depth):
    nested = f'{{"holds": "submodel", "format": 1, "adapters": {"[" * depth}{"]" * depth}}}'
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={"adaptkit": nested})
    for read in (files.read, files.read_head):
        with pytest.raises(CheckpointError):
            read(path)


def test_a_file_that_is_not_there_is_named_with_what_writes_it(tmp_path):
    with pytest.raises(CheckpointError, match="no such file; 'adaptkit submodels export' writes it"):
        files.read(tmp_path / "nowhere.safetensors")
    with pytest.raises(CheckpointError, match=f"{tmp_path}: is a folder, not a regular file"):
        files.read(tmp_path)


@pytest.mark.parametrize("weights", [{}, {"0.controller": torch.randn(3, 2)}], ids=["none", "some"])
def test_what_submodels_share_survives_a_round_trip(weights, tmp_path, assert_same):
    shared = Shared((residual.Config(bottleneck=4),), "base", weights)
    files.write_shared(tmp_path, shared)
    found = files.read_shared(tmp_path)
    assert_same(found.weights, weights)
    assert (found.adapters, found.fingerprint) == (shared.adapters, shared.fingerprint)
    assert not shared.difference(found)


def test_damage_to_what_submodels_share_is_refused(tmp_path):
    path = files.write_shared(tmp_path, Shared((), "base", {"w": torch.randn(3)}))
    flip(path, -1)
    with pytest.raises(CheckpointError, match=r"\+shared.safetensors: damaged"):
        files.read_shared(tmp_path)


def test_a_difference_is_said_with_both_values():
    adapters = (residual.Config(bottleneck=4),)
    ours = Shared(adapters, "base", {})
    others = {
        "for base model other, not base": replace(ours, base_fingerprint="other"),
        "of adapter type hra, not residual": replace(ours, adapters=(hra.Config(),)),
        "of adapter type residual+hra, not residual": replace(ours, adapters=(*adapters, hra.Config())),
        "with adapters.0.bottleneck 8, not 4": replace(ours, adapters=(residual.Config(bottleneck=8),)),
    }
    assert {ours.difference(other) for other in others.values()} == set(others)


def test_a_difference_of_shared_weights_is_told_by_one_bit():
    ours = Shared((), "base", {"w": torch.tensor([0.0])})
    assert "with shared weights" in ours.difference(replace(ours, weights={"w": torch.tensor([-0.0])}))
