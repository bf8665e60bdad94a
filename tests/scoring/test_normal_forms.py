"""Errors that are differences in case or in Unicode alone."""

import pytest

from adaptkit.errors import ScoringError
from adaptkit.scoring.comparison import compare
from adaptkit.scoring.normal_forms import count_vanishing
from adaptkit.scoring.wer import pool, score

REFS = {"a": "Mètres 2½ ﬁn", "b": "ｶﾞ DEF", "c": "un deux"}
HYPS = {"a": "me\u0300tres 2½ fin", "b": "ガ def", "c": "un trois"}


@pytest.mark.parametrize(
    ("forms", "errors"),
    [((), 5), (("nfc",), 5), (("lower",), 4), (("lower", "nfc"), 3), (("lower", "nfkc"), 1)],
)
def test_forms_apply_to_both_sides(forms, errors):
    report = score(REFS, HYPS, normalize=forms)
    assert (report.total.errors, report.normalize) == (errors, forms)


@pytest.mark.parametrize(
    ("forms", "expected"),
    [((), {"lower": 1, "nfkc": 2}), (("lower",), {"nfc": 1, "nfkc": 3}), (("lower", "nfkc"), {})],
)
def test_errors_that_a_further_form_undoes_are_counted(forms, expected):
    assert count_vanishing(score(REFS, HYPS, normalize=forms), REFS, HYPS) == expected


def test_perfect_hypotheses_lose_no_error():
    assert count_vanishing(score(REFS, REFS), REFS, REFS) == {}


def test_texts_that_differ_in_invisible_characters_and_spaces_are_equal():
    assert score({"a": "one two\u200b\ufeff"}, {"a": "one\u3000t\u00adwo\r"}).total.errors == 0


def test_reports_with_unlike_forms_are_neither_compared_nor_pooled():
    one, other = score(REFS, HYPS), score(REFS, HYPS, normalize=["nfc"])
    with pytest.raises(ScoringError, match="normalised differently; score both with the same --normalize"):
        compare(one, other, name="other")
    with pytest.raises(ScoringError, match="normalised differently"):
        pool([one, other])
    assert pool([other, other]).normalize == ("nfc",)
