"""The utterances with the most errors, and their alignments in Markdown and on the page."""

from adaptkit.report import html, summary
from adaptkit.report.runs import load
from adaptkit.report.worst import find_worst_utterances
from tests.fixtures.runs import REFS

RIGHT = dict(REFS)
ONE = {**RIGHT, "ann-1": "a <b> c"}  # one sub, one del
TWO = {**RIGHT, "ann-1": "a b c d", "bob-2": "a b c d e f g"}  # three insertions


def test_worst_utterances_come_from_the_run_with_most_errors(write_run):
    folders = [write_run("residual64", ONE, seed=1), write_run("residual64", TWO, seed=2)]
    worst = find_worst_utterances(load(folders).results[0])
    assert [one.title for one in worst] == [
        "bob-2 (bob & <co>, seed 2): 3 errors in 4 words",
        "ann-1 (ann, seed 1): 2 errors in 4 words",
    ]
    assert worst[0].score.alignment[4:] == ((None, "e"), (None, "f"), (None, "g"))


def test_alignments_stand_in_markdown_and_on_the_page(write_run):
    comparison = load([write_run("residual64", ONE)])
    code = "    ann-1 ref  a b   c d\n    ann-1 hyp  a <b> c ***\n    ann-1 op   C S   C D\n"
    assert f"### Utterances with the most errors of residual64\n\n{code}" in summary.as_markdown(comparison)
    page = html.render_page(comparison)
    assert '<span class="edit"><b>b</b><b>&lt;b&gt;</b></span> <span><b>c</b><b>c</b></span>' in page
    assert '<span class="edit"><b>d</b><b>–</b></span>' in page


def test_references_that_moved_and_perfect_runs_have_no_worst_utterances(write_run, tmp_path):
    assert find_worst_utterances(load([write_run("hra", RIGHT)]).results[0]) == []
    folder = write_run("residual64", ONE)
    (tmp_path / "data/text").rename(tmp_path / "data/refs")
    comparison = load([folder])
    assert find_worst_utterances(comparison.results[0]) == []
    assert "most errors" not in html.render_page(comparison)
