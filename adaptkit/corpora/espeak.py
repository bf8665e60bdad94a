"""Synthesise corpora of commands and digit strings with the voices of eSpeak NG, without downloads.

The voices are those of the wheel espeakng-loader (https://github.com/espeak-ng/espeak-ng). No sentence occurs
twice in a corpus, so sets share none. Utterances are bit-identical in every run: their random variation
depends only on their ids.
"""

import ctypes
import logging
import multiprocessing
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from adaptkit.errors import AdaptkitError, DataError, counted
from adaptkit.files import replacing
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.probing import naming_killed

RATE_HZ = 16000  # of the recordings
ESPEAK_HZ = 22050  # sampling rate of eSpeak NG

VERBS = ("OPEN", "CLOSE", "CLEAN", "PAINT", "MOVE", "FIND", "BRING", "CHECK")
COLOURS = ("RED", "GREEN", "BLUE", "WHITE", "BLACK", "YELLOW", "BROWN", "GREY")
OBJECTS = ("DOOR", "WINDOW", "LAMP", "TABLE", "RADIO", "CHAIR", "CURTAIN", "HEATER")
ROOMS = ("KITCHEN", "GARDEN", "OFFICE", "GARAGE", "BEDROOM", "HALL")
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


@dataclass(frozen=True)
class Voice:
    """The voice of one synthetic speaker."""

    speaker: str
    espeak: str  # language+variant of eSpeak NG
    wpm: int = 130  # words per minute, at least 80
    pitch: int = 50  # 0 to 99
    played_hz: int = ESPEAK_HZ  # below 22050 for a larger, deeper and slower speaker, above for a smaller one
    is_whispered: bool = False


# No variants that set `breath` (f2, f3, f5, whisper): their noise differs between processes.
ORDINARY = (
    Voice("alan", "en-us"),
    Voice("beth", "en-us+f1"),
    Voice("carl", "en+m1"),
    Voice("dora", "en+belinda"),
    Voice("earl", "en-us+m3"),
    Voice("faye", "en-us+linda"),
    Voice("greg", "en-gb-x-rp+m7"),
    Voice("hope", "en-gb-x-rp+f4"),
    Voice("ivan", "en-us+m2"),
    Voice("judy", "en-us+Annie"),
    Voice("kurt", "en-us-nyc+m4"),
    Voice("lena", "en-us+aunty"),
    Voice("mark", "en-gb-x-gbclan+m6"),
    Voice("nora", "en-gb-scotland+f1"),
)
BASE_SETS: Mapping[str, tuple[Sequence[Voice], int]] = {  # voices, and number of utterances of each
    "base_train": (ORDINARY, 72),
    "base_valid": (ORDINARY, 6),
    "base_test": (ORDINARY, 10),
}


@dataclass(frozen=True)
class Line:
    """One utterance of the script: its voice, set, number among the voice's utterances, and text."""

    voice: Voice
    part: str  # train, valid or test
    number: int  # from 1
    text: str

    @property
    def utt_id(self) -> str:
        """The utterance id, which begins with the speaker so that utterances sort by speaker."""
        return f"{self.voice.speaker}-{self.part}{self.number:03}"


def write_script(sets: Mapping[str, tuple[Sequence[Voice], int]], per_speaker: int) -> dict[str, list[Line]]:
    """Assign each sentence once, and keep the first `per_speaker` lines of each voice in each set.

    A set is `<kind>_<part>`, with its voices and the number of utterances of each; two sets of the same part
    share the lines of a common voice. Ids and sentences of a shorter script are those of the full one.
    """
    texts = iter(sentences())
    said: defaultdict[tuple[str, str, int], str] = defaultdict(lambda: next(texts))

    def say(voice: Voice, part: str, number: int) -> Line:
        return Line(voice, part, number, said[voice.speaker, part, number])

    script = {
        name: [
            say(voice, name.partition("_")[2], number) for voice in voices for number in range(1, count + 1)
        ]
        for name, (voices, count) in sets.items()
    }
    return {name: [line for line in lines if line.number <= per_speaker] for name, lines in script.items()}


def sentences() -> list[str]:
    """Return every command and as many digit strings, all different, in a fixed random order."""
    places = ["", *(f" {near} {room}" for near in ("IN", "NEAR") for room in ROOMS)]
    commands = [f"{' '.join(words)}{place}" for *words, place in product(VERBS, COLOURS, OBJECTS, places)]
    numbers = [" ".join(words) for words in product(["CALL", "DIAL"], *[DIGITS] * 4)]
    rng = np.random.default_rng(0)
    return rng.permutation(commands + rng.choice(numbers, len(commands), replace=False).tolist()).tolist()


def synthesise_corpus(data: Path, script: Mapping[str, Sequence[Line]], num_jobs: int) -> None:
    """Write the data directory of every set of a script, with its recordings under `wav`.

    Existing recordings are kept; after a change of voices, remove the folder.
    """
    if find_spec("espeakng_loader") is None:
        raise AdaptkitError("eSpeak NG is not installed; pip install 'adaptkit[mini]' adds espeakng-loader")
    synthesise_all({locate(data, line): line for lines in script.values() for line in lines}, num_jobs)
    for name, lines in script.items():
        write_data_dir(data / name, lines)


def locate(data: Path, line: Line) -> Path:
    """Return the path of a line's recording."""
    return data / "wav" / line.voice.speaker / f"{line.utt_id}.wav"


def synthesise_all(lines: Mapping[Path, Line], num_jobs: int) -> None:
    """Synthesise the missing recordings; several jobs are processes with one thread each."""
    missing = {path: line for path, line in lines.items() if not path.exists()}
    if not missing:
        return
    figures = len(missing), counted(len(lines), "utterance"), counted(num_jobs, "job")
    logging.info("synthesising %d of %s in %s", *figures)
    if num_jobs == 1:
        for path, line in missing.items():
            write_recording(path, line)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in a broken state
    with (
        naming_killed("speech synthesis"),
        ProcessPoolExecutor(num_jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        list(pool.map(write_recording, missing, missing.values(), chunksize=16))


def write_recording(path: Path, line: Line) -> None:
    """Synthesise one line to a 16 kHz, 16-bit file."""
    with replacing(path) as temporary:
        soundfile.write(temporary, synthesise(line), RATE_HZ, subtype="PCM_16")


def synthesise(line: Line) -> np.ndarray:
    """Return int16 samples (N) at 16 kHz; speaking rate, pitch, level and noise vary from line to line."""
    rng = np.random.default_rng(zlib.crc32(line.utt_id.encode()))
    voice = line.voice
    speech = run_espeak(
        line.text,
        voice.espeak,
        wpm=round(voice.wpm * rng.uniform(0.93, 1.07)),
        pitch=int(np.clip(voice.pitch + rng.integers(-10, 11), 0, 99)),
        pitch_range=int(rng.integers(30, 71)),
    )
    speech = resample(torch.from_numpy(speech), voice.played_hz, RATE_HZ)
    speech = (whisper(speech, rng) if voice.is_whispered else speech).double().numpy()
    level_db, noise_db = rng.uniform(-32, -22), -rng.uniform(20, 35)  # relative to full scale; to the speech
    noise = rng.standard_normal(len(speech)) * 10 ** (noise_db / 20)
    mixed = (speech / np.sqrt(np.mean(speech**2)) + noise) * 10 ** (level_db / 20)
    loudest = max(1.0, np.abs(mixed).max())  # scaled down as a whole instead of clipped
    return np.rint(mixed / loudest * 32767).astype(np.int16)


def whisper(speech: Tensor, rng: np.random.Generator) -> Tensor:
    """Convert voiced to whispered speech: random phases in frames of 8 ms, and little energy below 1 kHz."""
    window = torch.hann_window(128)  # shorter than a pitch period, so that no harmonic is resolved
    spectrum = torch.stft(speech, 128, 32, window=window, return_complex=True)
    phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, spectrum.shape)).float()
    noise = torch.istft(torch.polar(spectrum.abs(), phase), 128, 32, window=window)
    return noise[1:] - 0.97 * noise[:-1]


def write_data_dir(path: Path, lines: Sequence[Line]) -> None:
    """Write the data directory of a set, unless it is up to date."""
    recordings = {line.utt_id: str(locate(path.parent, line)) for line in lines}
    data = DataDir(
        path,
        tuple(Utterance(line.utt_id, line.voice.speaker, line.utt_id, line.text) for line in lines),
        recordings,
        duration_sec={utt_id: soundfile.info(where).duration for utt_id, where in recordings.items()},
    )
    if not is_written(data):
        datadir.write(data)
        minutes = sum(data.duration_sec.values()) / 60
        logging.info("%s: %s, %.1f minutes", path, counted(len(lines), "utterance"), minutes)


def is_written(data: DataDir) -> bool:
    """Whether the folder contains exactly these utterances and recordings; utt2dur is written last."""
    try:
        old = datadir.read(data.path)
    except DataError:  # missing or incomplete
        return False
    same = set(old.utterances) == set(data.utterances) and old.recordings == data.recordings
    return same and old.duration_sec is not None


TAKE_SAMPLES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
SYNCHRONOUS, NO_EXIT, UTF8 = 2, 0x8000, 1  # from speak_lib.h: output mode, option and flag
WPM, PITCH, PITCH_RANGE = 1, 3, 4
FUNCTIONS = {  # with argument types; espeak_Initialize returns the sampling rate, the others 0 on success
    "espeak_Initialize": [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int],
    "espeak_SetSynthCallback": [TAKE_SAMPLES],
    "espeak_SetVoiceByName": [ctypes.c_char_p],
    "espeak_SetParameter": [ctypes.c_int, ctypes.c_int, ctypes.c_int],
    "espeak_Synth": [
        *(ctypes.c_char_p, ctypes.c_size_t),  # text, bytes with the closing zero
        *(ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),  # start, its unit, end, flags
        *(ctypes.c_void_p, ctypes.c_void_p),  # identifier, user data
    ],
    "espeak_Terminate": [],
}


def run_espeak(text: str, voice: str, *, wpm: int, pitch: int, pitch_range: int) -> np.ndarray:
    """Return the output of eSpeak NG, float32 samples (N) at 22.05 kHz in the range of int16."""
    chunks: list[np.ndarray] = []

    @TAKE_SAMPLES
    def take(samples: object, count: int, _events: object) -> int:
        if count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32))
        return 0  # continue

    with fresh_espeak() as library:
        library.espeak_SetSynthCallback(take)
        if library.espeak_SetVoiceByName(voice.encode()):
            raise AdaptkitError(f"eSpeak NG has no voice '{voice}'; use one such as en-us+f1")
        for parameter, value in ((WPM, wpm), (PITCH, pitch), (PITCH_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        spoken = text.lower().encode()  # capitals might be spelt
        if library.espeak_Synth(spoken, len(spoken) + 1, 0, 0, 0, UTF8, None, None) or not chunks:
            raise AdaptkitError(f"eSpeak NG cannot synthesise '{text}' as '{voice}'; use another voice")
    return np.concatenate(chunks)


@contextmanager
def fresh_espeak() -> Iterator[ctypes.CDLL]:
    """Load a new instance of eSpeak NG, and unload it afterwards.

    It keeps the states of filters, flutter and random numbers from one utterance to the next, and has no
    function to reset them all: an utterance would depend on those before it.
    """
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    for name, arguments in FUNCTIONS.items():
        getattr(library, name).argtypes = arguments
    try:
        folder = espeakng_loader.get_data_path()
        if library.espeak_Initialize(SYNCHRONOUS, 0, folder.encode(), NO_EXIT) != ESPEAK_HZ:
            raise AdaptkitError(f"{folder}: eSpeak NG cannot start here; install espeakng-loader again")
        yield library
        library.espeak_Terminate()
    finally:
        unload = ctypes.CDLL(None).dlclose
        unload.argtypes = [ctypes.c_void_p]
        unload(library._handle)
