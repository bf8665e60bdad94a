"""The recogniser that decode, transcribe and serve share, as a library offers it."""

import os
import resource
import weakref

import numpy as np
import pytest
import soundfile
import torch

import adaptkit as library
from adaptkit.errors import AdaptkitError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.tables import read_table


@pytest.fixture(scope="module")
def arrays(corpus):
    """The samples of the validation set, by utterance."""
    data = datadir.read(corpus / "data/valid")
    return {u.utt_id: soundfile.read(data.recordings[u.recording])[0] for u in data.utterances}


@pytest.fixture
def recognizer(base, base_dir, exp, export, new_stack):
    """The tiny recogniser with the Submodels of three speakers."""
    submodels = export(new_stack(base, is_trained=True))
    with library.Recognizer.from_pretrained(base_dir, submodels=submodels) as made:
        yield made


def speaker_of(utt_id):
    return utt_id.rpartition("-")[0]


def test_arrays_are_transcribed_as_decoding_does(adaptkit, recognizer, exp, corpus, arrays, tmp_path):
    out = tmp_path / "out"
    done = adaptkit("decode", exp, corpus / "dump/valid", "--out", out, "--search", "greedy")
    assert done.exit_code == 0, done.stderr
    texts, scores = read_table(out / "text"), read_table(out / "utt2score")
    speakers = [speaker_of(utt_id) for utt_id in arrays]

    found = recognizer.transcribe(list(arrays.values()), 8000, speakers)

    assert [one.text for one in found] == [texts[utt_id] for utt_id in arrays]
    assert [one.score for one in found] == pytest.approx(
        [float(scores[utt_id]) for utt_id in arrays], abs=1e-3
    )
    assert [one.submodel for one in found] == speakers


def test_more_arrays_are_transcribed_than_files_may_be_open(recognizer):
    limits, most = resource.getrlimit(resource.RLIMIT_NOFILE), 20 + max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
    try:
        found = recognizer.transcribe([np.zeros(300)] * most, 8000, "spk1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [one.name for one in found] == [f"array {number}" for number in range(most)]


def test_what_python_is_likely_to_pass_by_mistake_is_refused(recognizer, base_dir, exp, tmp_path):
    with pytest.raises(
        AdaptkitError, match=r"one.wav: one file where a list is expected; write \['one.wav'\]"
    ):
        recognizer.transcribe_files("one.wav", speaker="spk10")
    with pytest.raises(AdaptkitError, match="an experiment with adapters, not a base model; name its base"):
        library.Recognizer.from_pretrained(exp)
    with pytest.raises(AdaptkitError, match="a base model, where trained adapters are expected"):
        library.Recognizer.from_pretrained(base_dir, adapters=base_dir)
    with pytest.raises(AdaptkitError, match="--device cuda:99: not available"):
        library.Recognizer.from_pretrained(base_dir, device="cuda:99")


def test_one_array_gives_one_transcript_with_times(recognizer, arrays):
    samples = arrays["spk10-00"]

    found = recognizer.transcribe(torch.from_numpy(samples), rate_hz=8000, speaker="spk10")

    (segment,) = found.segments
    times = [time for word in segment.words for time in (word.start_sec, word.end_sec)]
    assert [word.text for word in segment.words] == found.text.split()
    assert times == sorted(times)
    assert (segment.start_sec, segment.end_sec) == (0.0, len(samples) / 8000)
    assert 0 <= times[0] < times[-1] <= segment.end_sec


def test_a_search_by_beam_has_times_too(base_dir, arrays):
    search = {"kind": "beam", "ctc_weight": 1.0, "beam_size": 3}
    made = library.Recognizer.from_pretrained(base_dir, search=search)

    found = made.transcribe(arrays["spk10-00"], 8000)

    assert [word.text for word in found.segments[0].words] == found.text.split()
    assert found.submodel is None


def test_any_speaker_and_any_name_of_one_file_are_told_apart(recognizer, arrays, tmp_path):
    soundfile.write(tmp_path / "x.wav", arrays["spk1-00"], 8000, subtype="FLOAT")
    alone = [recognizer.transcribe(arrays["spk1-00"], 8000, name).score for name in ("spk1", "spk2")]

    both = recognizer.transcribe_files([tmp_path / "x.wav"] * 2, ["spk1", "spk2"])

    assert [one.score for one in both] == pytest.approx(alone, abs=1e-4)
    assert [one.name for one in both] == [str(tmp_path / "x.wav")] * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([np.zeros(800), np.full(800, np.nan)], "array 1: samples reach nan"),
        ([np.zeros(800, dtype=np.int16)], "array 0: expected samples .* divide 16-bit samples by 32768"),
        ([np.zeros((2, 800))], "array 0: expected samples"),
        ([np.zeros(0)], "array 0: contains no samples"),
    ],
)
def test_an_array_that_is_no_speech_is_named(recognizer, given, message):
    with pytest.raises(AdaptkitError, match=message):
        recognizer.transcribe(given, 8000, "spk1")


def test_speakers_must_be_known_and_one_for_each(recognizer, arrays):
    samples = arrays["spk1-00"]

    with pytest.raises(AdaptkitError, match="the adapters belong to 3 speakers"):
        recognizer.transcribe(samples, 8000)
    with pytest.raises(AdaptkitError, match="speaker spk3: has no adapters"):
        recognizer.transcribe(samples, 8000, "spk3")
    with pytest.raises(AdaptkitError, match="2 speakers for 1 recording; name"):
        recognizer.transcribe([samples], 8000, ["spk1", "spk2"])
    assert recognizer.transcribe([], 8000, "spk1") == []


def test_what_is_too_short_for_the_encoder_is_silence(recognizer):
    found = recognizer.transcribe(np.full(200, 0.1), 8000, "spk1")

    assert (found.text, found.score, found.segments[0].words) == ("", 0.0, ())


class Full:
    """Makes the encoder ask for more memory than there is for more than `most` rows."""

    def __init__(self, encoder, most):
        self.sizes, self.most, self.last, self.num_held = [], most, None, 0
        self.handle = encoder.register_forward_pre_hook(self)

    def __call__(self, module, args):
        self.sizes.append(len(args[0]))
        self.num_held += self.last is not None and self.last() is not None
        self.last = weakref.ref(args[0])
        if len(args[0]) > self.most:
            torch.empty(1 << 60, dtype=torch.uint8)


@pytest.fixture
def fill(recognizer):
    """Let the encoder run out of memory for more than some number of rows."""
    made = []

    def run(most):
        made.append(Full(recognizer.base.model.encoder, most))
        return made[-1]

    yield run
    for full in made:
        full.handle.remove()


def test_batches_are_halved_until_they_fit_in_memory(recognizer, arrays, fill, caplog):
    samples = [arrays["spk1-00"]] * 5
    expected = recognizer.transcribe(samples, 8000, "spk1")
    full = fill(2)

    found = recognizer.transcribe(samples, 8000, "spk1")

    assert full.sizes == [5, 2, 3, 1, 2]
    assert full.num_held == 0  # of the passes before
    assert [one.text for one in found] == [one.text for one in expected]
    assert "out of memory with a batch of 5, which is divided" in caplog.text


def test_an_utterance_that_does_not_fit_by_itself_is_named(recognizer, arrays, fill):
    fill(0)

    with pytest.raises(AdaptkitError, match="array 0: takes more memory than there is .*DefaultCPUAllocator"):
        recognizer.transcribe(arrays["spk1-00"], 8000, "spk1")


def test_long_recordings_are_cut_and_keep_their_times(recognizer, arrays, tmp_path):
    pytest.importorskip("silero_vad", reason="adaptkit[long] is not installed")
    samples = np.concatenate([arrays["spk1-00"], np.zeros(8000), arrays["spk1-01"]])

    found = recognizer.transcribe(samples, 8000, "spk1", max_sec=1.5)

    edges = [(segment.start_sec, segment.end_sec) for segment in found.segments]
    assert len(edges) >= 2
    assert edges[0][0] == 0.0
    assert edges[-1][1] == len(samples) / 8000
    assert [end for _, end in edges[:-1]] == [start for start, _ in edges[1:]]
    for segment in found.segments:
        times = [time for word in segment.words for time in (word.start_sec, word.end_sec)]
        assert all(segment.start_sec <= time <= segment.end_sec for time in times)
    assert found.text == " ".join(s.text for s in found.segments if s.text)


def test_a_format_that_cannot_seek_is_cut_alike(recognizer, arrays, tmp_path):
    pytest.importorskip("silero_vad", reason="adaptkit[long] is not installed")
    samples = np.concatenate([arrays["spk1-00"], np.zeros(8000), arrays["spk1-01"]])
    soundfile.write(tmp_path / "x.mp3", samples, 8000)
    decoded = read_audio(str(tmp_path / "x.mp3"), rate_hz=8000)

    (found,) = recognizer.transcribe_files([tmp_path / "x.mp3"], "spk1", max_sec=1.5)

    expected = recognizer.transcribe(decoded, 8000, "spk1", max_sec=1.5)
    assert len(found.segments) >= 2
    assert found.segments == expected.segments
