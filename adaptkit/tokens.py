"""Tokens: characters, or BPE pieces by sentencepiece (Kudo and Richardson, 2018, arXiv:1808.06226).

The list follows ESPnet: `<blank>` is token 0, then `<unk>`, then the pieces, and `<sos/eos>` is the last.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import sentencepiece

from adaptkit.errors import CheckpointError, DataError, listed
from adaptkit.files import replacing

BLANK, UNK, SPACE, SOS_EOS = "<blank>", "<unk>", "<space>", "<sos/eos>"


@dataclass(frozen=True)
class TokenList:
    """What a recogniser's outputs mean; `bpe_model` is a sentencepiece file, None for characters."""

    tokens: tuple[str, ...]
    bpe_model: Path | None = None
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.tokens:
            raise CheckpointError("the token list is empty")
        if len(set(self.tokens)) != len(self.tokens):
            raise CheckpointError(f"the token list holds a token twice ({len(self.tokens)} tokens)")
        if self.tokens[0] != BLANK:
            raise CheckpointError(f"the first token is '{self.tokens[0]}'; CTC needs {BLANK} there")
        object.__setattr__(self, "_ids", {token: index for index, token in enumerate(self.tokens)})

    def encode(self, text: str) -> list[int]:
        """Give the token ids of a text; what the list does not hold becomes `<unk>`.

        >>> TokenList((BLANK, UNK, SPACE, "A", "B", SOS_EOS)).encode("AB A")
        [3, 4, 2, 3]
        """
        unknown = self._ids.get(UNK, 0)
        return [self._ids.get(piece, unknown) for piece in self._split(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Give the text of token ids; blank and sentence marks vanish, `<unk>` stays visible.

        >>> TokenList((BLANK, UNK, SPACE, "A", "B", SOS_EOS)).decode([0, 3, 4, 2, 3, 5])
        'AB A'
        """
        pieces = [self.tokens[index] for index in ids if self.tokens[index] not in (BLANK, SOS_EOS)]
        joined = "".join(" " if piece == SPACE else piece for piece in pieces)
        return " ".join(
            joined.replace("\u2581", " ").split()
        )  # \u2581 marks the start of a word in sentencepiece

    def unknown_in(self, text: str) -> list[str]:
        """Give the pieces of a text that the list does not hold."""
        return sorted({piece for piece in self._split(text) if piece not in self._ids})

    def _split(self, text: str) -> list[str]:
        if self.bpe_model is not None:
            return self._processor.encode(text, out_type=str)
        return [SPACE if character == " " else character for character in " ".join(text.split())]

    @cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        try:
            return sentencepiece.SentencePieceProcessor(model_file=str(self.bpe_model))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{self.bpe_model}: not a sentencepiece model: {error}") from error


def char_tokens(texts: Iterable[str]) -> TokenList:
    """Make the list of the characters that occur in some texts.

    >>> char_tokens(["AB A"]).tokens
    ('<blank>', '<unk>', '<space>', 'A', 'B', '<sos/eos>')
    """
    characters = sorted({character for text in texts for character in text if not character.isspace()})
    return TokenList((BLANK, UNK, SPACE, *characters, SOS_EOS))


def bpe_tokens(texts: Sequence[str], num_tokens: int, model_path: Path) -> TokenList:
    """Train BPE on some texts, write the sentencepiece model, and list its `num_tokens` tokens."""
    with replacing(model_path) as temporary, open(temporary, "wb") as file:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=file,
                model_type="bpe",
                vocab_size=num_tokens - 2,  # sentencepiece counts <unk>, not <blank> and <sos/eos>
                bos_id=-1,
                eos_id=-1,
                unk_id=0,
                character_coverage=1.0,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise DataError(f"BPE with {num_tokens} tokens on {len(texts)} texts failed: {error}") from error
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
    pieces = [processor.id_to_piece(index) for index in range(1, processor.get_piece_size())]
    return TokenList((BLANK, UNK, *pieces, SOS_EOS), model_path)


def refuse_unknown(tokens: TokenList, texts: dict[str, str], where: str) -> None:
    """Refuse texts with pieces outside the token list, naming the utterances and the pieces."""
    unknown = {utt_id: tokens.unknown_in(text) for utt_id, text in texts.items()}
    unknown = {utt_id: pieces for utt_id, pieces in unknown.items() if pieces}
    if not unknown:
        return
    pieces = sorted({repr(piece) for found in unknown.values() for piece in found})
    raise DataError(
        f"{where}/text: {len(unknown)} utterances hold {listed(pieces)}, outside the base model's "
        f"{len(tokens.tokens)} tokens: {listed(sorted(unknown), 5)}; spell them with the model's tokens "
        "or leave these utterances out"
    )
