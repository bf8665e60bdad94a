"""Token lists of characters, of words, or of BPE pieces (Kudo and Richardson, 2018, arXiv:1808.06226).

The order is ESPnet's: `<blank>` is token 0, followed by `<unk>` and the pieces; `<sos/eos>` is last.
"""

import io
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import sentencepiece

from adaptkit.characters import split_words
from adaptkit.errors import CheckpointError, DataError, counted, listed, shell_word, shorten
from adaptkit.files import replacing, require_regular

_LOG = logging.getLogger(__name__)
BLANK, UNK, SPACE, SOS_EOS = "<blank>", "<unk>", "<space>", "<sos/eos>"
WORD_START = "\u2581"  # in the pieces of sentencepiece
_SPECIAL = (BLANK, UNK, SPACE, SOS_EOS)
NUM_SPECIAL = 3  # <blank>, <unk> and <sos/eos>, which BPE has besides characters
_UNKNOWN = "\u2585"  # sentencepiece's own mark: it drops a line that contains it
_MOST = 1_000_000  # tokens; sentencepiece takes memory for as many as it is asked for
_APOSTROPHES = "'\u2019"
_SPOKEN = "%\u2030&@#+=\u00d7\u00f7\u00b1\u00b0\u00a7"  # signs that are read aloud, besides currencies


@dataclass(frozen=True)
class Spelling:
    """How texts are split into tokens; the defaults are those of ESPnet."""

    unit: Literal["char", "word", "bpe"] | None = (
        None  # None: pieces if there is a BPE model, else characters
    )
    symbols: tuple[str, ...] = ()  # among characters, what is one token: <NOISE>
    space: str = SPACE
    unknown: str = UNK
    delimiter: str | None = None  # between words; None: white space
    clean: Callable[[str], str] | None = None  # applied to a text first
    has_marks: bool = False  # whether tokens in < and > are no part of a text, as those of OWSM


@dataclass(frozen=True)
class TokenList:
    """The output tokens of a recogniser; `bpe` is the content of a sentencepiece file, or None."""

    tokens: tuple[str, ...]
    bpe: bytes | None = field(default=None, repr=False)
    spelling: Spelling = Spelling()
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.tokens:
            raise CheckpointError("the token list is empty")
        if len(set(self.tokens)) != len(self.tokens):
            raise CheckpointError(f"the token list contains duplicates ({len(self.tokens)} tokens)")
        if self.tokens[0] != BLANK:
            raise CheckpointError(f"the first token is '{self.tokens[0]}'; CTC needs {BLANK} there")
        object.__setattr__(self, "_ids", {token: index for index, token in enumerate(self.tokens)})

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text; what is not in the list becomes `<unk>`.

        >>> TokenList((BLANK, UNK, SPACE, "A", "B", SOS_EOS)).encode("AB A")
        [3, 4, 2, 3]
        """
        unknown = self._ids.get(self.spelling.unknown, 0)
        return [self._ids.get(piece, unknown) for piece in self._split(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; blanks and sentence marks are dropped, `<unk>` is kept without marks.

        >>> TokenList((BLANK, UNK, SPACE, "A", "B", SOS_EOS)).decode([0, 3, 4, 2, 3, 5])
        'AB A'
        """
        pieces = [self.tokens[index] for index in ids if not self._is_mark(self.tokens[index])]
        return " ".join(split_words(self._join(pieces)))

    def _is_mark(self, token: str) -> bool:
        is_marked = self.spelling.has_marks and token.startswith("<") and token.endswith(">")
        return is_marked or token in (BLANK, SOS_EOS)

    def unknown_in(self, text: str) -> list[str]:
        """Return the pieces of a text that are not in the list, sorted."""
        return sorted(set(self._split(text)).difference(self._ids))

    def respell(self, text: str) -> str:
        """Return a text as the recogniser writes it: in its case, and without the punctuation that it lacks.

        Punctuation becomes a space and an apostrophe nothing, as neither is spoken. What is spoken stays even
        where no token spells it, as digits, `%` or `€`, so that the text still matches the speech.
        `unknown_in` finds it, and the caller decides: `data fix` drops the utterance, and whoever has typed
        the text is asked for words.

        >>> TokenList((BLANK, UNK, SPACE, "'", "A", "B", SOS_EOS)).respell("Ab, A\u2019b-a: 2!")
        "AB A'B A 2"
        """
        if not self.unknown_in(text):
            return text
        forms = [self._rewrite(text, case) for case in (str, str.upper, str.lower)]
        return min(forms, key=lambda form: len(self.unknown_in(form)))

    def _rewrite(self, text: str, case: Callable[[str], str]) -> str:
        """Return a text in a case, without unknown punctuation; tokens such as <NOISE> stay as they are."""
        parts = self._marked.split(text)  # the tokens are in every second place
        parts[::2] = [self._drop_punctuation(case(part)) for part in parts[::2]]
        return " ".join(split_words("".join(parts)))

    def _drop_punctuation(self, text: str) -> str:
        known = self.characters
        for one, other in (_APOSTROPHES, reversed(_APOSTROPHES)):
            if one not in known and other in known:
                text = text.replace(one, other)
        lost = (mark for mark in set(text).difference(known) if _is_silent(mark))
        return text.translate({ord(mark): "" if mark in _APOSTROPHES else " " for mark in lost})

    @cached_property
    def _marked(self) -> re.Pattern[str]:
        """A pattern of the tokens that stand for no word, such as <NOISE>, with a group around each."""
        named = {token for token in self.tokens if token.startswith("<") and token.endswith(">")}
        symbols = named.union(self.spelling.symbols).difference(_SPECIAL)
        whole = sorted((symbol for symbol in symbols if symbol in self._split(symbol)), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, whole))})" if whole else "(?!)")

    @cached_property
    def characters(self) -> frozenset[str]:
        """The characters of all tokens but special ones such as `<unk>`, and those that stand for no word."""
        special = {token for token in self.tokens if len(token) > 2 and token[0] == "<"}
        tokens = set(self.tokens).difference(special, self.spelling.symbols)
        return frozenset("".join(tokens)) - {WORD_START}

    def _split(self, text: str) -> list[str]:
        rules = self.spelling
        text = " ".join(split_words(text if rules.clean is None else rules.clean(text)))
        if not text:
            return []
        if rules.unit == "word":
            return text.split(rules.delimiter)
        if self.bpe is not None:
            return self._processor.encode(text, out_type=str)
        if rules.unit == "bpe":
            raise CheckpointError(
                "the model's tokens are of BPE, but its config.yaml names no bpemodel, which splits texts; "
                "add 'bpemodel: bpe.model' with the sentencepiece model it was trained with"
            )
        units = self._units.findall(text) if self._symbols else text
        return [rules.space if unit == " " else unit for unit in units]

    def _join(self, pieces: Sequence[str]) -> str:
        if self.spelling.unit == "word":
            return " ".join(pieces)
        if self.bpe is not None:
            return self._processor.decode_pieces(list(pieces))
        joined = "".join(" " if piece in (SPACE, self.spelling.space) else piece for piece in pieces)
        return joined if self.spelling.unit == "char" else joined.replace(WORD_START, " ")

    @cached_property
    def _symbols(self) -> list[str]:
        """The symbols of several characters that are one token, the longest first."""
        own = self.tokens if self.spelling.unit == "char" else ()
        symbols = {token for token in own if len(token) > 1 and token not in _SPECIAL}
        return sorted(symbols.union(self.spelling.symbols), key=len, reverse=True)

    @cached_property
    def _units(self) -> re.Pattern[str]:
        """A pattern of characters, and of symbols that are one token: of several, the longest."""
        return re.compile("|".join([*map(re.escape, self._symbols), "."]), re.DOTALL)

    @cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.bpe)


def _is_silent(character: str) -> bool:
    """Whether a character is punctuation or a symbol that nobody says."""
    category = unicodedata.category(character)
    return category[0] in "PS" and category != "Sc" and character not in _SPOKEN


def read_bpe(path: Path) -> bytes:
    """Read a sentencepiece model; another or no file is a CheckpointError."""
    require_regular(path)
    content = path.read_bytes()
    try:
        if not sentencepiece.SentencePieceProcessor(model_proto=content).get_piece_size():
            raise RuntimeError("it has no pieces")
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not a sentencepiece model: {error}") from error
    return content


def char_tokens(texts: Iterable[str]) -> TokenList:
    """Make a token list of the characters that occur in the texts.

    >>> char_tokens(["AB A"]).tokens
    ('<blank>', '<unk>', '<space>', 'A', 'B', '<sos/eos>')
    """
    words = [word for text in texts for word in split_words(text)]
    _refuse_reserved(words, WORD_START)
    return TokenList((BLANK, UNK, SPACE, *sorted(set("".join(words))), SOS_EOS))


def bpe_tokens(texts: Sequence[str], num_tokens: int, model_path: Path) -> TokenList:
    """Train BPE on texts, write the sentencepiece model and return its list of `num_tokens` tokens.

    Texts are split as they are, without the NFKC normalisation that is sentencepiece's default: it would turn
    characters such as ½, ligatures and half-width kana into others, which references do not contain.
    """
    texts = [text for text in (" ".join(split_words(text)) for text in texts) if text]
    if not texts:
        raise DataError("there are no texts to train BPE on; add the references, or set tokens.type to char")
    _refuse_reserved(texts, f"{WORD_START}{_UNKNOWN}")
    smallest = len(set("".join(texts)) | {" "}) + NUM_SPECIAL
    model, largest = _train_bpe(texts, num_tokens if num_tokens >= smallest else _MOST)
    if model is None or num_tokens < smallest:
        kinds = f"{len(texts)} texts with {smallest - NUM_SPECIAL} different characters"
        remedy = f"set it from {smallest} to {largest}"
        raise DataError(f"tokens.size: {num_tokens} BPE tokens cannot be made of {kinds}; {remedy}")
    with replacing(model_path) as temporary:
        temporary.write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(index) for index in range(1, processor.get_piece_size())]
    return TokenList((BLANK, UNK, *pieces, SOS_EOS), model)


def _train_bpe(texts: Sequence[str], num_tokens: int) -> tuple[bytes | None, int]:
    """Return a sentencepiece model of BPE and its size; None and the largest size if that is too small."""
    file = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            model_type="bpe",
            vocab_size=min(num_tokens, _MOST) - 2,  # sentencepiece counts <unk>, not <blank> and <sos/eos>
            bos_id=-1,
            eos_id=-1,
            unk_id=0,
            character_coverage=1.0,
            normalization_rule_name="identity",
            max_sentence_length=10 + max(len(text.encode()) for text in texts),  # it drops longer ones
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        largest = re.search(r"Vocabulary size too high .* <= (\d+)", str(error))
        if largest is None:
            raise DataError(f"sentencepiece made no BPE of {len(texts)} texts: {error}") from error
        return None, int(largest[1]) + 2
    return file.getvalue(), num_tokens


def _refuse_reserved(texts: Iterable[str], reserved: str) -> None:
    """Refuse texts with characters that mean something else among tokens."""
    found = sorted({f"U+{ord(c):04X}" for text in texts for c in reserved if c in text})
    if found:
        raise DataError(
            f"the texts contain {listed(found)}, which token lists reserve; replace it in the texts"
        )


def refuse_unknown(tokens: TokenList, texts: Mapping[str, str], where: str, base: str) -> None:
    """Refuse texts with pieces outside a base model's tokens; the error names utterances and pieces."""
    unknown = _find_unknown(tokens, texts)
    if unknown:
        raise DataError(
            f"{where}/text: {counted(len(unknown), 'utterance')} with {_describe(unknown)}, not among the "
            f"base model's {len(tokens.tokens)} tokens: {listed(sorted(unknown), 5)}; {_remedy(where, base)}"
        )


def warn_of_unknown(tokens: TokenList, texts: Mapping[str, str], where: str, base: str) -> None:
    """Warn of references with pieces outside a base model's tokens, which it can never recognise."""
    unknown = _find_unknown(tokens, texts)
    if not unknown:
        return
    utt_id = next(iter(unknown))
    what = f"{len(unknown)} of {counted(len(texts), 'reference')} with {_describe(unknown)}"
    why = "which the base model has no tokens for: whatever it recognises, these words count as errors"
    example = f"as in {utt_id}: '{shorten(texts[utt_id], 60)}'"
    _LOG.warning("%s/text: %s, %s, %s; %s", where, what, why, example, _remedy(where, base))


def _find_unknown(tokens: TokenList, texts: Mapping[str, str]) -> dict[str, list[str]]:
    return {utt_id: pieces for utt_id, text in texts.items() if (pieces := tokens.unknown_in(text))}


def _describe(unknown: Mapping[str, Sequence[str]]) -> str:
    return listed(sorted({repr(piece) for pieces in unknown.values() for piece in pieces}))


def _remedy(where: str, base: str) -> str:
    command = f"'adaptkit data fix {shell_word(where)} --base {shell_word(base)}'"
    return f"{command} respells them as the model does, or drops them"
