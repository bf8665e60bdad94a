"""Times of words, and subtitles."""

import pytest

from adaptkit.base.search.paths import BestPath
from adaptkit.decoding.transcripts import Segment, Transcript, Word, find_words, format_srt, format_vtt
from adaptkit.tokens import TokenList, bpe_tokens

CHARACTERS = TokenList(("<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"))


def words_of(tokens, path, **options):
    found = find_words(tokens, path, **{"start_sec": 0.0, "frame_sec": 0.04, "end_sec": 100.0, **options})
    return None if found is None else [(word.text, word.start_sec, word.end_sec) for word in found]


def test_a_word_lasts_from_its_first_token_to_its_last():
    path = BestPath([3, 4, 2, 5], 0.0, spans=((2, 3), (5, 7), (9, 10), (20, 25)))

    assert words_of(CHARACTERS, path) == [("AB", 0.08, 0.28), ("C", 0.8, 1.0)]
    assert words_of(CHARACTERS, path, start_sec=30.0, end_sec=30.9) == [
        ("AB", 30.08, 30.28),
        ("C", 30.8, 30.9),
    ]


def test_spaces_around_the_words_belong_to_none():
    path = BestPath([2, 3, 2, 2, 4, 2], 0.0, spans=((0, 1), (1, 2), (2, 3), (4, 5), (6, 7), (8, 9)))

    assert words_of(CHARACTERS, path) == [("A", 0.04, 0.08), ("B", 0.24, 0.28)]


def test_pieces_of_bpe_are_joined_to_words(tmp_path):
    tokens = bpe_tokens(["AB AB CAB", "CA B"], 10, tmp_path / "bpe.model")
    ids = tokens.encode("CAB AB")
    spans = tuple((3 * index, 3 * index + 1) for index in range(len(ids)))

    found = words_of(tokens, BestPath(ids, 0.0, spans=spans))

    assert [word for word, *_ in found] == ["CAB", "AB"]
    assert (found[0][1], found[1][2]) == (0.0, pytest.approx(0.04 * spans[-1][1]))


def test_nothing_is_no_word_and_no_times_give_none():
    assert words_of(CHARACTERS, BestPath([], 0.0, spans=())) == []
    assert words_of(CHARACTERS, BestPath([3], 0.0)) is None


@pytest.fixture
def transcript():
    """An hour's recording: words, a pause, more of them than a subtitle holds, and a part without times."""
    many = [Word("b", 5 + second, 5.5 + second) for second in range(9)]
    words = (Word("a", 1.0, 1.5), Word("<a&b>", 1.6, 2.0), *many)
    text = " ".join(word.text for word in words)
    last = Segment(3600.0, 3601.25, (("last", -2.0),), None, None)
    return Transcript("x.wav", 3601.25, (Segment(0.0, 30.0, ((text, -1.0),), words, "eve"), last))


def test_subtitles_end_at_pauses_and_when_they_are_full(transcript):
    blocks = [block.splitlines() for block in format_srt(transcript).strip().split("\n\n")]

    assert [block[2] for block in blocks] == ["a <a&b>", "b b b b b b b", "b b", "last"]
    assert [block[0] for block in blocks] == ["1", "2", "3", "4"]
    assert blocks[0][1] == "00:00:01,000 --> 00:00:02,000"
    assert blocks[3][1] == "01:00:00,000 --> 01:00:01,250"


def test_marks_of_webvtt_are_escaped(transcript):
    blocks = format_vtt(transcript).strip().split("\n\n")

    assert blocks[:2] == ["WEBVTT", "00:00:01.000 --> 00:00:02.000\na &lt;a&amp;b&gt;"]


def test_scores_are_summed_and_empty_texts_leave_no_space():
    parts = [Segment(0.0, 1.0, ((text, -1.0),), (), None) for text in ("a", "", "b")]
    transcript = Transcript("x", 3.0, tuple(parts))

    assert (transcript.text, transcript.score, format_srt(transcript)) == ("a b", -3.0, "")
