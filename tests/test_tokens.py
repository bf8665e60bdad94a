"""Token lists: characters and BPE, there and back."""

import pickle

import pytest

from adaptkit.errors import CheckpointError, DataError
from adaptkit.tokens import (
    BLANK,
    SOS_EOS,
    SPACE,
    UNK,
    Spelling,
    TokenList,
    bpe_tokens,
    char_tokens,
    read_bpe,
    refuse_unknown,
)

TEXTS = ["AB BA", "ABBA CAB", "BAC ABC", "CAB BAC"]


@pytest.fixture
def bpe(tmp_path):
    """Twelve tokens of BPE."""
    return bpe_tokens(TEXTS, 12, tmp_path / "bpe.model")


@pytest.mark.parametrize("text", [*TEXTS, "A", "A B C"])
def test_characters_survive_a_round_trip(text):
    tokens = char_tokens(TEXTS)
    assert tokens.decode(tokens.encode(text)) == text


@pytest.mark.parametrize("text", [*TEXTS, "A", "A B C"])
def test_bpe_survives_a_round_trip(bpe, text):
    assert bpe.decode(bpe.encode(text)) == text


def test_bpe_has_the_number_of_tokens_asked_for(bpe):
    assert len(bpe.tokens) == 12
    assert (bpe.tokens[0], bpe.tokens[1], bpe.tokens[-1]) == (BLANK, UNK, SOS_EOS)


def test_bpe_uses_fewer_tokens_than_characters(bpe):
    assert len(bpe.encode("ABBA CAB")) < len("ABBA CAB")


def test_bpe_trained_again_is_the_same_file(bpe, tmp_path):
    again = bpe_tokens(TEXTS, 12, tmp_path / "again.model")
    assert again.tokens == bpe.tokens
    assert again.bpe == bpe.bpe == (tmp_path / "again.model").read_bytes()


def test_more_bpe_tokens_than_the_texts_can_give_are_refused(tmp_path):
    message = "tokens.size: 500 BPE tokens cannot be made of 4 texts with 4 .*; set it from 7 to 27"
    with pytest.raises(DataError, match=message):
        bpe_tokens(TEXTS, 500, tmp_path / "bpe.model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1, 6, 28, 2**40])
def test_bpe_takes_every_size_of_the_range_that_it_names(tmp_path, size):
    with pytest.raises(DataError, match=f"tokens.size: {size} .* from 7 to 27"):
        bpe_tokens(TEXTS, size, tmp_path / "bpe.model")
    for possible in (7, 27):
        assert len(bpe_tokens(TEXTS, possible, tmp_path / "bpe.model").tokens) == possible


@pytest.mark.parametrize(
    "text", ["12 m\u00e8tres", "2\u00bd", "\ufb01n", "\uff76\uff9e \uff71", "me\u0300tre", "\uff21\u2103"]
)
def test_bpe_leaves_characters_as_they_are(tmp_path, text):
    bpe = bpe_tokens([*TEXTS, text], 24, tmp_path / "bpe.model")
    assert bpe.decode(bpe.encode(text)) == text
    assert bpe.unknown_in(text) == []


def test_a_long_line_counts_for_bpe(tmp_path):
    long = " ".join(["DEAF"] * 2000)
    bpe = bpe_tokens([*TEXTS, long], 20, tmp_path / "bpe.model")
    assert bpe.decode(bpe.encode(long)) == long


@pytest.mark.parametrize(
    "make", [lambda texts, path: bpe_tokens(texts, 12, path), lambda texts, path: char_tokens(texts)]
)
def test_a_character_that_marks_the_start_of_a_word_is_refused(tmp_path, make):
    with pytest.raises(DataError, match=r"contain U\+2581, which token lists reserve"):
        make([*TEXTS, "A\u2581B"], tmp_path / "bpe.model")


def test_bpe_without_any_text_is_refused(tmp_path):
    with pytest.raises(DataError, match="no texts to train BPE on"):
        bpe_tokens(["", " "], 12, tmp_path / "bpe.model")


@pytest.mark.parametrize("content", [b"no model", b""])
def test_a_damaged_bpe_model_is_named(tmp_path, content):
    (tmp_path / "bpe.model").write_bytes(content)
    with pytest.raises(CheckpointError, match="bpe.model: not a sentencepiece model"):
        read_bpe(tmp_path / "bpe.model")


def test_characters_are_listed_once_and_sorted():
    assert char_tokens(["BA A", "\u00e4"]).tokens == (BLANK, UNK, SPACE, "A", "B", "\u00e4", SOS_EOS)


def test_unknown_characters_become_unk_and_stay_visible():
    tokens = char_tokens(["AB"])
    assert tokens.encode("AX") == [3, 1]
    assert tokens.decode([3, 1]) == "A<unk>"


def test_spaces_between_words_count_once():
    tokens = char_tokens(["A B"])
    assert tokens.encode("A   B ") == tokens.encode("A B")
    assert tokens.decode([2, 3, 2, 2, 4]) == "A B"


def test_no_text_gives_no_tokens_and_back():
    tokens = char_tokens(["A"])
    assert tokens.encode("") == []
    assert tokens.decode([]) == ""


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((BLANK, "A", "A"), r"contains duplicates \(3 tokens\)"),
        (("A", BLANK), "the first token is 'A'; CTC needs <blank> there"),
        ((), "the token list is empty"),
    ],
)
def test_a_list_that_ctc_cannot_use_is_refused(tokens, message):
    with pytest.raises(CheckpointError, match=message):
        TokenList(tokens)


def test_a_pickled_list_encodes_as_before(bpe):
    expected = bpe.encode("ABBA")  # has loaded its model
    twin = pickle.loads(pickle.dumps(bpe))
    assert twin == bpe
    assert twin.encode("ABBA") == expected


def test_texts_outside_the_list_are_refused_with_utterances_and_pieces():
    texts = {"utt1": "AB", "utt2": "AX", "utt3": "Y X"}
    expected = "data/train/text: 2 utterances with '<space>', 'X', 'Y', .* utt2, utt3; 'adaptkit data fix d"
    with pytest.raises(DataError, match=expected):
        refuse_unknown(TokenList((BLANK, UNK, "A", "B", SOS_EOS)), texts, "data/train", "base")


@pytest.mark.parametrize(
    ("spelt", "expected"),
    [
        ("Ab, a!", "AB A"),
        ("b-A/b \u2013 a", "B A B A"),
        ("A\u2019B", "A'B"),
        ("ab 2", "AB 2"),
        ("AB A", "AB A"),
        ("...", ""),
        ("a & b, 2%", "A & B 2%"),
        ("a+b (\u20ac)", "A+B \u20ac"),
    ],
)
def test_texts_are_respelled_in_the_case_and_punctuation_of_the_list(spelt, expected):
    assert TokenList((BLANK, UNK, SPACE, "'", "A", "B", SOS_EOS)).respell(spelt) == expected


def test_texts_that_fit_and_those_of_small_letters_and_bpe_keep_their_form(bpe):
    small = TokenList((BLANK, UNK, SPACE, ",", "a", "b", SOS_EOS))
    assert (small.respell("A, b."), small.respell("a, b")) == ("a, b", "a, b")
    assert (bpe.respell("abba, Cab."), bpe.respell("ABBA CAB")) == ("ABBA CAB", "ABBA CAB")


def test_texts_within_the_list_pass():
    assert refuse_unknown(char_tokens(TEXTS), {"utt1": "CAB"}, "data/train", "exp/base") is None


def test_marks_between_words_do_not_join_them():
    tokens = TokenList(("<blank>", "<unk>", "<space>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<sos/eos>"))
    assert tokens.respell("Wait...what, don't") == "WAIT WHAT DONT"


def test_an_apostrophe_becomes_the_one_that_the_list_has():
    curly = TokenList((BLANK, UNK, SPACE, "\u2019", "A", "B", SOS_EOS))
    assert curly.respell("a'b") == "A\u2019B"


@pytest.mark.parametrize("unit", ["char", "word"])
def test_tokens_that_stand_for_no_word_stay_as_they_are(unit):
    tokens = TokenList((BLANK, UNK, SPACE, "A", "B", "<noise>", SOS_EOS), spelling=Spelling(unit))
    assert tokens.respell("a, <noise> B.") == "A <noise> B"


def test_the_characters_of_a_symbol_are_none_of_the_list():
    tokens = TokenList((BLANK, UNK, SPACE, "A", "B", "[x]", SOS_EOS), spelling=Spelling(symbols=("[x]",)))
    assert tokens.characters == {"A", "B"}
    assert tokens.respell("a [b] [x]") == "A B [x]"
