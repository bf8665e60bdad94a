"""Tables of text."""

import pytest

from adaptkit.tables import aligned, markdown, quote_code


def test_columns_are_as_wide_as_their_widest_cell():
    assert aligned([["a", "bb", "c"], ["aaa", "b", "10"]]) == "a    bb   c\naaa   b  10"


def test_rows_of_unequal_length_are_our_mistake():
    with pytest.raises(ValueError, match="zip"):
        aligned([["a", "b"], ["a"]])


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("a|b", "a\\|b"),
        ("<b>", "&lt;b&gt;"),
        ("&lt;", "&amp;lt;"),
        ("`x`", "\\`x\\`"),
        ("a\nb\x1b[2J", "a\\\\nb\\\\x1b\\[2J"),
        ("*a* 1*", "\\*a\\* 1\\*"),
        ("[a](b)", "\\[a\\](b)"),
        ("_spk_1_", "\\_spk_1\\_"),
        ("-37.50* (-48.00 to -27.00)", "-37.50* (-48.00 to -27.00)"),
        ("12 (<b>)", "12 (&lt;b&gt;)"),
    ],
)
def test_names_are_no_markup_and_figures_stay(name, escaped):
    assert markdown([["name"], [name]]).splitlines()[2:] == [f"| {escaped} |"]


@pytest.mark.parametrize(
    ("text", "quoted"), [("a", "`a`"), ("`", "`` ` ``"), ("a```b\n", "```` a```b\\n ````"), ("<b>", "`<b>`")]
)
def test_code_is_quoted_by_more_backticks_than_it_has(text, quoted):
    assert quote_code(text) == quoted


def test_control_characters_do_not_leave_their_cell():
    assert aligned([["name", "x"], ["a\nb\x1b[31m", "1"]]) == "name          x\na\\nb\\x1b[31m  1"
