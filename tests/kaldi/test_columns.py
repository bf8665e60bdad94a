"""Columns behave as the lists and dicts that they stand for."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from adaptkit.kaldi.columns import Names, Strings, Table
from adaptkit.kaldi.utterances import Utterance, Utterances

WORDS = ["one", "", "zwölf", "日本語", "one"]
SPOKEN = [
    Utterance("a-1", "a", "call", "ONE", 0.5, 2.0, group="child"),
    Utterance("a-2", "a", "a-2", ""),
    Utterance("b-1", "b", "call", "日本", 2.5, None, task="far"),
]


@pytest.mark.parametrize("column", [Strings, Names])
def test_column_holds_what_a_list_holds(column):
    made = column.of(WORDS)
    assert [list(made), list(made[1:4]), list(made[::-2])] == [WORDS, WORDS[1:4], WORDS[::-2]]
    assert [made[-1], made[2], len(made)] == ["one", "zwölf", 5]
    assert list(made.take(np.array([3, 3, 0]))) == ["日本語", "日本語", "one"]
    assert pickle.loads(pickle.dumps(made)) == made


def test_string_beyond_the_end_is_an_index_error():
    for index in (5, -6):
        with pytest.raises(IndexError):
            Strings.of(WORDS)[index]


def test_names_of_files_need_not_be_utf8():
    assert list(Strings.of(["caf\udce9.wav", "b"])) == ["caf\udce9.wav", "b"]


def test_long_column_is_divided_and_joined_without_a_trace(monkeypatch):
    monkeypatch.setattr("adaptkit.kaldi.columns._CHUNK", 2)
    assert list(Strings.of(iter(WORDS))) == WORDS
    assert list(Strings.of(iter(WORDS)).chunks()) == [WORDS[:2], WORDS[2:4], WORDS[4:]]


def test_table_is_a_mapping_in_the_order_of_its_keys():
    table = {"b": "2", "a": "1", "ä": "3", "B": ""}
    made = Table.of(table)
    assert dict(made) == table == made
    assert list(made.items()) == [("B", ""), ("a", "1"), ("b", "2"), ("ä", "3")]
    assert ["b" in made, "c" in made, made.get("c"), list(made.values())] == [
        True,
        False,
        None,
        ["", "1", "2", "3"],
    ]
    with pytest.raises(KeyError):
        made["0"]


def test_rows_of_keys_are_found_in_any_order():
    table = Table.of({"a": "1", "b": "2"})
    for keys in (["b", "c", "a"], Strings.of(["b", "c", "a"]), Names.of(["b", "c", "a"])):
        assert table.rows(keys).tolist() == [1, -1, 0]
    assert table.rows(Strings.of(["a", "b"])).tolist() == [0, 1]


def test_utterances_are_those_they_were_made_of():
    made = Utterances.of(SPOKEN)
    assert list(made) == [made[0], made[1], made[2]] == SPOKEN == made
    assert list(made[1:]) == SPOKEN[1:] == list(Utterances.of(SPOKEN[1:]))
    assert made.take(np.array([2, 0])).sorted() == [SPOKEN[0], SPOKEN[2]]
    assert pickle.loads(pickle.dumps(made)) == made


def test_column_of_utterances_can_be_replaced():
    made = replace(Utterances.of(SPOKEN), tasks=Names.constant("all", 3))
    assert made == [replace(one, task="all") for one in SPOKEN]


def test_no_utterances_are_a_set_too():
    assert not len(Utterances.of([]))
    assert not list(Utterances.of([]))
