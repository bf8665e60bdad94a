import logging
from dataclasses import replace
from pathlib import Path

import pytest

from adaptkit.errors import DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.subset import (
    choose_first,
    choose_per_speaker,
    choose_random,
    choose_speakers,
    combine,
    save,
    subset,
)

UTT_IDS = [f"{speaker}-{number}" for speaker in "abc" for number in range(5)]
UTTERANCES = tuple(Utterance(utt_id, utt_id[0], utt_id, "WORD") for utt_id in UTT_IDS)
DATA = DataDir(
    path=Path("data"),
    utterances=UTTERANCES,
    recordings={utt_id: f"{utt_id}.wav" for utt_id in UTT_IDS},
    feats={utt_id: f"feats.ark:{number}" for number, utt_id in enumerate(UTT_IDS)},
    duration_sec=dict.fromkeys(UTT_IDS, 1.0),
)


def test_subset_keeps_what_belongs_to_its_utterances_and_no_more():
    part = subset(DATA, ["b-3", "a-1"], path=Path("part"))
    assert part == DataDir(
        path=Path("part"),
        utterances=(UTTERANCES[1], UTTERANCES[8]),
        recordings={"a-1": "a-1.wav", "b-3": "b-3.wav"},
        feats={"a-1": "feats.ark:1", "b-3": "feats.ark:8"},
        duration_sec={"a-1": 1.0, "b-3": 1.0},
    )


def test_first_are_the_first_in_order():
    assert choose_first(DATA, 6) == UTT_IDS[:6]


def test_random_choice_is_that_of_its_seed():
    once, again, other = (choose_random(DATA, 6, seed=seed) for seed in (1, 1, 2))
    assert once == again != other
    assert len(set(once)) == 6


def test_per_speaker_choice_is_evenly_spaced():
    assert choose_per_speaker(DATA, 2) == ["a-0", "a-2", "b-0", "b-2", "c-0", "c-2"]


def test_per_speaker_choice_takes_all_of_a_speaker_with_few():
    assert choose_per_speaker(DATA, 9) == UTT_IDS


def test_speakers_bring_all_their_utterances():
    assert choose_speakers(DATA, ["c", "a"]) == UTT_IDS[:5] + UTT_IDS[10:]


def test_unknown_utterance_is_refused_with_the_nearest():
    with pytest.raises(DataError, match="data: has no utterances a-11; did you mean 'a-1'"):
        subset(DATA, ["a-1", "a-11"], path=Path("part"))


def test_unknown_speaker_is_refused():
    with pytest.raises(DataError, match="data: has no speakers d"):
        choose_speakers(DATA, ["a", "d"])


def test_more_utterances_than_there_are_is_refused():
    with pytest.raises(DataError, match="has 15 utterances, not 16"):
        choose_first(DATA, 16)


def test_empty_subset_is_refused():
    with pytest.raises(DataError, match="the subset has no utterances"):
        subset(DATA, [], path=Path("part"))


def test_overlapping_parts_combine_into_the_whole():
    parts = [subset(DATA, UTT_IDS[start : start + 8], path=Path(str(start))) for start in (7, 0)]
    assert combine(parts, path=DATA.path) == DATA


def test_utterances_that_differ_under_one_id_are_refused():
    other = replace(DATA, path=Path("other"), utterances=(replace(UTTERANCES[0], text="OTHER"),))
    with pytest.raises(DataError, match=r"conflicting utterances: a-0 \(data, other\)"):
        combine([DATA, other], path=Path("all"))


def test_recordings_that_differ_under_one_name_are_refused():
    other = replace(DATA, path=Path("other"), recordings={**DATA.recordings, "a-0": "elsewhere.wav"})
    with pytest.raises(DataError, match=r"conflicting recordings: a-0 \(data, other\)"):
        combine([DATA, other], path=Path("all"))


def test_features_are_kept_only_where_every_part_has_them():
    parts = [subset(DATA, UTT_IDS[:8], path=Path("a")), subset(DATA, UTT_IDS[8:], path=Path("b"))]
    whole = combine([parts[0], replace(parts[1], feats=None)], path=Path("all"))
    assert whole.feats is None
    assert whole.duration_sec == DATA.duration_sec


def test_groups_are_kept_only_where_every_part_has_them(caplog):
    grouped = replace(DATA, utterances=tuple(replace(u, group=u.speaker) for u in UTTERANCES))
    parts = [subset(grouped, UTT_IDS[start : start + 8], path=Path(str(start))) for start in (0, 7)]
    assert combine(parts, path=DATA.path) == grouped
    assert caplog.messages == []
    assert combine([parts[0], subset(DATA, UTT_IDS[7:], path=Path("bare"))], path=DATA.path) == DATA
    assert caplog.messages == ["no groups are kept, since bare has none; write its utt2group first"]


def test_whole_recordings_and_segments_combine(folder, tmp_path):
    data = datadir.read(folder.path)
    cut = Utterance("cara-1", "cara", "cara", "SEVEN", 1.0, 2.5)
    made = combine([data, DataDir(tmp_path / "cut", (cut,), {"cara": "c.wav"})], path=tmp_path / "all")
    datadir.write(made)
    assert datadir.read(tmp_path / "all") == made


def test_directory_is_not_replaced_by_its_own_part(folder):
    data = datadir.read(folder.path)
    with pytest.raises(DataError, match="would overwrite the directory it is made from"):
        save(subset(data, ["anna-1"], path=folder.path / ".." / "data"), [data])


def test_options_of_features_go_along(tmp_path):
    source = replace(DATA, path=tmp_path / "source")
    source.path.mkdir()
    (source.path / "feats.json").write_text("{}")
    save(subset(source, ["a-1"], path=tmp_path / "part"), [source])
    options, locations = tmp_path / "part" / "feats.json", tmp_path / "part" / "wav.scp"
    assert options.read_text() == "{}"
    assert options.stat().st_mtime_ns <= locations.stat().st_mtime_ns  # should the run be killed


def test_tables_that_are_left_behind_are_named(folder, tmp_path, caplog):
    folder.write("spk2gender", "anna f\nbert m\n")
    data = datadir.read(folder.path)
    with caplog.at_level(logging.INFO):
        save(subset(data, ["anna-1"], path=tmp_path / "part"), [data])
    assert f"{tmp_path}/part: written without spk2gender, which adaptkit does not use" in caplog.text


def test_what_described_the_features_of_an_earlier_directory_is_removed(tmp_path):
    (tmp_path / "part").mkdir()
    for name in ("feats.json", "utt2num_frames"):
        (tmp_path / "part" / name).write_text("a-1 7")
    save(subset(DATA, ["a-1"], path=tmp_path / "part"), [DATA])
    assert sorted(path.name for path in (tmp_path / "part").iterdir()) == [
        "feats.scp", "spk2utt", "text", "utt2dur", "utt2spk", "wav.scp"]  # fmt: skip


@pytest.mark.parametrize("other", ['{"num_bins": 40}', None])
def test_features_of_different_or_unknown_options_are_not_combined(tmp_path, other):
    parts = [replace(subset(DATA, UTT_IDS[:3], path=tmp_path / "a")), replace(DATA, path=tmp_path / "b")]
    for part, options in zip(parts, ("{}", other), strict=True):
        part.path.mkdir()
        if options is not None:
            (part.path / "feats.json").write_text(options)
    with pytest.raises(DataError, match="different features"):
        save(combine(parts, path=tmp_path / "all"), parts)


def test_features_that_not_all_have_are_dropped_with_a_message(caplog):
    caplog.set_level("INFO")
    part = replace(subset(DATA, UTT_IDS[:3], path=Path("part")), feats=None)
    assert combine([DATA, part], path=Path("all")).feats is None
    assert "no features are kept, since part has none" in caplog.text
