"""Tables of text."""

import pytest

from adaptkit.tables import aligned, markdown


def test_columns_are_as_wide_as_their_widest_cell():
    assert aligned([["a", "bb", "c"], ["aaa", "b", "10"]]) == "a    bb   c\naaa   b  10"


def test_rows_of_unequal_length_are_our_mistake():
    with pytest.raises(ValueError, match="zip"):
        aligned([["a", "b"], ["a"]])


def test_bar_in_a_cell_does_not_split_it():
    assert markdown([["name"], ["a|b"]]).splitlines()[-1] == "| a\\|b |"
