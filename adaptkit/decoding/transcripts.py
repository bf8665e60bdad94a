"""Transcripts with times, and their formats: json, SubRip (srt) and WebVTT (vtt)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from adaptkit.base.search.paths import BestPath
from adaptkit.tokens import TokenList

_CUE_SEC = 7.0  # longest subtitle, and its characters: two lines of 42
_CUE_CHARACTERS = 84
_PAUSE_SEC = 1.0  # pause between words that ends a subtitle


@dataclass(frozen=True)
class Word:
    """A word and the times at which CTC emits its tokens, in seconds from the start of the recording.

    CTC emits a token near the middle of its sound, so the times are accurate to about 0.1 s.
    """

    text: str
    start_sec: float
    end_sec: float


@dataclass(frozen=True)
class Segment:
    """The hypotheses of one piece: a recording, or a part of a long one."""

    start_sec: float
    end_sec: float
    nbest: tuple[tuple[str, float], ...]  # texts and their scores, best first
    words: tuple[Word, ...] | None  # words of the best text; None if the model's CTC does not locate them
    submodel: str | None  # whose weights were used; None for the base model alone

    @property
    def text(self) -> str:
        """The best text."""
        return self.nbest[0][0]

    @property
    def score(self) -> float:
        """The score of the best text."""
        return self.nbest[0][1]


@dataclass(frozen=True)
class Transcript:
    """The transcript of a recording."""

    name: str  # of its file
    duration_sec: float
    segments: tuple[Segment, ...]  # in the order of time

    @property
    def text(self) -> str:
        """The text of all segments."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def score(self) -> float:
        """The sum of the segments' scores, log probabilities."""
        return sum(segment.score for segment in self.segments)

    @property
    def submodel(self) -> str | None:
        """Whose weights were used; for a routed long recording, those of its first segment."""
        return self.segments[0].submodel


def find_words(
    tokens: TokenList, path: BestPath, *, start_sec: float, frame_sec: float, end_sec: float
) -> tuple[Word, ...] | None:
    """Return the words of a hypothesis with their times, given the duration of an encoder frame in seconds.

    A token that adds no character, such as a space, belongs to no word. The result is None if the tokens have
    no times, or if the text differs from the joined texts of its tokens, as with byte tokens.
    """
    if path.spans is None:
        return None
    numbered, before = [], ""  # (number of the word, its frames) of every token that adds to the text
    for count, span in enumerate(path.spans, start=1):
        text = tokens.decode(path.tokens[:count])
        if text != before:
            numbered.append((len(text.split()) - 1, span))
        before = text
    spoken = before.split()
    if [number for number, _ in groupby(number for number, _ in numbered)] != list(range(len(spoken))):
        return None
    spans = [[span for _, span in own] for _, own in groupby(numbered, key=lambda one: one[0])]
    return tuple(
        Word(
            text,
            round(start_sec + own[0][0] * frame_sec, 3),
            round(min(start_sec + own[-1][1] * frame_sec, end_sec), 3),
        )
        for text, own in zip(spoken, spans, strict=True)
    )


def format_json(transcript: Transcript) -> str:
    """Format a transcript as a line of json."""
    content = {
        "file": transcript.name,
        "text": transcript.text,
        "score": round(transcript.score, 4),
        "duration_sec": round(transcript.duration_sec, 3),
        "submodel": transcript.submodel,
        "segments": [_describe(segment) for segment in transcript.segments],
    }
    return json.dumps(content, ensure_ascii=False)


def _describe(segment: Segment) -> dict[str, object]:
    words = segment.words
    return {
        "start_sec": round(segment.start_sec, 3),
        "end_sec": round(segment.end_sec, 3),
        "text": segment.text,
        "score": round(segment.score, 4),
        "submodel": segment.submodel,
        "nbest": [{"text": text, "score": round(score, 4)} for text, score in segment.nbest],
        "words": None
        if words is None
        else [{"word": w.text, "start_sec": w.start_sec, "end_sec": w.end_sec} for w in words],
    }


def format_srt(transcript: Transcript) -> str:
    """Format a transcript as SubRip subtitles."""
    cues = enumerate(_cues(transcript), start=1)
    blocks = [f"{n}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n" for n, (start, end, text) in cues]
    return "\n".join(blocks)


def format_vtt(transcript: Transcript) -> str:
    """Format a transcript as WebVTT subtitles, in which `&`, `<` and `>` are written as entities."""
    blocks = ["WEBVTT\n"]
    for start, end, text in _cues(transcript):
        plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{plain}\n")
    return "\n".join(blocks)


def _cues(transcript: Transcript) -> Iterator[tuple[float, float, str]]:
    """Yield start, end and text of each subtitle: some words, or a segment if words have no times."""
    for segment in transcript.segments:
        if segment.words is None and segment.text:
            yield segment.start_sec, segment.end_sec, segment.text
        for words in _group(segment.words or ()):
            yield words[0].start_sec, words[-1].end_sec, " ".join(word.text for word in words)


def _group(words: Sequence[Word]) -> list[list[Word]]:
    """Group words into subtitles, which end at a pause or when they are full."""
    cues: list[list[Word]] = []
    for word in words:
        last = cues[-1] if cues else []
        num_characters = sum(len(other.text) + 1 for other in last) + len(word.text)
        is_full = not last or word.end_sec - last[0].start_sec > _CUE_SEC or num_characters > _CUE_CHARACTERS
        if is_full or word.start_sec - last[-1].end_sec > _PAUSE_SEC:
            cues.append([word])
        else:
            last.append(word)
    return cues


def _clock(seconds: float, point: str) -> str:
    """Format seconds as hours, minutes, seconds and milliseconds.

    >>> _clock(3661.5, ",")
    '01:01:01,500'
    """
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
