"""What is kept of validations: it is saved and read again as it was."""

import math

from adaptkit.training.standing import Measured, pack, rank, unpack


def test_validations_are_unpacked_as_they_were_packed():
    first = Measured(0, {"ann": [3, 12, 0.1 + 0.2, 2], "bob": [0, 7, math.inf, 1]})
    second = Measured(4, {"bob": [1, 7, 2.5, 1]})
    assert unpack(*pack([first, second])) == [first, second]


def test_validations_of_no_number_rank_last_and_the_start_by_the_gain_asked_for():
    entries = [[math.nan, 1.0, 6], [19.0, 1.0, 9], [20.0, 1.0, 0]]
    assert sorted(entries, key=lambda entry: rank(entry, 0.1)) == entries[::-1]
    assert min(entries, key=rank) == entries[1]
