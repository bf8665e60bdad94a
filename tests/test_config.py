"""Yaml into checked configurations: every problem in one message, and `--set`."""

import itertools
import os
from typing import Literal

import pytest
from pydantic import Field, PositiveInt, model_validator

from adaptkit import config
from adaptkit.config import Config
from adaptkit.errors import AdaptkitError, ConfigError


class Inner(Config):
    """A part of a configuration."""

    size: PositiveInt = 4
    shape: Literal["round", "square"] = "round"


class Outer(Config):
    """A configuration with parts."""

    name: str
    lr: float = 0.1
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    words: list[str] = Field([], description="some words")

    @model_validator(mode="after")
    def _fit(self) -> "Outer":
        if self.name == "bad":
            raise ValueError(f"name {self.name} is bad")
        return self


@pytest.fixture
def yaml(tmp_path):
    """Write a yaml file."""

    def write(text):
        (tmp_path / "x.yaml").write_text(text)
        return tmp_path / "x.yaml"

    return write


def refused(path, *overrides):
    """Return the message with which a file is refused."""
    with pytest.raises(ConfigError) as caught:
        config.load(Outer, path, overrides)
    return str(caught.value)


def test_all_problems_come_in_one_message_with_full_keys_and_values(yaml):
    message = refused(yaml("{nam: x, lr: fast, inner: {size: 0}, parts: [{size: 2}, {shape: rund}]}"))
    first, *lines = message.splitlines()
    assert first.endswith("x.yaml: 5 problems:")
    assert "  name: missing" in lines
    assert "  nam: unknown key; did you mean 'name'? (seen: 'x')" in lines
    assert "  inner.size: Input should be greater than 0 (seen: 0)" in lines
    assert any(line.startswith("  lr: Input should be a valid number") and "'fast'" in line for line in lines)
    assert any(line.startswith("  parts.1.shape:") and "did you mean 'round'?" in line for line in lines)


def test_an_unknown_key_far_from_all_lists_the_known(yaml):
    assert "zzz: unknown key; known: shape, size" in refused(yaml("{name: x, inner: {zzz: 1}}"))


def test_a_validator_of_several_keys_keeps_its_words(yaml):
    assert refused(yaml("name: bad")).endswith("1 problem:\n  name bad is bad")


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "0.001", ".1e-2", "+1E-3"])
def test_powers_of_ten_are_numbers_however_they_are_written(yaml, written):
    assert config.load(Outer, yaml(f"{{name: x, lr: {written}}}")).lr == 0.001


def test_a_name_that_looks_like_no_number_stays_text(yaml):
    assert config.load(Outer, yaml("name: 1e-3x")).name == "1e-3x"


def test_set_reaches_nested_keys_and_list_items_and_is_read_as_yaml(yaml):
    path = yaml("{name: x, parts: [{size: 1}, {size: 2}]}")
    words = ["inner.size=7", "parts.1.size=9", "lr=1e-3", "words=[a, b]"]
    loaded = config.load(Outer, path, words)
    assert (loaded.inner.size, loaded.parts[0].size, loaded.parts[1].size) == (7, 1, 9)
    assert (loaded.lr, loaded.words) == (0.001, ["a", "b"])


def test_set_fills_a_section_that_is_there_but_empty(yaml):
    assert config.load(Outer, yaml("name: x\ninner:\n"), ["inner.size=7"]).inner.size == 7


def test_set_goes_through_the_same_checks(yaml):
    path = yaml("name: x")
    assert "inner.sise: unknown key; did you mean 'size'?" in refused(path, "inner.sise=7")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr", "--set lr: expected key=value, for example train.lr=1e-3"),
        ("=3", "--set =3: expected key=value"),
        ("parts.2.size=1", "--set parts.2.size: '2' is not an index of a list of 1"),
        ("parts.first.size=1", "'first' is not an index of a list of 1"),
        ("parts.-1.size=1", "'-1' is not an index of a list of 1"),
        ("name.x=1", "--set name.x: 'name' holds the value 'x', which has no keys"),
        ("lr=[1", "--set lr=[1: invalid yaml: "),
    ],
)
def test_a_set_that_fits_nothing_is_refused_with_the_word(yaml, word, message):
    assert message in refused(yaml("{name: x, parts: [{size: 1}]}"), word)


def test_a_file_that_is_not_yaml_is_refused_with_its_line(yaml):
    assert "x.yaml:2: invalid yaml:" in refused(yaml("name: x\nlr: ]\n"))


def test_a_key_that_comes_twice_is_refused_with_its_line(yaml):
    assert "x.yaml:3: invalid yaml: duplicate key 'lr'" in refused(yaml("lr: 1\nname: x\nlr: 2\n"))


def test_a_file_without_keys_is_refused(yaml):
    assert "expected 'key: value' lines, found list" in refused(yaml("- a\n- b\n"))
    assert "found NoneType" in refused(yaml(""))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AdaptkitError, match="nowhere.yaml: no such file"):
        config.load(Outer, tmp_path / "nowhere.yaml")


def test_yaml_builds_no_python_objects(yaml):
    assert "invalid yaml" in refused(yaml("name: !!python/object/apply:os.getcwd []"))


def test_a_dumped_configuration_is_loaded_to_itself(tmp_path):
    given = Outer(name="x", lr=1e-5, parts=(Inner(size=2),), words=["no", "1e-3"])
    config.write_yaml(tmp_path / "x.yaml", config.dump(given))
    assert config.load(Outer, tmp_path / "x.yaml") == given


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Inner().size = 3


def test_numbers_are_read_as_they_are_written_today(yaml):
    written = "[010, 1:30, 1_000, 0x10, 2024-01-05, 1e3, -2, .5]"
    read = config.read_yaml(yaml(f"words: {written}"))["words"]
    assert read == ["010", "1:30", "1_000", "0x10", "2024-01-05", 1000.0, -2, 0.5]


@pytest.mark.parametrize(
    "text", ["010", "1:30", "1e3", "+.5", "=", "<<", "tRUE", "no", "~", "1_0", "2024-01-05"]
)
def test_every_text_is_written_so_that_it_is_read_as_text(tmp_path, text):
    config.write_yaml(tmp_path / "x.yaml", {"name": text})
    assert config.read_yaml(tmp_path / "x.yaml") == {"name": text}


def test_anchors_that_multiply_are_refused_before_they_are_built(yaml):
    lines = [f"{b}: &{b} [{', '.join(['*' + a] * 9)}]" for a, b in itertools.pairwise("abcdefghi")]
    assert "more than 1000000 values" in refused(yaml("\n".join(["a: &a [1, 2]", *lines])))


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(AdaptkitError, match="is a FIFO, not a regular file"):
        config.read_yaml(tmp_path / "x.yaml")
