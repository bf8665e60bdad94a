"""Long recordings are cut at pauses."""

import numpy as np
import pytest
import soundfile
import torch

from adaptkit.corpora.espeak import ESPEAK_HZ, run_espeak
from adaptkit.decoding.pauses import cut, place_cuts
from adaptkit.errors import DataError
from adaptkit.kaldi.audio import probe

WINDOW_SEC = 0.032


def chances(*parts):
    """Probabilities of speech, of parts given as (seconds, probability)."""
    return [chance for seconds, chance in parts for _ in range(round(seconds / WINDOW_SEC))]


def test_the_longest_pause_is_chosen():
    found = chances((6.4, 0.9), (0.32, 0.1), (0.64, 0.9), (0.96, 0.1), (6.4, 0.9))

    places, num_within = place_cuts(found, len(found) * WINDOW_SEC, 10)

    assert places == [pytest.approx(6.4 + 0.32 + 0.64 + 0.48)]
    assert num_within == 0


def test_without_a_pause_the_cut_is_where_speech_is_least_likely():
    found = chances((6.4, 0.9), (0.032, 0.6), (6.4, 0.9))

    places, num_within = place_cuts(found, len(found) * WINDOW_SEC, 10)

    assert places == [pytest.approx(6.4)]
    assert num_within == 1


@pytest.mark.parametrize("most_sec", [1, 2.5, 30])
def test_the_parts_are_the_whole_and_none_is_too_long(most_sec):
    generator = torch.Generator().manual_seed(0)
    found = torch.rand(5000, generator=generator).tolist()

    places, _ = place_cuts(found, 5000 * WINDOW_SEC - 0.01, most_sec)

    edges = [0.0, *places, 5000 * WINDOW_SEC - 0.01]
    lengths = np.diff(edges)
    assert max(lengths) <= most_sec
    assert min(lengths[:-1]) >= most_sec / 2 - WINDOW_SEC
    assert lengths[-1] > 0


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    """Two sentences with 1.5 s of silence between them, at eSpeak's 22.05 kHz, and where that is."""
    pytest.importorskip("silero_vad", reason="adaptkit[long] is not installed")
    pytest.importorskip("espeakng_loader", reason="adaptkit[mini] is not installed")
    path = tmp_path_factory.mktemp("long") / "long.wav"
    sentence = run_espeak("the quick brown fox jumps over it", "en-us", wpm=120, pitch=50, pitch_range=50)
    speech = sentence / 32768
    soundfile.write(path, np.concatenate([speech, np.zeros(ESPEAK_HZ * 3 // 2), speech]), ESPEAK_HZ)
    start_sec = len(speech) / ESPEAK_HZ
    return path, start_sec, start_sec + 1.5


def test_speech_is_cut_in_its_silence(long_recording):
    path, start_sec, end_sec = long_recording
    num_threads = torch.get_num_threads()

    (_, middle), (again, _) = cut(probe(str(path)), end_sec + 0.2)

    assert start_sec < middle < end_sec
    assert again == middle
    assert torch.get_num_threads() == num_threads


def test_a_damaged_recording_is_refused_while_it_is_searched(long_recording, tmp_path):
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.full(2 * 16000, 100.0), 16000, subtype="FLOAT")

    with pytest.raises(DataError, match="samples reach 100"):
        cut(probe(str(path)), 1.0)
