"""Experiments on several sets: the same utterances in several conditions, and groups of such sets."""

import csv
import json
import re
import shutil

import pytest

from adaptkit.errors import AdaptkitError, ScoringError
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.records import DecodeRecord
from adaptkit.report import by_set
from adaptkit.scoring import files as score_files

HALF = "a b"  # of "a b c d": two deletions


def add_set(folder, name, refs, hyps, data):
    """Give a run another decoded set, scored against its references."""
    decoded = folder / f"decode_{name}"
    write_table(decoded / "text", hyps)
    DecodeRecord(name, len(refs), 40.0, 10.0, 800.0, 1, False).write(decoded / "run.json")
    score_files.write(score_files.score_files(data, decoded), decoded)


@pytest.fixture
def folders(experiments, tmp_path):
    """The base alone and residual64: 50 and 12.5 % on `test`, both 50 % on `noisy`, of its references."""
    refs = read_table(tmp_path / "data/text")
    for folder in experiments:
        add_set(folder, "noisy", refs, dict.fromkeys(refs, HALF), tmp_path / "data")
    return experiments


@pytest.fixture
def with_long(folders, tmp_path):
    """The same with a set `long` of other references: all right, and one of eight words wrong."""
    refs = {"ann-joined": "a b c d a b c d"}
    write_table(tmp_path / "long/text", refs)
    write_table(tmp_path / "long/utt2spk", {"ann-joined": "ann"})
    for folder, hyp in zip(folders, ("a b c d a b c d", "a b c d a b c x"), strict=True):
        add_set(folder, "long", refs, {"ann-joined": hyp}, tmp_path / "long")
    return folders


@pytest.fixture
def report(adaptkit):
    """Run `adaptkit report`."""
    return lambda *words: adaptkit("report", *words)


def test_all_is_the_errors_of_all_sets_over_their_words(folders):
    (group,) = by_set.load(folders, ["test", "noisy"])
    head, none, residual = by_set.as_cells(group)

    titles = ["experiment", "test", "noisy", "all", "minus none", "harmed vs none"]
    assert [figure for figure, _ in head] == titles
    assert [figure for figure, _ in none] == ["none", "50.00", "50.00", "50.00", "–", "–"]
    # 5 errors and 20 of 40 words each: 25 of 80
    assert [figure for figure, _ in residual][:4] == ["residual64", "12.50", "50.00", "31.25"]
    assert residual[4][0].rstrip("*") == "-18.75"
    assert residual[5] == ("0.0 %", "50.0 %")  # both speakers improved in each of their utterances


def test_sets_stand_in_the_order_given_and_once(folders):
    (group,) = by_set.load(folders, ["noisy", "test", "noisy"])
    assert [comparison.set_name for comparison in group.by_set] == ["noisy", "test"]


def test_a_set_that_several_searches_decoded_is_a_column_for_each(folders):
    for folder in folders:
        (folder / "decode_noisy").rename(folder / "decode_test_beam")
        record = folder / "decode_test_beam/run.json"
        record.write_text(record.read_text().replace("noisy", "test"))
    (group,) = by_set.load(folders, ["test", "test_beam"])
    assert [figure for figure, _ in by_set.as_cells(group)[0]][1:3] == ["test", "test_beam"]


def test_sets_of_other_references_are_a_group_of_their_own(with_long):
    pairs = by_set.load(with_long, ["test", "long", "noisy"])

    assert [[one.set_name for one in group.by_set] for group in pairs] == [["test", "noisy"], ["long"]]
    head, *rows = by_set.as_cells(pairs[1])
    assert [figure for figure, _ in head] == ["experiment", "long", "minus none"]
    assert [row[1][0] for row in rows] == ["0.00", "12.50"]


@pytest.mark.parametrize("names", [["test", "other", "noisy"], ["other", "test", "noisy"]])
def test_a_set_with_groups_is_not_pooled_with_those_without(folders, tmp_path, names):
    refs = read_table(tmp_path / "data/text")
    shutil.copytree(tmp_path / "data", tmp_path / "other")
    write_table(tmp_path / "other/utt2group", dict.fromkeys(refs, "loud"))
    for folder in folders:
        add_set(folder, "other", refs, dict.fromkeys(refs, HALF), tmp_path / "other")
    pairs = by_set.load(folders, names)
    assert sorted([one.set_name for one in group.by_set] for group in pairs) == [["other"], ["test", "noisy"]]
    assert by_set.as_markdown(pairs).count("### Group loud") == 1


def test_differences_are_those_of_all_sets_from_each_baseline(folders):
    (group,) = by_set.load(folders, ["test", "noisy"], minus=["residual64", "none"])
    head, none, residual = by_set.as_cells(group)

    columns = [figure for figure, _ in head[4:]]
    assert columns == ["minus residual64", "harmed vs residual64", "minus none", "harmed vs none"]
    assert [figure.rstrip("*") for figure, _ in none[4:]] == ["+18.75", "100.0 %", "–", "–"]
    assert [figure.rstrip("*") for figure, _ in residual[4:]] == ["–", "–", "-18.75", "0.0 %"]


def test_json_has_an_object_for_each_experiment_and_set_and_all(folders):
    rows = json.loads(by_set.as_json(by_set.load(folders, ["test", "noisy"])))

    found = {(row["set"], row["name"]): row["wer"] for row in rows}
    assert len(rows) == len(found) == 6
    assert found[("test", "residual64")] == 12.5
    assert found[("all", "residual64")] == 31.25
    assert [row["minus"][0]["points"] for row in rows if row["name"] == "residual64"] == [-37.5, 0, -18.75]


@pytest.mark.parametrize("form", ["table", "md", "json", "csv", "latex"])
def test_several_groups_of_sets_are_pooled_under_the_names_of_their_sets(report, with_long, tmp_path, form):
    refs = read_table(tmp_path / "long/text")
    for folder in with_long:
        add_set(folder, "long_noisy", refs, dict.fromkeys(refs, HALF), tmp_path / "long")
    names = ("test", "noisy", "long", "long_noisy")
    written = report(*with_long, *(w for n in names for w in ("--test-set", n)), "--format", form).stdout
    found = written.replace("\\_", "_")
    assert "test+noisy" in found
    assert "long+long_noisy" in found
    assert not re.search(r"^all,|[|&\"'] *all *[|&\"']|\ball  ", found, re.MULTILINE)


def test_a_set_called_all_does_not_share_its_name_with_the_sets_together(folders):
    for folder in folders:
        (folder / "decode_noisy").rename(folder / "decode_all")
        record = folder / "decode_all/run.json"
        record.write_text(record.read_text().replace("noisy", "all"))
    (group,) = by_set.load(folders, ["test", "all"])
    assert [name for name, _ in group.named] == ["test", "all", "test+all"]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_sets_of_different_references_are_not_pooled(report, with_long, form):
    words = (*with_long, "--test-set", "test", "--test-set", "long", "--format", form)
    written = report(*words).stdout
    rows = json.loads(written) if form == "json" else csv.DictReader(written.splitlines())
    assert {row["set"] for row in rows} == {"test", "long"}


def test_sets_normalised_differently_are_refused_by_name(folders, tmp_path):
    for folder in folders:
        decoded = folder / "decode_noisy"
        score_files.write(score_files.score_files(tmp_path / "data", decoded, normalize=["lower"]), decoded)
    with pytest.raises(ScoringError, match="test with --normalize none and noisy with --normalize lower"):
        by_set.load(folders, ["test", "noisy"])


def test_the_explanation_names_the_columns_that_the_table_has(seeded, tmp_path):
    refs = read_table(tmp_path / "data/text")
    for folder in seeded:
        add_set(folder, "noisy", refs, dict.fromkeys(refs, HALF), tmp_path / "data")
    written = by_set.as_markdown(by_set.load(seeded, ["test", "noisy"]))
    assert "harmed vs none (by chance)" in written
    assert "errors are pooled over seeds; 95 % intervals" in written
    assert "WER and CER" not in written


def test_seeds_are_pooled_before_sets_are(seeded, tmp_path):
    refs = read_table(tmp_path / "data/text")
    for folder, hyp in zip(seeded[1:3], ("a b c d", HALF), strict=True):  # errors in 0 and 20 of 40 words
        add_set(folder, "noisy", refs, dict.fromkeys(refs, hyp), tmp_path / "data")

    (group,) = by_set.load(seeded[1:3], ["test", "noisy"])
    rates = [figure for figure, _ in by_set.as_cells(group)[1]]
    assert rates[1:4] == ["6.25", "25.00", "15.62"]  # 0 and 5 of 40 on `test`; 25 of 160 in all
    assert group.together.results[0].seeds == [1, 2]


def test_markdown_has_a_table_for_each_group_and_says_how_they_were_made(with_long):
    written = by_set.as_markdown(by_set.load(with_long, ["test", "noisy", "long"]))

    assert written.count("| experiment") == 3  # of two groups of sets, and of the speakers of one
    assert written.count("`adaptkit train conf/residual64.yaml") == 1
    assert "10 utterances, 2 speakers, 40 words" in written
    assert "1 speaker, 8 words" in written


# the command


def test_report_on_several_sets_is_a_column_for_each(report, folders):
    head, *rows, warning = report(*folders, "--test-set", "test", "--test-set", "noisy").stdout.splitlines()
    assert warning.startswith("Intervals over 2 speakers")

    assert head.split()[:4] == ["experiment", "test", "noisy", "all"]
    assert [row.split()[0] for row in rows] == ["none", "residual64"]


def test_report_on_sets_of_other_references_is_a_table_for_each(report, with_long):
    done = report(*with_long, "--test-set", "test", "--test-set", "long", "--minus", "residual64")

    assert [line.split()[:2] for line in done.stdout.splitlines() if "experiment" in line] == [
        ["experiment", "test"],
        ["experiment", "long"],
    ]


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("md", "10 utterances"),
        ("json", "["),
        ("table", "exp"),
        ("csv", "set,experiment"),
        ("latex", "% needs"),
    ],
)
def test_report_on_several_sets_writes_a_file(report, folders, tmp_path, form, start):
    done = report(
        *folders, "--test-set", "test", "--test-set", "noisy", "--format", form, "--out", tmp_path / "out"
    )

    assert done.stdout == ""
    assert (tmp_path / "out").read_text().startswith(start)


def test_a_page_is_of_one_set(report, folders):
    done = report(*folders, "--test-set", "test", "--test-set", "noisy", "--format", "html")

    assert done.exit_code == 2
    assert "html needs a single --test-set" in done.stderr


def test_one_set_named_once_or_twice_is_one_set(report, folders):
    once, twice = ([*folders, *["--test-set", "test"] * times] for times in (1, 2))
    for form in ("table", "json", "html"):
        assert report(*twice, "--format", form).stdout == report(*once, "--format", form).stdout != ""


def test_a_set_that_one_experiment_has_not_decoded_is_refused(folders):
    shutil.rmtree(folders[1] / "decode_noisy")
    with pytest.raises(ScoringError, match="residual64: set noisy is not decoded"):
        by_set.load(folders, ["test", "noisy"])


def test_an_unknown_baseline_is_refused(folders):
    with pytest.raises(AdaptkitError, match="--minus: no experiment 'hra'"):
        by_set.load(folders, ["test", "noisy"], minus=["hra"])
