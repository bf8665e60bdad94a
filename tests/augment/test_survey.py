"""What a policy does to a corpus: shares by length, warnings, and the picture."""

from pathlib import Path

import matplotlib.image
import pytest
import torch

from adaptkit.augment import plot, survey
from adaptkit.augment.corpus import Corpus
from adaptkit.augment.describe import describe_policy
from adaptkit.augment.policy import Policy, read_policy
from adaptkit.errors import ConfigError
from adaptkit.features.fbank import FbankOptions
from adaptkit.kaldi.datadir import DataDir, Utterance

ADAPTIVE = {"time_warp": 80, "time_masks_ratio": 0.04, "time_width_ratio": 0.04}  # of LibriFullAdapt
BINS = {"freq_masks": 2, "freq_width": 27}


def new_policy(**spec):
    return Policy.model_validate({"spec": spec})


def one_mask(width):
    """One time mask of always the same width."""
    return new_policy(time_masks=1, time_width=[width, width + 1])


def new_corpus(*num_frames):
    utterances = tuple(Utterance(f"utt{index:04}", "spk", "call", "A") for index in range(len(num_frames)))
    data = DataDir(Path("data/train"), utterances, {"call": "call.wav"})
    return Corpus(data, torch.tensor(num_frames), 80, FbankOptions())


def rows_of(policy, *num_frames):
    return survey.survey_policy("policy", policy, new_corpus(*num_frames)).rows


def warnings_of(policy, *num_frames):
    return " / ".join(survey.survey_policy("policy", policy, new_corpus(*num_frames)).warnings)


def test_one_mask_of_ten_in_a_hundred_frames_masks_a_tenth():
    row, whole = rows_of(one_mask(10), 100, 100, 100)

    assert (row.name, row.num_utterances, row.num_frames, row.num_time_masks) == ("1 to 1", 3, 100, 1)
    assert (row.frames_masked, row.expected, row.measured) == pytest.approx((0.1, 0.1, 0.1))
    assert whole.name == "all"


def test_two_masks_overlap_as_worked_by_hand():
    (row, _) = rows_of(new_policy(time_masks=2, time_width=[1, 2]), 2)

    assert row.expected == pytest.approx(0.5)  # both start in [0, 1): the last place is never reached
    assert row.measured == pytest.approx(0.5)


def test_frequency_masks_are_in_the_values_and_not_in_the_frames():
    (row, _) = rows_of(new_policy(freq_masks=1, freq_width=[20, 21]), 100)

    assert (row.frames_masked, row.expected) == pytest.approx((0.0, 0.25))  # 20 of 80 bins


def test_number_of_adaptive_masks_follows_the_length():
    rows = rows_of(new_policy(**ADAPTIVE), 100, 500, 1000)

    assert [row.num_time_masks for row in rows[:-1]] == [4, 20, 20]  # floor(0.04 tau), at most 20
    assert rows[-1].num_time_masks == pytest.approx(44 / 3)


def test_masks_that_are_always_of_width_zero_are_not_counted():
    (row, _) = rows_of(new_policy(**ADAPTIVE), 49)  # floor(0.04 * 49) = 1, and widths are below it

    assert (row.num_time_masks, row.expected, row.measured) == (0, 0, 0)


@pytest.mark.parametrize("spec", [{**ADAPTIVE, **BINS}, {"time_masks": 2, "time_width": 100, **BINS}])
def test_measured_shares_are_the_expected_ones(spec):
    rows = rows_of(new_policy(**spec), 60, 130, 420, 900, 1600, 1700)

    assert len(rows) > 3
    assert [row.measured for row in rows] == pytest.approx([row.expected for row in rows], abs=0.02)


def test_utterances_of_no_more_than_twice_the_window_are_not_warped():
    rows = rows_of(new_policy(**ADAPTIVE), 160, 161, 500)

    assert rows[-1].warped == pytest.approx(2 / 3)


def test_rows_are_between_round_lengths_and_hold_every_utterance():
    rows = rows_of(one_mask(10), *range(37, 900))

    assert len(rows) == 9
    assert sum(row.num_utterances for row in rows[:-1]) == rows[-1].num_utterances == 863
    assert [row.name for row in rows[:2]] == ["0.37 to 1.5", "1.5 to 2.5"]


def test_a_bound_has_no_closed_form_and_is_drawn():
    policy = new_policy(time_masks=1, time_width=[30, 31], freq_masks=1, freq_width=[20, 21], most_masked=0.4)
    bounded = new_policy(**{**policy.spec.model_dump(), "most_masked": 0.25})

    for shown, share in ((policy, 0.25), (bounded, 0.25)):  # 0.475 in all; the time mask is left out
        (row, _) = rows_of(shown, 100)
        assert (row.expected, row.measured) == pytest.approx((share, share))


@pytest.mark.slow
def test_many_utterances_are_drawn_evenly():
    rows = rows_of(new_policy(**ADAPTIVE), *range(100, 4100))

    assert rows[-1].measured == pytest.approx(rows[-1].expected, abs=0.01)


def test_hardly_masked_utterances_are_warned_of():
    assert "3 of 3 utterances (100.0 %, 1.00 to 1.00 s) are expected to lose less than 5 %" in warnings_of(
        one_mask(4), 100, 100, 100
    )
    assert not warnings_of(one_mask(6), 100, 100, 100)


def test_mostly_hidden_utterances_are_warned_of():
    warned = warnings_of(one_mask(51), 100, 200, 200, 200)

    assert warned.startswith("1 of 4 utterances (25.0 %, 1.00 to 1.00 s) are expected to lose over 50 %")
    assert "most_masked: 0.5" in warned
    assert not warnings_of(one_mask(49), 100, 200)


def test_hardly_masked_frames_are_warned_of_where_bins_are_masked():
    warned = warnings_of(new_policy(**{**ADAPTIVE, **BINS, "time_warp": 0}), 60, 500)

    assert (
        "1 of 2 utterances (50.0 %, 0.60 to 0.60 s) are expected to lose less than 3 % of their frames"
        in warned
    )


def test_lengths_without_a_warp_are_warned_of_with_a_window_that_fits():
    policy = new_policy(time_warp=80)

    assert "2 of 3 utterances (66.7 %, 1.00 to 1.60 s) are not warped" in warnings_of(policy, 100, 160, 161)
    assert "time_warp: 49 warps 100 %" in warnings_of(policy, 100, 160, 161)
    assert "not warped" not in warnings_of(policy, 161, 200)


def test_utterances_without_a_frame_are_warned_of():
    warned = warnings_of(one_mask(10), 0, 100)

    assert warned.startswith("1 of 2 utterances (50.0 %, 0.00 to 0.00 s) contain no frames")
    assert "adaptkit data fix data/train --min-sec" in warned


def test_warnings_go_to_the_log_and_into_the_table(caplog, tmp_path):
    shown = survey.survey_policy("faint", one_mask(1), new_corpus(100))
    survey.write(shown, tmp_path)

    assert f"faint: {shown.warnings[0]}" in caplog.messages
    assert f"- warning: {shown.warnings[0]}\n" in (tmp_path / "table.md").read_text()
    assert shown.warnings[0] not in survey.format_survey(shown)


def test_a_policy_without_masks_has_a_table_of_lengths():
    shown = survey.survey_policy("plain", Policy(), new_corpus(100, 100))

    assert "none: features are unchanged" in survey.format_survey(shown)
    assert survey.format_survey(shown).splitlines()[-1].split() == ["all", "2", "100.0"]


def test_masks_wider_than_the_features_are_refused():
    with pytest.raises(
        ConfigError, match="wide on data/train: freq_width .0, 81. is wider than features of 80 bins"
    ):
        survey.survey_policy("wide", new_policy(freq_masks=1, freq_width=81), new_corpus(100))


def test_a_written_policy_is_the_same_when_it_is_read(tmp_path):
    policy = Policy.model_validate(
        {"spec": {**ADAPTIVE, **BINS}, "noise": {"noises": ["data/noise"]}, "mix": {"masks_on": "all"}}
    )
    survey.write(survey.survey_policy("policy", policy, new_corpus(300)), tmp_path)

    assert read_policy(tmp_path / "policy.yaml") == policy
    assert "most_time_masks: 20" in (tmp_path / "policy.yaml").read_text()


def test_a_policy_is_said_in_words():
    noise = {"noises": ["data/noise"], "snr_db": [5, 20], "room_share": 0}
    parts = {"spec": {**ADAPTIVE, **BINS}, "noise": noise, "mix": {"noisy": 0.3}, "speed": [0.9, 1.0, 1.1]}

    assert describe_policy(Policy.model_validate(parts)) == [
        "speed: 0.9, 1, 1.1, each with probability 0.333",
        "time warp: up to 80 frames, for utterances longer than 160",
        "frequency masks: 2, 0 to 26 bins wide",
        "time masks: 4 per 100 frames, at most 20, 0 to below 4 % of the utterance wide",
        "masked values: zero",
        "noise: data/noise, SNR 5 to 20 dB",
        "utterances: 30 % noisy, 70 % masked, 0 % both, 0 % neither",
    ]


def test_stacked_masks_are_on_noisy_utterances_too():
    mix = {"noisy": 0.25, "masks_on": "all"}
    policy = Policy.model_validate({"spec": BINS, "noise": {"noises": ["data/noise"]}, "mix": mix})

    assert describe_policy(policy)[-1] == "utterances: 25 % noisy, 100 % masked, 25 % both, 0 % neither"


def test_masked_values_are_white_in_the_picture(examples_corpus):
    before, after = plot.make_panels({"one": one_mask(3)}, examples_corpus)

    changed = (before.feats != after.feats).any(dim=1)
    assert changed.sum() == 3
    assert not after.feats[changed].any()
    assert before.feats.mean(dim=0).abs().max() < 1e-4


def test_noise_has_a_panel_of_its_own(examples_corpus, tmp_path):
    location = next(iter(examples_corpus.data.recordings.values()))
    (tmp_path / "noise.scp").write_text(f"noise {location}\n")
    noise = {"noises": [str(tmp_path / "noise.scp")], "snr_db": [10, 10], "room_share": 0}
    policy = Policy.model_validate({"spec": {"freq_masks": 1, "freq_width": 5}, "noise": noise})

    panels = plot.make_panels({"mixed": policy}, examples_corpus)

    assert [panel.title for panel in panels][1:] == ["mixed: masked", "mixed: noisy, 10 dB"]
    assert panels[2].feats.shape == panels[0].feats.shape


def test_the_picture_is_not_blank_and_the_same_in_every_call(examples_corpus, tmp_path):
    shown = [
        survey.survey_policy("one", one_mask(3), examples_corpus),
        survey.survey_policy("plain", Policy(), examples_corpus),
    ]

    for name in ("first.png", "second.png"):
        plot.draw(shown, examples_corpus, tmp_path / name)

    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    assert matplotlib.image.imread(tmp_path / "first.png")[..., :3].std() > 0.05
