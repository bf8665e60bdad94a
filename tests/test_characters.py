"""White space and invisible characters."""

import pytest

from adaptkit.characters import clean, describe_strange, normalise, split_words, visible

SPACES = "\t\n\v\f\r\x1c\x85\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"
INVISIBLE = "\x01\x7f\u00ad\u034f\u061c\u180e\u200b\u200e\u202e\u2060\u2066\u3164\ufeff\U000e0041"
KEPT = ["می\u200cخواهم", "क्\u200dष", "ന്\u200d", "\u0600\u0661", "日\ufe00", "e\u0301", "a\u0335"]


@pytest.mark.parametrize("space", SPACES)
def test_every_white_space_separates_words_and_becomes_a_space(space):
    assert split_words(f"a{space}b") == ["a", "b"]
    assert clean(f"{space}a{space}b{space}") == "a b"


@pytest.mark.parametrize("character", INVISIBLE)
def test_invisible_characters_count_as_nothing(character):
    assert split_words(f"{character}a{character}b{character} c") == ["ab", "c"]
    assert describe_strange(f"a{character}b").startswith(f"U+{ord(character):04X} (")


@pytest.mark.parametrize("word", KEPT)
def test_what_belongs_to_the_spelling_of_a_script_stays(word):
    assert (clean(word), describe_strange(word)) == (word, "")


@pytest.mark.parametrize("text", ["a\u200db", "\u200ca", "a \u200cb", "می\u200c\u200cخ", "क \u200dष"])
def test_joiners_that_join_nothing_count_as_nothing(text):
    assert clean(text) == clean(clean(text)) != text


def test_clean_text_has_nothing_strange():
    assert describe_strange(clean("".join(map(chr, range(1, 0xD800))))) == ""


def test_normal_forms_are_applied_whatever_their_order():
    assert (
        normalise("ﬁ ½ E\u0301", ["nfkc", "lower"])
        == normalise("ﬁ ½ E\u0301", ["lower", "nfkc"])
        == "fi 1⁄2 é"
    )


def test_visible_text_fills_one_line():
    assert visible("ann\x1b[31m\r\nb\u202e é") == "ann\\x1b[31m\\r\\nb\\u202e é"


def test_every_character_counts_as_much_alone_as_beside_others():
    for code in (*range(0xD800), *range(0xE000, 0x30000), *range(0xE0000, 0xE0200)):
        character = chr(code)
        counts = [split_words(f"a{character}b"), clean(f"a{character}b")]
        beside = [
            split_words(f"a{character}b\u00ad"),
            clean(f"a{character}b\u00ad"),
        ]  # invisible: the slow way
        assert counts == beside, f"U+{code:04X}"
