"""Error counts, against alignments worked by hand."""

import pytest

from adaptkit.errors import ScoringError
from adaptkit.scoring.comparison import compare, compare_groups
from adaptkit.scoring.counts import ErrorCounts, count_chars, count_words
from adaptkit.scoring.wer import pool, score

REFS = {"ann-1": "the cat sat", "ann-2": "on the mat", "bob-1": "all day long today"}
HYPS = {"bob-1": "all long today", "ann-1": "the bat sat down", "ann-2": "on the mat"}
SPEAKERS = {"ann-1": "ann", "ann-2": "ann", "bob-1": "bob"}


@pytest.fixture
def report():
    return score(REFS, HYPS, speakers=SPEAKERS)


def edit_distance(ref, hyp):
    """The recurrence of Wagner and Fischer, without the alignment."""
    row = list(range(len(hyp) + 1))
    for i, left in enumerate(ref, start=1):
        above, row[0] = row[0], i
        for j, right in enumerate(hyp, start=1):
            above, row[j] = row[j], min(above + (left != right), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def test_counts_are_those_worked_by_hand(report):
    assert report.total == ErrorCounts(hits=8, subs=1, dels=1, ins=1)
    assert report.by_speaker == {
        "ann": ErrorCounts(hits=5, subs=1, dels=0, ins=1),
        "bob": ErrorCounts(hits=3, subs=0, dels=1, ins=0),
    }


def test_rate_is_of_summed_counts_and_not_a_mean_of_rates(report):
    assert report.total.rate == pytest.approx(100 * 3 / 10)
    assert report.by_speaker["ann"].rate == pytest.approx(100 * 2 / 6)


def test_characters_count_the_spaces():
    assert count_chars(["a b"], ["ab"]) == [ErrorCounts(hits=2, dels=1)]


def test_errors_are_the_edit_distance():
    refs = ["a b c d e", "x y", "one two two three"]
    hyps = ["b c x e f", "y x y", "two one two four five"]
    distances = [edit_distance(ref.split(), hyp.split()) for ref, hyp in zip(refs, hyps, strict=True)]
    assert [counts.errors for counts in count_words(refs, hyps)] == distances


def test_empty_hypothesis_is_all_deletions():
    counts = score({"u": "one two"}, {"u": ""}).total
    assert counts == ErrorCounts(dels=2)
    assert counts.rate == 100.0


def test_insertions_raise_the_rate_above_hundred():
    assert score({"u": "one"}, {"u": "one two three"}).total.rate == 200.0


def test_blanks_between_words_do_not_count():
    report = score({"u": "one  two\tthree"}, {"u": "one two three "})
    assert (report.total.errors, report.chars.errors) == (0, 0)


def test_alignment_pairs_words_and_gaps(report):
    pairs = {utterance.utt_id: utterance.alignment for utterance in report.utterances}
    assert pairs["ann-1"] == (("the", "the"), ("cat", "bat"), ("sat", "sat"), (None, "down"))
    assert pairs["bob-1"] == (("all", "all"), ("day", None), ("long", "long"), ("today", "today"))


def test_missing_and_extra_utterances_are_listed_together():
    hyps = {"ann-1": "x", "eve-1": "x"}
    with pytest.raises(
        ScoringError, match=r"dir: no hypothesis for ann-2, bob-1 \(2 of 3\)(.|\n)*no reference for eve-1"
    ):
        score(REFS, hyps, where="dir")


def test_reference_without_words_is_refused():
    with pytest.raises(
        ScoringError,
        match=r"empty reference for b .*; drop these with 'adaptkit data fix' and decode .* again$",
    ):
        score({"a": "x", "b": " "}, {"a": "x", "b": "x"})


def test_hypotheses_of_a_set_that_was_repaired_since_are_to_be_made_again():
    with pytest.raises(ScoringError, match=r"no reference for b \(1 of 1\); .*, or decode this set again$"):
        score({"a": "x"}, {"a": "x", "b": "x"})


def test_no_reference_at_all_is_refused():
    with pytest.raises(ScoringError, match="no references at all"):
        score({}, {})


def test_utterance_without_speaker_is_refused():
    with pytest.raises(ScoringError, match="bob-1"):
        score(REFS, HYPS, speakers={"ann-1": "ann", "ann-2": "ann"})


def test_speakers_unknown_are_one(report):
    assert list(score(REFS, HYPS).by_speaker) == ["all"]


def test_interval_holds_the_rate_and_repeats_with_its_seed(report):
    assert report.interval.low <= report.total.rate <= report.interval.high
    assert report == score(REFS, HYPS, speakers=SPEAKERS)


def test_interval_without_errors_is_a_point():
    interval = score(REFS, REFS, speakers=SPEAKERS).interval
    assert (interval.low, interval.high) == (0.0, 0.0)


def test_difference_from_itself_is_nothing(report):
    difference = compare(report, report, name="itself")
    assert (difference.points, difference.interval.low, difference.interval.high) == (0.0, 0.0, 0.0)
    assert difference.p_value == 1.0


def test_difference_is_this_minus_the_other(report):
    perfect = score(REFS, REFS, speakers=SPEAKERS)
    assert compare(report, perfect, name="perfect").points == 30.0
    assert compare(perfect, report, name="worse").points == -30.0


def test_difference_that_each_utterance_shows_is_significant():
    refs = {f"u{n}": "a b c d" for n in range(50)}
    worse = score(refs, dict.fromkeys(refs, "a b c x"))
    difference = compare(score(refs, refs), worse, name="worse")
    assert (
        difference.interval.high == difference.interval.low == -25.0
    )  # no utterance differs from the others
    assert difference.p_value < 0.01


@pytest.mark.parametrize("number", [1, 2, 3, 6, 8])
def test_p_value_is_at_least_that_of_all_changed_utterances_alike(number):
    refs = {f"u{n}": "a b c d" for n in range(20)}
    hyps = refs | dict.fromkeys(list(refs)[:number], "a b c x")
    worse = compare(score(refs, hyps), score(refs, refs), name="none")
    assert worse.p_value >= 2 * 2**-number
    changed = list(refs)[:number]
    alone = [score({u: refs[u] for u in changed}, {u: side[u] for u in changed}) for side in (hyps, refs)]
    assert compare(*alone, name="none").p_value == min(1, 2 * 2**-number)


def test_p_value_counts_speakers_and_not_their_utterances():
    speakers = {f"{name}-{n}": name for name in ("ann", "bob", "eve") for n in range(30)}
    refs = dict.fromkeys(speakers, "a b c d")
    hyps = {u: "a b c d" if u.startswith("eve") else "a b c x" for u in refs}
    sides = [score(refs, side, speakers=speakers) for side in (hyps, refs)]
    assert compare(*sides, name="none").p_value >= 0.5  # two of the three changed
    groups = {u: "changed" if u[:3] != "eve" else "same" for u in refs}
    sides = [score(refs, side, speakers=speakers, groups=groups) for side in (hyps, refs)]
    found = compare_groups(*sides, name="none")
    assert {group: difference.p_value for group, difference in found.items()} == {"changed": 0.5, "same": 1.0}


def test_difference_of_other_references_is_refused(report):
    other = score({**REFS, "ann-2": "on a red mat"}, HYPS, speakers=SPEAKERS)
    with pytest.raises(ScoringError, match=r"exp/b: .*ann-2"):
        compare(report, other, name="exp/b")


def test_pooled_runs_are_one_rate(report):
    pooled = pool([report, score(REFS, REFS, speakers=SPEAKERS)])
    assert pooled.total == ErrorCounts(hits=18, subs=1, dels=1, ins=1)
    assert pooled.total.rate == pytest.approx(100 * 3 / 20)
    assert pooled.by_speaker["bob"] == ErrorCounts(hits=7, dels=1)


def test_run_pooled_with_itself_has_its_own_intervals(report):
    pooled = pool([report, report, report])
    assert pooled.num_runs == 3
    assert (pooled.interval, pooled.speaker_intervals) == (report.interval, report.speaker_intervals)


def test_difference_does_not_depend_on_how_often_a_run_is_pooled(report):
    perfect = score(REFS, REFS, speakers=SPEAKERS)
    assert compare(pool([report, report]), perfect, name="perfect") == compare(
        report, perfect, name="perfect"
    )


def test_runs_on_other_references_are_not_pooled(report):
    other = score({**REFS, "ann-2": "on a red mat"}, HYPS, speakers=SPEAKERS)
    with pytest.raises(ScoringError, match="a run: was not scored on the same references"):
        pool([report, other])


def test_lists_are_refused_and_numbered_texts_are_scored():
    refs, hyps = ["turn it off", "stop"], ["turn off", "stop"]

    with pytest.raises(
        ScoringError, match=r"expected texts by utterance id; dict\(enumerate\(texts\)\) numbers"
    ):
        score(refs, hyps)
    assert score(dict(enumerate(refs)), dict(enumerate(hyps))).rate.wer == 25.0


def test_speakers_of_numbered_texts_are_numbered_too():
    texts = dict(enumerate(("a b", "c d")))
    found = score(texts, {0: "a b", 1: "c"}, speakers={0: "ann", 1: "bob"})
    assert {name: counts.rate for name, counts in found.by_speaker.items()} == {"ann": 0.0, "bob": 50.0}
