"""Transcribe audio files, or arrays of samples, without a data directory: `adaptkit transcribe`."""

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from numpy.typing import ArrayLike

from adaptkit.adapters.per_task import SHARED
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.dataset import make_examples
from adaptkit.decoding.pauses import cut
from adaptkit.decoding.transcripts import Segment, Transcript, find_words
from adaptkit.errors import AdaptkitError, ConfigError, DataError, counted, listed, nearest
from adaptkit.files import held_in_memory, replacing, require_regular
from adaptkit.kaldi.audio import read_segments
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.recording import opened
from adaptkit.model.recognise import Hypothesis

if TYPE_CHECKING:
    from adaptkit.decoding.recognizer import Recognizer

MOST_SEC = 30.0  # longest audio recognised in one piece: the utterances of most corpora are shorter
_MOST_BYTES = 1 << 30  # of an array, 4.6 hours at 16 kHz
_NOBODY = "-"  # the speaker of audio whose speaker is not named
Speakers = str | Sequence[str | None] | None


def transcribe_files(
    recognizer: "Recognizer",
    files: Sequence[str | Path],
    speaker: Speakers = None,
    *,
    most_sec: float = MOST_SEC,
) -> list[Transcript]:
    """Transcribe audio files in batches; the order of the files is kept.

    Without a speaker, or for a speaker without adapters, the base model transcribes alone or with adapters
    that all speakers share, unless the files are routed. A file that is not audio raises DataError.
    """
    if isinstance(files, str | Path):
        raise ConfigError(f"{files}: one file where a list is expected; write [{str(files)!r}]")
    files = [Path(file) for file in files]
    for file in files:
        require_regular(file)
    return _transcribe(recognizer, [(str(file), str(file.resolve())) for file in files], speaker, most_sec)


def transcribe_arrays(
    recognizer: "Recognizer",
    arrays: Sequence[ArrayLike],
    rate_hz: int,
    speaker: Speakers = None,
    *,
    most_sec: float = MOST_SEC,
) -> list[Transcript]:
    """Transcribe samples (N,) like files with the same samples, which are held in memory."""
    names = [f"array {index}" for index in range(len(arrays))]
    contents = [_as_wav(name, array, rate_hz) for name, array in zip(names, arrays, strict=True)]
    starts = accumulate(map(len, contents), initial=0)
    with held_in_memory(b"".join(contents)) as archive:  # a file each would be more than a process may open
        places = [(name, f"{archive}:{start}") for name, start in zip(names, starts, strict=False)]
        try:
            return _transcribe(recognizer, places, speaker, most_sec)
        except AdaptkitError as error:
            message = str(error)
            for name, location in reversed(places):  # :1200 before :120
                message = message.replace(location, name)
            raise type(error)(message) from error


def _transcribe(
    recognizer: "Recognizer", places: Sequence[tuple[str, str]], speaker: Speakers, most_sec: float
) -> list[Transcript]:
    """Transcribe recordings, given their names and locations."""
    speakers = [speaker] * len(places) if speaker is None or isinstance(speaker, str) else list(speaker)
    if len(speakers) != len(places):
        figures = counted(len(speakers), "speaker"), counted(len(places), "recording")
        raise ConfigError(f"{figures[0]} for {figures[1]}; name one for each, or one")
    for one in dict.fromkeys(speakers):
        _refuse_unknown(recognizer, one)
    if not places:
        return []
    base = recognizer.base
    most_sec = min(most_sec, base.prompting.most_sec) if base.prompting else most_sec
    with tempfile.TemporaryDirectory() as temporary:
        recordings: dict[str, str] = {}
        parts: list[list[_Part]] = []  # parts of each recording
        first = {name: index for index, (name, _) in reversed([*enumerate(places)])}
        for index, ((name, location), own) in enumerate(zip(places, speakers, strict=True)):
            shown = name if first[name] == index else f"{name} (number {index + 1})"
            folder = Path(temporary, f"{index}")
            held = _divide(location, f"{index}", most_sec, name=shown, folder=folder, rate_hz=base.rate_hz)
            recordings |= {piece.recording: piece.location for piece in held}
            parts.append([_describe(piece, shown, own, is_whole=len(held) == 1) for piece in held])
        utterances = tuple(part.utterance for own in parts for part in own)
        data = DataDir(Path(places[0][0]).parent, utterances, recordings)
        decoded = recognizer.recognise(make_examples(data, base), with_times=True)
    found = {hypothesis.utt_id: hypothesis for hypothesis in decoded.hypotheses}
    return [
        Transcript(
            name,
            own[-1].end_sec,
            tuple(_read(base, part, found[part.utterance.utt_id], decoded.used) for part in own),
        )
        for (name, _), own in zip(places, parts, strict=True)
    ]


@dataclass(frozen=True)
class _Piece:
    """A recording or a part of one, and the location of its samples."""

    recording: str
    location: str
    start_sec: float  # in the recording, as the end
    end_sec: float
    is_file: bool = False  # of its own


@dataclass(frozen=True)
class _Part:
    """An utterance, and its times in the recording."""

    utterance: Utterance
    start_sec: float
    end_sec: float


def _divide(
    location: str, recording: str, most_sec: float, *, name: str, folder: Path, rate_hz: int
) -> list[_Piece]:
    """Cut a recording that is too long.

    A format that can only be decoded from its beginning is decoded once, with a file in `folder` per part.
    """
    with opened(location) as (header, file):
        is_in_order = not file.seekable()
    spans = cut(header, most_sec, name=name)
    if len(spans) == 1 or not is_in_order:
        return [_Piece(recording, location, *span) for span in spans]
    pieces = []
    for number, samples in enumerate(read_segments(location, spans, rate_hz=rate_hz)):
        if isinstance(samples, DataError):
            raise samples
        path = folder / f"{number}.wav"
        with replacing(path) as temporary:
            temporary.write_bytes(_as_wav(location, samples, rate_hz))
        pieces.append(_Piece(f"{recording}-{number}", str(path), *spans[number], is_file=True))
    return pieces


def _describe(piece: _Piece, name: str, speaker: str | None, *, is_whole: bool) -> _Part:
    """Describe a piece as an utterance, whose id is used in messages."""
    utt_id = name if is_whole else f"{name} from {piece.start_sec:.2f} s"
    span = (0.0, None) if piece.is_file else (piece.start_sec, piece.end_sec)
    utterance = Utterance(utt_id, speaker or _NOBODY, piece.recording, "", *span)
    return _Part(utterance, piece.start_sec, piece.end_sec)


def _read(base: BaseModel, part: _Part, found: Hypothesis, used: Mapping[str, str | None]) -> Segment:
    """Return the hypothesis of a part with its times in the recording."""
    return Segment(
        start_sec=part.start_sec,
        end_sec=part.end_sec,
        nbest=tuple((base.tokens.decode(path.tokens), path.score) for path in found.nbest),
        words=find_words(
            base.tokens,
            found.nbest[0],
            start_sec=part.start_sec,
            frame_sec=base.subsampling * base.frame_shift_ms / 1000,
            end_sec=part.end_sec,
        ),
        submodel=used.get(part.utterance.utt_id),
    )


def _as_wav(name: str, array: ArrayLike, rate_hz: int) -> bytes:
    """Return a WAV file with the samples of an array, bit for bit as 32-bit floats."""
    samples = np.asarray(array)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise DataError(
            f"{name}: expected samples (N,) as floats with full scale 1, not {samples.dtype} of shape "
            f"{samples.shape}; divide 16-bit samples by 32768, and choose one channel"
        )
    if samples.size * 4 > _MOST_BYTES:
        raise DataError(f"{name}: {samples.size} samples; write it to a file and use transcribe_files")
    content = io.BytesIO()
    soundfile.write(content, samples.astype(np.float32), rate_hz, format="WAV", subtype="FLOAT")
    return content.getvalue()


def _refuse_unknown(recognizer: "Recognizer", speaker: str | None) -> None:
    """Refuse per-speaker adapters, unless the speaker is named and has adapters.

    With a shared adapter among them, every speaker has adapters.
    """
    stack, options = recognizer.adapters, recognizer.options
    if stack is None or options.is_routed or (recognizer.submodels is None and not stack.num_per_task):
        return
    known = recognizer.known
    if SHARED in known and options.unknown_speaker == "error":
        return
    if speaker is None:
        raise ConfigError(
            f"the adapters belong to {counted(len(known), 'speaker')} ({listed(known, 8)}); name one with "
            "--speaker, have one chosen with --route likelihood, or use --base alone, without --exp and "
            "--submodels"
        )
    if speaker not in known and options.unknown_speaker == "error":
        near = nearest(speaker, known) or f"; known: {listed(known, 8)}"
        remedy = "with --unknown-speaker base, the base model transcribes alone"
        raise ConfigError(f"--speaker {speaker}: has no adapters ({remedy}){near}")
