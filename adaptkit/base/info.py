"""Describe a base model for people: its parts, its origin and its requirements."""

import re
from collections import Counter
from contextlib import suppress

from adaptkit.base.archive import ModelFiles
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.importing import read_origin
from adaptkit.errors import AdaptkitError
from adaptkit.files import read_text

_KINDS = {"char": "characters", "word": "words"}
_CARD_LICENCE = re.compile(r"^license:[ \t]*(\S[^\n]*)", re.MULTILINE)  # in the head of a model card
_MOST_CHARACTERS = 60  # that are listed
_MOST_HEAD = 4096  # characters of a model card that are searched


def describe(base: BaseModel) -> dict[str, str]:
    """Return the lines of 'adaptkit base info' by their names."""
    kinds = Counter(site.kind for site in base.sites)
    origin, lm = read_origin(base.files), base.files.lm_model
    settings = [f"{name} {value}" for name, value in base.preprocessor.describe().items()]
    rows = {
        "source": None if origin is None else " ".join(filter(None, (origin.source, origin.revision))),
        "model": str(base.files.model),
        "encoder": type(base.model.encoder).__name__,
        "decoder": type(base.model.decoder).__name__ if base.model.decoder else "none, CTC only",
        "LM": "none" if lm is None else str(lm),
        "blocks": str(base.num_blocks),
        "width": str(base.width),
        "subsampling": str(base.subsampling),
        "input": "speech" if base.features is None else f"features of {base.features['num_bins']} bins",
        "frame shift": f"{base.frame_shift_ms:g} ms",
        "rate": f"{base.rate_hz} Hz",
        "preprocessor": "; ".join(settings) or None,
        "prompt": base.prompting and base.prompting.describe(),
        "tokens": f"{len(base.tokens.tokens)} {_describe_tokens(base)}",
        "characters": _list_characters(base),
        "parameters": f"{base.num_parameters:,}",
        "sites": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        "licence": _find_licence(base.files),
        "fingerprint": base.fingerprint,
    }
    return {name: value for name, value in rows.items() if value is not None}


def _describe_tokens(base: BaseModel) -> str:
    if base.tokens.bpe is not None:
        return "pieces of BPE"
    return _KINDS.get(
        base.tokens.spelling.unit or "char", "pieces of BPE, without the model that splits texts"
    )


def _list_characters(base: BaseModel) -> str:
    """Return the first of the characters that texts may hold besides spaces, and how many there are."""
    found = sorted(base.tokens.characters)
    more = f" and {len(found) - _MOST_CHARACTERS:,} more" if len(found) > _MOST_CHARACTERS else ""
    return "".join(found[:_MOST_CHARACTERS]) + more


def _find_licence(files: ModelFiles) -> str | None:
    """Return the licence that a model card states, and the names of licence files."""
    cards = [path for path in files.notices if path.stem.lower() == "readme" and path.is_file()]
    found = []
    for card in cards:
        with suppress(AdaptkitError):  # not UTF-8
            found += _CARD_LICENCE.findall(read_text(card)[:_MOST_HEAD])[:1]
    found += [path.name for path in files.notices if path not in cards]
    return ", ".join(dict.fromkeys(found)) or None
