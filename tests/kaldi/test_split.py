"""Splits of data directories by speaker and within speakers."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from adaptkit.errors import ConfigError, DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.split import SplitOptions, read_size, split_speakers, split_within


def make(texts, group=lambda speaker, number: ""):
    """Return a directory in memory with the texts of each speaker."""
    utterances = tuple(
        Utterance(f"{name}-{n:02}", name, f"{name}-{n:02}", text, group=group(name, n))
        for name, own in sorted(texts.items())
        for n, text in enumerate(own)
    )
    return DataDir(Path("data"), utterances, {u.recording: "x.wav" for u in utterances})


def many(num_speakers=10, num_each=20):
    return {f"s{s:02}": [f"TEXT {s} {n}" for n in range(num_each)] for s in range(num_speakers)}


def texts_of(data, split):
    text = {u.utt_id: u.text for u in data.utterances}
    return [{text[utt_id] for utt_id in part} for part in split.parts]


def count(part):
    return Counter(utt_id[:3] for utt_id in part)


def test_speakers_are_divided_by_number_or_share_and_the_last_part_has_the_rest():
    data = make(many())
    for size in (3, 0.3):
        found = split_speakers(data, SplitOptions(2, (size,)))
        assert [len(count(part)) for part in found.parts] == [3, 7]
        assert sorted(found.parts[0] + found.parts[1]) == [u.utt_id for u in data.utterances]


def test_every_speaker_is_divided_alike_and_what_no_part_asks_for_is_left_out():
    found = split_within(make(many()), SplitOptions(3, (8, 2, 9)))
    assert [set(count(part).values()) for part in found.parts] == [{8}, {2}, {9}]
    assert (len(found.left_out), found.short) == (10, ())


def test_a_split_depends_on_the_seed_alone():
    data = make(many())
    one, same, other = (split_within(data, SplitOptions(2, (5,), seed=seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_shares_of_a_few_utterances_leave_none_without():
    found = split_within(make(many(4, 3)), SplitOptions(3, (0.5, 0.25, 0.25)))
    assert [set(count(part).values()) for part in found.parts] == [{1}] * 3


@pytest.mark.parametrize(("split", "size"), [(split_within, (1, 14)), (split_speakers, (14, 1))])
@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.33, 0.33, 0.34), (0.3, 0.7), (0.5, 0.25, 0.25)])
def test_shares_of_100_percent_in_all_leave_nothing_out(split, size, shares):
    found = split(make(many(*size)), SplitOptions(len(shares), shares))
    assert found.left_out == ()
    exact = [14 * share for share in shares]
    assert all(abs(len(part) - own) < 1 for part, own in zip(found.parts, exact, strict=True))


def test_a_speaker_with_few_utterances_has_proportionally_fewer_and_is_named():
    data = make({"ann": list("ABCDEF"), "bob": list("ABCDEFGHIJKL")})
    found = split_within(data, SplitOptions(2, (8, 4)))
    assert [dict(count(part)) for part in found.parts] == [{"ann": 4, "bob": 8}, {"ann": 2, "bob": 4}]
    assert found.short == ("ann: 4 of 8 in part 1", "ann: 2 of 4 in part 2")


def test_groups_keep_their_shares_among_speakers():
    data = make(many(9, 2), lambda name, _: "child" if name < "s06" else "adult")
    found = split_speakers(data, SplitOptions(3, (1 / 3, 1 / 3), is_stratified=True))
    groups = {u.utt_id: u.group for u in data.utterances}
    assert [Counter(groups[i] for i in part) for part in found.parts] == [{"child": 4, "adult": 2}] * 3


def test_groups_keep_their_shares_within_speakers():
    data = make(many(3, 12), lambda _, number: "mild" if number < 8 else "severe")
    found = split_within(data, SplitOptions(2, (0.25,), is_stratified=True))
    groups = {u.utt_id: u.group for u in data.utterances}
    counted = [Counter(groups[i] for i in part) for part in found.parts]
    assert counted == [{"mild": 6, "severe": 3}, {"mild": 18, "severe": 9}]


def test_sentences_that_many_read_are_in_one_part_which_are_found_where_they_exist():
    rng = Random(0)
    own = {f"s{s:02}": rng.sample(range(20), 10) + rng.sample(range(20, 40), 10) for s in range(25)}
    data = make({name: [f"SENTENCE {n}" for n in numbers] for name, numbers in own.items()})
    found = split_within(data, SplitOptions(2, (10, 10), has_own_texts=True))
    one, other = texts_of(data, found)
    assert not one & other
    assert len(found.left_out) < 0.2 * len(data.utterances)
    placed = {(i[:3], part): n for part, ids in enumerate(found.parts) for i, n in count(ids).items()}
    missing = {f"{name}: {n} of 10 in part {part + 1}" for (name, part), n in placed.items() if n < 10}
    assert set(found.short) == missing


def test_unlike_sentences_are_divided_exactly():
    data = make(many(5, 20))
    found = split_within(data, SplitOptions(3, (8, 2), has_own_texts=True))
    assert [set(count(part).values()) for part in found.parts] == [{8}, {2}, {10}]
    assert found.left_out == ()


def test_a_speaker_who_repeats_a_sentence_has_it_in_one_part():
    data = make({"ann": ["ONE"] * 5 + ["TWO"] * 5})
    found = split_within(data, SplitOptions(2, (0.5,), has_own_texts=True))
    assert sorted(map(len, texts_of(data, found))) == [1, 1]
    assert [len(part) for part in found.parts] == [5, 5]


def test_common_sentences_of_speakers_stay_in_the_part_that_has_most_of_them():
    data = make({f"s{s:02}": ["COMMON", f"OWN {s}"] for s in range(5)})
    found = split_speakers(data, SplitOptions(2, (2,), has_own_texts=True))
    assert "COMMON" not in texts_of(data, found)[0]
    assert [len(part) for part in found.parts] == [2, 6]
    assert len(found.left_out) == 2


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        (split_speakers, (2, (5,)), "5 speakers, too few for 5 and a rest; ask for fewer"),
        (split_within, (3, (1, 1)), "fewer utterances than parts for 5 speakers: s00"),
        (split_within, (2, (1,), True), "nothing is left for .* allow sentences in several parts"),
        (split_speakers, (2, (1,), False, True), "has no groups to keep the shares of"),
    ],
)
def test_impossible_splits_are_refused(split, options, message):
    data = make({f"s{s:02}": ["SAME", "SAME"] for s in range(5)})
    with pytest.raises(DataError, match=message):
        split(data, SplitOptions(*options))


@pytest.mark.parametrize(("num_parts", "sizes"), [(1, (1,)), (2, ()), (2, (1, 1, 1)), (2, (0.7, 0.7))])
def test_sizes_must_fit_the_parts(num_parts, sizes):
    with pytest.raises(ConfigError, match="2 parts|1 parts|more than 100 %"):
        SplitOptions(num_parts, sizes)


@pytest.mark.parametrize("word", ["x", "0", "-1", "1.5", "100%", "nan%", ""])
def test_sizes_are_numbers_or_shares(word):
    with pytest.raises(ConfigError, match="expected a number, such as 10, or a share"):
        read_size(word)


def test_the_command_writes_parts_and_lists_from_which_they_can_be_made_again(adaptkit, tmp_path, caplog):
    data = make(many(3, 4), lambda name, _: "child" if name == "s01" else "adult")
    datadir.write(DataDir(tmp_path / "all", data.utterances, data.recordings))
    dirs = [tmp_path / name for name in ("all", "adapt", "test")]
    words = ("data", "split", *dirs, "--lists", tmp_path / "lists")
    done = adaptkit(*words, "--per-spk", 1, "--per-spk", "50%", "--disjoint-texts", "--stratify")
    assert done.stdout == (
        f"{tmp_path}/adapt: 3 utterances of 3 speakers\n{tmp_path}/test: 6 utterances of 3 speakers\n"
    )
    assert "in none of the parts: 3 of 12 utterances: " in caplog.text
    adaptkit("data", "subset", dirs[0], tmp_path / "again", "--utt-list", tmp_path / "lists/test.txt")
    made, again = (datadir.read(tmp_path / name).utterances for name in ("test", "again"))
    assert made == again
    assert {u.group for u in made} == {"child", "adult"}
    assert len((tmp_path / "lists/left_out.txt").read_text().splitlines()) == 3


@pytest.mark.parametrize("words", [(), ("--speakers", 1, "--per-spk", 1)])
def test_the_command_divides_one_way(adaptkit, tmp_path, words):
    done = adaptkit("data", "split", tmp_path, tmp_path / "a", tmp_path / "b", *words)
    assert done.exit_code == 2
    assert "use one of --speakers and --per-spk" in done.stderr


def test_the_parts_have_folders_of_their_own(adaptkit, tmp_path):
    done = adaptkit("data", "split", tmp_path, tmp_path / "a", tmp_path / "a", "--speakers", 1)
    assert "use different folders for OUT" in done.stderr


def test_lists_in_the_place_of_a_file_are_refused_in_a_message(adaptkit, tmp_path):
    datadir.write(replace(make(many(2, 2)), path=tmp_path / "all"))
    (tmp_path / "lists").write_text("")
    words = ("data", "split", *(tmp_path / name for name in ("all", "a", "b")), "--speakers", 1)
    done = adaptkit(*words, "--lists", tmp_path / "lists")
    assert (done.exit_code, "a.txt: a file is in the place of a folder; choose" in done.stderr) == (1, True)
