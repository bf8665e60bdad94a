"""Filterbanks against Kaldi's recipe written out in numpy; statistics against numpy and ESPnet."""

import json

import numpy as np
import pytest
import torch

from adaptkit.errors import ConfigError, DataError
from adaptkit.features.fbank import FbankOptions, cmvn_stats, log_mel, read_options, write_cmvn

OPTIONS = FbankOptions()


def noise(num_samples, seed=0):
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def mel(hz):
    return 1127 * np.log(1 + hz / 700)


def kaldi_fbank(speech, rate=16000, num_bins=80, size=400, shift=160, padded=512):
    """Follow feature-window.cc and mel-computations.cc of Kaldi in float64."""
    starts = range(0, len(speech) - size + 1, shift)
    frames = np.stack([speech[start : start + size] for start in starts]) * 32768
    frames -= frames.mean(axis=1, keepdims=True)
    frames -= 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames *= (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))) ** 0.85  # Povey's window
    power = np.abs(np.fft.rfft(frames, padded)) ** 2
    edges = np.linspace(mel(20), mel(rate / 2), num_bins + 2)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = mel(np.arange(padded // 2 + 1) * rate / padded)[None]
    weights = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clip(0)
    return np.log(np.maximum(power @ weights.T, np.finfo(np.float32).eps))


def test_filterbanks_are_those_of_kaldi_written_out_in_numpy():
    speech = noise(8000)
    expected = kaldi_fbank(speech.double().numpy())
    np.testing.assert_allclose(log_mel(speech, OPTIONS).numpy(), expected, atol=1e-3)


def test_filterbanks_at_8_khz_with_40_bins_are_those_of_kaldi():
    speech = noise(4000)
    expected = kaldi_fbank(speech.double().numpy(), 8000, num_bins=40, size=200, shift=80, padded=256)
    np.testing.assert_allclose(log_mel(speech, FbankOptions(rate_hz=8000, num_bins=40)), expected, atol=1e-3)


def test_a_tone_is_loudest_in_the_bin_of_its_frequency():
    speech = 0.1 * torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)
    centres = np.linspace(mel(20), mel(8000), 82)[1:-1]
    loudest = log_mel(speech, OPTIONS).mean(dim=0).argmax()
    assert loudest == np.abs(centres - mel(1000)).argmin()


@pytest.mark.parametrize("num_samples", [400, 559, 560, 16000, 16123])
def test_number_of_frames_is_the_number_of_whole_windows(num_samples):
    assert len(log_mel(noise(num_samples), OPTIONS)) == OPTIONS.count_frames(num_samples)


def test_no_window_fits_in_399_samples():
    assert OPTIONS.count_frames(399) == 0
    assert OPTIONS.count_frames(100) == 0


def test_speech_shorter_than_a_window_is_refused_with_both_lengths():
    with pytest.raises(DataError, match="399 samples are shorter than one window of 400"):
        log_mel(noise(399), OPTIONS)


def test_the_same_speech_gives_the_same_features_bit_for_bit():
    assert torch.equal(log_mel(noise(5000), OPTIONS), log_mel(noise(5000), OPTIONS))


def test_options_survive_a_round_trip_through_a_dict():
    options = FbankOptions(rate_hz=8000, num_bins=40)
    assert FbankOptions.from_dict(options.to_dict()) == options


def test_an_unknown_option_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="no option 'num_bin'; did you mean 'num_bins'"):
        FbankOptions.from_dict({"num_bin": 40})


@pytest.mark.parametrize(
    "wrong", [{"low_hz": 9000.0}, {"high_hz": 8001.0}, {"num_bins": 3}, {"shift_ms": 0.0}]
)
def test_options_that_no_filterbank_can_have_are_refused(wrong):
    with pytest.raises(ConfigError):
        FbankOptions(**wrong)


def test_more_bins_than_the_spectrum_can_fill_are_refused():
    with pytest.raises(ConfigError, match="1 of 128 mel bins are empty at 16000 Hz"):
        FbankOptions(num_bins=128)


def test_statistics_give_the_mean_and_deviation_of_all_frames():
    feats = [torch.from_numpy(np.random.default_rng(seed).normal(10, 3, (50 + seed, 8))) for seed in range(4)]
    stats, frames = cmvn_stats(feats), torch.cat(feats).numpy()
    mean = stats.sum / stats.num_frames
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats.sum_square / stats.num_frames - mean**2, frames.var(axis=0), rtol=1e-9)


def test_statistics_of_no_features_are_refused():
    with pytest.raises(DataError, match="no features"):
        cmvn_stats([])


def test_global_mvn_of_espnet_reads_the_statistics_and_normalises_with_them(tmp_path):
    from espnet2.layers.global_mvn import GlobalMVN

    feats = 7 + 3 * noise(40000).view(500, 80)
    write_cmvn(tmp_path / "feats_stats.npz", cmvn_stats([feats]))
    normalised, _ = GlobalMVN(tmp_path / "feats_stats.npz")(feats[None].clone())
    torch.testing.assert_close(normalised[0].mean(dim=0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised[0].std(dim=0, correction=0), torch.ones(80), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_bins": 1e9},
        {"num_bins": 10**9},
        {"num_bins": "80"},
        {"num_bins": True},
        {"rate_hz": 10**12},
        {"window_ms": 1e9},
        {"window_ms": float("nan")},
        {"shift_ms": 0},
        {"low_hz": None},
        {"high_hz": [1]},
        {"bins": 80},
    ],
    ids=str,
)
def test_options_that_no_features_have_are_refused_before_memory_is_taken(tmp_path, changes):
    (tmp_path / "feats.json").write_text(json.dumps({**OPTIONS.to_dict(), **changes}))
    with pytest.raises(DataError, match="feats.json: not feature options: .*; 'adaptkit feats' writes it"):
        read_options(tmp_path / "feats.json")


@pytest.mark.parametrize("text", ["", "[]", "5", "null", "[" * 100_000, '{"num_bins": ' + "9" * 5000 + "}"])
def test_a_file_of_options_that_is_damaged_is_refused(tmp_path, text):
    (tmp_path / "feats.json").write_text(text)
    with pytest.raises(DataError, match="feats.json: not feature options"):
        read_options(tmp_path / "feats.json")
