"""Scores on disk."""

import json

import pytest

from adaptkit.errors import AdaptkitError, ScoringError
from adaptkit.kaldi.tables import write_table
from adaptkit.scoring import files as score_files

REFS = {"ann-1": "the cat sat", "bob-1": "on the mat"}
HYPS = {"ann-1": "the bat sat down", "bob-1": "on mat"}


@pytest.fixture
def folders(tmp_path):
    write_table(tmp_path / "data/text", REFS)
    write_table(tmp_path / "data/utt2spk", {"ann-1": "ann", "bob-1": "bob"})
    write_table(tmp_path / "decode/text", HYPS)
    return tmp_path / "data", tmp_path / "decode"


def test_speakers_come_from_the_data_directory(folders):
    assert list(score_files.score_files(*folders).by_speaker) == ["ann", "bob"]


def test_text_files_tell_no_speaker(folders):
    ref, hyp = folders
    assert list(score_files.score_files(ref / "text", hyp / "text").by_speaker) == ["all"]


def test_utt2spk_option_goes_before_that_of_the_directory(folders, tmp_path):
    write_table(tmp_path / "own", dict.fromkeys(REFS, "eve"))
    assert list(score_files.score_files(*folders, utt2spk=tmp_path / "own").by_speaker) == ["eve"]


def test_other_hypotheses_give_the_difference(folders, tmp_path):
    write_table(tmp_path / "other", REFS)
    difference = score_files.score_files(*folders, other=tmp_path / "other").difference
    assert difference.points == 50.0
    assert difference.other == str(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "table"),
    [("utt2group", {"ann-1": "adult", "bob-1": "child"}), ("spk2group", {"ann": "adult", "bob": "child"})],
)
def test_groups_come_from_the_data_directory(folders, name, table):
    write_table(folders[0] / name, table)
    report = score_files.score_files(*folders)
    assert [u.group for u in report.utterances] == ["adult", "child"]
    assert {group: report.of_group(group).total.rate for group in report.groups} == pytest.approx(
        {"adult": 200 / 3, "child": 100 / 3}
    )
    assert score_files.from_json(score_files.to_json(report, with_alignments=True)) == report
    data = score_files.to_json(report)
    assert (data["by_group"]["child"]["wer"], data["sources"][name]["path"]) == (33.33, f"../data/{name}")


def test_utt2group_option_goes_before_those_of_the_directory(folders, tmp_path):
    write_table(folders[0] / "utt2group", {"ann-1": "adult", "bob-1": "child"})
    write_table(tmp_path / "own", dict.fromkeys(REFS, "loud"))
    assert score_files.score_files(*folders, utt2group=tmp_path / "own").groups == ["loud"]


def test_utterance_without_a_group_is_refused(folders):
    write_table(folders[0] / "utt2group", {"ann-1": "adult"})
    with pytest.raises(ScoringError, match="utt2group: missing bob-1; add a line 'utterance group'"):
        score_files.score_files(*folders)


def test_groups_are_compared_each_by_itself(folders, tmp_path):
    write_table(folders[0] / "utt2group", {"ann-1": "adult", "bob-1": "child"})
    write_table(tmp_path / "other", {"ann-1": REFS["ann-1"], "bob-1": "on"})
    report = score_files.score_files(*folders, other=tmp_path / "other")
    points = {group: difference.points for group, difference in report.group_differences.items()}
    assert points == {"adult": 66.67, "child": -33.33}
    assert score_files.from_json(json.loads(score_files.dump_json(report, with_alignments=True))) == report
    text = score_files.format_report(report)
    assert (
        "Speakers by WER: 1 improved (50.0 %), 0 equal (0.0 %), 1 harmed (50.0 %); chance alone would "
        in text
    )
    assert "Most harmed: ann +66.67 (3 words, p = 0.500)\n" in text
    rows = [line.split() for line in text.splitlines()]
    assert [row[:2] for row in rows if row and row[0] in ("adult", "child")] == [
        ["adult", "1"],
        ["child", "1"],
        ["adult", "+66.67"],
        ["child", "-33.33"],
    ]


def test_of_many_speakers_the_worst_are_listed_on_request(folders):
    report = score_files.score_files(*folders)
    assert "lower word error rates" not in score_files.format_report(report)
    text = score_files.format_report(report, most_speakers=1)
    assert text.endswith("speakers with lower word error rates; --json FILE lists all\n")


def test_decode_folder_without_text_says_what_makes_it(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScoringError, match="'adaptkit decode' writes them"):
        score_files.score_files(folders[0], tmp_path / "empty")


@pytest.mark.parametrize("table", ["utt2spk", "wav.scp"])
@pytest.mark.parametrize("swapped", ["folder", "file", "other"])
def test_a_data_directory_in_place_of_hypotheses_is_refused(folders, table, swapped):
    ref, hyp = folders
    (ref / "utt2spk").rename(ref / table)
    words = {"folder": (hyp, ref), "file": (hyp / "text", ref), "other": (hyp / "text", hyp, ref)}[swapped]
    with pytest.raises(ScoringError, match=f"^{ref}: a data directory, .* name it first, then the hypo"):
        score_files.score_files(*words[:2], other=words[2] if swapped == "other" else None)


@pytest.mark.parametrize("content", [None, "", "ann-1\nbob-1\n"])
def test_set_without_references_says_so(folders, content):
    ref, hyp = folders
    (ref / "text").unlink() if content is None else (ref / "text").write_text(content)
    with pytest.raises(
        ScoringError, match="data/text: .*: the set has no references; hypotheses cannot be scored without"
    ):
        score_files.score_files(ref, hyp)


def test_errors_that_vanish_with_a_normal_form_are_said(folders, tmp_path, caplog):
    ref, hyp = folders
    write_table(hyp / "text", {utt_id: text.upper() for utt_id, text in REFS.items()})
    assert score_files.score_files(ref, hyp).total.errors == 6
    assert [record.message for record in caplog.records] == [
        f"{hyp}: 6 of 6 word errors vanish with --normalize lower"
    ]
    report = score_files.score_files(ref, hyp, normalize=["lower"])
    assert (report.total.errors, len(caplog.records)) == (0, 1)
    assert "Texts were normalised before: lower\n" in score_files.format_report(report)


def test_missing_hypotheses_are_named(folders, tmp_path):
    with pytest.raises(AdaptkitError, match="nowhere: no such file"):
        score_files.score_files(folders[0], tmp_path / "nowhere")


def test_score_json_is_read_back(folders):
    report = score_files.score_files(*folders)
    score_files.write(report, folders[1], with_alignments=True)
    assert score_files.read(folders[1] / "score.json") == report


def test_report_survives_json(folders):
    report = score_files.score_files(*folders)
    assert score_files.from_json(score_files.to_json(report, with_alignments=True)) == report


def test_json_starts_with_the_rates_and_leaves_alignments_out(folders):
    data = score_files.to_json(score_files.score_files(*folders))
    assert (data["wer"], data["by_speaker"]["bob"]["wer"]) == (50.0, 33.33)
    assert "alignment" not in data["utterances"][0]


def test_json_that_misses_a_field_is_refused_by_name(folders):
    data = score_files.to_json(score_files.score_files(*folders))
    del data["interval"]
    with pytest.raises(ScoringError, match="interval: field required"):
        score_files.from_json(data)


def forget(key):
    return lambda data: data.pop(key)


def set_value(*place, to):
    def change(data):
        for key in place[:-1]:
            data = data[key]
        data[place[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((forget(key), f"{key}") for key in ("wer", "cer", "interval", "words", "by_speaker", "utterances")),
        (set_value("utterances", to=[]), "0 utterances, none or some of them twice"),
        (set_value("utterances", 0, "words", "hits", to=-1), "greater than or equal to 0"),
        (
            set_value("utterances", 0, "words", to={"hits": 0, "subs": 0, "dels": 0, "ins": 4}),
            "without words",
        ),
        (
            set_value("utterances", 0, "words", "ins", to=2),
            "not the figures of its utterances: wer, words, by_sp",
        ),
        (set_value("utterances", 0, "utt_id", to="bob-1"), "some of them twice"),
        (set_value("speaker_intervals", to={}), "not those of the utterances' speakers"),
        (set_value("interval", "low", to=float("nan")), "finite number"),
        (
            set_value(
                "group_intervals", to={"x": {"words": {"low": 1, "high": 2}, "chars": {"low": 1, "high": 2}}}
            ),
            "not those of the utterances' groups",
        ),
        (set_value("num_runs", to=0), "greater than or equal to 1"),
        (set_value("wer", to=12.0), "not the figures of its utterances: wer"),
    ],
)
def test_damaged_score_json_is_refused(folders, change, message):
    data = json.loads(score_files.dump_json(score_files.score_files(*folders)))
    change(data)
    (folders[1] / "score.json").write_text(json.dumps(data))
    with pytest.raises(ScoringError, match=rf"score\.json: .*{message}.*'adaptkit score' writes it again"):
        score_files.read(folders[1] / "score.json")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"wer": 1}', "[" * 10**5, "1" * 5000, '{"a": "\\ud800"}']
)
def test_broken_score_json_is_refused_with_its_name(tmp_path, content):
    (tmp_path / "score.json").write_text(content)
    with pytest.raises(ScoringError, match=r"score\.json: .*'adaptkit score' writes it again"):
        score_files.read(tmp_path / "score.json")


def test_result_starts_as_kaldi_writes_it(folders):
    lines = score_files.format_report(score_files.score_files(*folders)).splitlines()
    assert lines[0] == "%WER 50.00 [ 3 / 6, 1 ins, 1 del, 1 sub ]"
    assert lines[1].startswith("%CER ")
    assert lines[2].endswith("resamples of 2 speakers and their utterances)")


def test_result_has_a_row_per_speaker(folders):
    rows = [
        line.split()
        for line in score_files.format_report(score_files.score_files(*folders)).splitlines()[-2:]
    ]
    assert rows[0][:7] == ["ann", "1", "3", "1", "0", "1", "66.67"]
    assert rows[1][:7] == ["bob", "1", "3", "0", "1", "0", "33.33"]


def test_alignments_stand_in_kaldis_form(folders):
    text = score_files.format_report(score_files.score_files(*folders), with_alignments=True)
    assert text.endswith(
        "ann-1 ref  the cat sat ***\n"
        "ann-1 hyp  the bat sat down\n"
        "ann-1 op   C   S   C   I\n"
        "ann-1 #csid 2 1 1 0\n"
        "bob-1 ref  on the mat\n"
        "bob-1 hyp  on *** mat\n"
        "bob-1 op   C  D   C\n"
        "bob-1 #csid 2 0 0 1\n"
    )
