"""Reports as comma-separated values and in LaTeX."""

import csv
import io
import re

import pytest

from adaptkit.kaldi.tables import write_table
from adaptkit.report.latex import escape_latex
from tests.fixtures.runs import ANN_WRONG, HYPS, REFS


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_lists_experiments_groups_and_speakers(write_run, tmp_path, adaptkit):
    write_table(tmp_path / "data/utt2group", {u: u[:3] for u in REFS})
    folders = [write_run("none", HYPS["none"]), write_run("residual64", ANN_WRONG)]
    rows = rows_of(adaptkit("report", *folders, "--format", "csv").stdout)
    found = {(row["experiment"], row["part"], row["name"]): row for row in rows}
    assert len(rows) == len(found) == 2 * (1 + 2 + 2)
    whole = found["residual64", "all", ""]
    assert [whole[k] for k in ("set", "words", "errors", "wer", "minus none")] == [
        *("test", "40", "5", "12.5", "-37.5")
    ]
    assert (found["residual64", "group", "ann"]["wer"], found["residual64", "group", "bob"]["wer"]) == (
        *("25.0", "0.0"),
    )
    speaker = found["residual64", "speaker", "bob & <co>"]
    assert (speaker["wer"], speaker["minus none"], speaker["p against none"]) == ("0.0", "-50.0", "")


def test_csv_quotes_names(write_run, tmp_path, adaptkit):
    write_table(tmp_path / "data/utt2spk", dict.fromkeys(REFS, 'a, "b"'))
    rows = rows_of(adaptkit("report", write_run("none", HYPS["none"]), "--format", "csv").stdout)
    assert [row["name"] for row in rows] == ["", 'a, "b"']


@pytest.mark.parametrize("name", ["=1+1", "+49", "-5", "@SUM(A1)"])
def test_csv_keeps_names_that_spreadsheets_take_for_formulas_and_warns_of_them(
    write_run, tmp_path, adaptkit, caplog, name
):
    write_table(tmp_path / "data/utt2spk", dict.fromkeys(REFS, name))
    rows = rows_of(adaptkit("report", write_run("none", HYPS["none"]), "--format", "csv").stdout)
    assert [row["name"] for row in rows] == ["", name]
    assert f"{name}: spreadsheet programs take these names for formulas" in caplog.text


def test_csv_of_plain_names_warns_of_nothing(experiments, adaptkit, caplog):
    adaptkit("report", *experiments, "--format", "csv")
    assert "formulas" not in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("_%&#${}", r"\_\%\&\#\$\{\}"),
        ("\\~^", r"\textbackslash{}\textasciitilde{}\textasciicircum{}"),
        ("[2cm]*<>|", r"{[}2cm{]}{*}\textless{}\textgreater{}\textbar{}"),
        ("a---b", "a-{}-{}-b"),
        ("Jörg 日本 –", "Jörg 日本 --"),
        ("a\nb", r"a\textbackslash{}nb"),
    ],
)
def test_latex_takes_nothing_for_markup(text, expected):
    assert escape_latex(text) == expected


def test_latex_has_a_table_for_experiments_and_speakers(experiments, adaptkit):
    text = adaptkit("report", *experiments, "--format", "latex").stdout
    assert text.count(r"\begin{table}") == 3
    assert (
        "\\midrule\nann & 50.00 & 25.00 \\\\\nbob \\& \\textless{}co\\textgreater{} & 50.00 & 0.00 \\\\"
        in text
    )
    rows = [line for line in text.splitlines() if line.startswith("residual64 {\\footnotesize (residual)}")]
    assert " & $-$37.50 {\\footnotesize ($-$" in "".join(rows)
    assert sum(row.count(" & ") for row in rows) == 9


def test_latex_divides_a_table_of_many_columns_and_loses_none(experiments, adaptkit):
    words = ("report", *experiments, "--minus", "none", "--minus", "residual64")
    head = adaptkit(*words, "--format", "md").stdout.split("\n\n")[2].split("\n")[0]
    table = adaptkit(*words, "--format", "latex").stdout.split(r"\end{table}")[0]
    heads = [line for line in table.splitlines() if line.startswith("experiment ")]
    assert len(heads) == table.count(r"\begin{tabular}") > 1
    assert sum(line.count(" & ") for line in heads) == head.count(" | ")
    assert max(len(re.sub(r"\\footnotesize|[{}\\]", "", line)) for line in table.splitlines()[5:]) < 130


def test_latex_shrinks_no_table_but_those_wider_than_the_text(experiments, adaptkit):
    text = adaptkit("report", *experiments, "--format", "latex").stdout
    fits = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%" + "\n\\begin{tabular}"
    assert text.count(fits) == text.count(r"\end{tabular}}") == text.count(r"\begin{tabular}")
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
