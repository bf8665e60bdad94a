"""White space, invisible characters and normal forms of texts: one definition for data, tokens and scores.

Words are separated by white space in the sense of Unicode and `str.isspace`: the ideographic space U+3000 and
the no-break space U+00A0 as much as a space, a tab or a carriage return. Invisible characters, such as the
zero-width space U+200B and the byte order mark U+FEFF, count as nothing. The joiners U+200C and U+200D belong
to the spelling of Persian and of Indic languages: they count where they follow a letter of such a script.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from adaptkit.errors import listed

_SHAPED = (
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"  # formats with a shape, or a line below
)
_FORMATS = "".join(
    re.escape(chr(code))
    for code in (*range(0x20000), *range(0xE0000, 0xE0080))
    if unicodedata.category(chr(code)) in ("Cc", "Cf") and not chr(code).isspace()
)
_FILLERS = "\u034f\u115f\u1160\u3164\uffa0"  # letters and marks by category, without a shape
_JOINERS = "\u200c\u200d"
_JOINED = (
    "\u0600-\u109f\u1780-\u18af\u1a00-\u1cff\ua800-\uabff\U00010a00-\U00011fff\U0001f000-\U0001faff\ufe0f"
)
_INVISIBLE = re.compile(
    f"(?![{_SHAPED}{_JOINERS}\0])[{_FORMATS}{_FILLERS}]|(?<![{_JOINED}])[{_JOINERS}]", re.DOTALL
)
_SPACE = re.compile(r"\s")
_FILLER = re.compile(f"[{_FILLERS}]")  # all that is invisible among what str.isprintable calls printable
_SPACELESS = re.compile(  # Thai, Lao, Tibetan, Myanmar, Khmer; Japanese and Chinese
    "[\u0e01-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_CONTROLS = bytes((*range(10), *range(11, 32), 127))  # of ASCII, the line feed aside
_STRANGE = re.compile(f"(?![ \n])\\s|[{_FORMATS}{_FILLERS}{_JOINERS}]")  # what `clean` may change
_LONGEST_WORD = 30  # characters
_LONGEST_NAME = 21  # in figures

FORMS: Mapping[str, Callable[[str], str]] = {
    "lower": str.lower,
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
}


def clean(text: str) -> str:
    r"""Return a text with a space for each white-space character and without invisible ones, stripped.

    >>> clean("\ufeffone\u3000two\u200b\r")
    'one two'
    """
    if _is_plain(text):
        return text.strip(" ")
    return _SPACE.sub(" ", _INVISIBLE.sub("", text)).strip(" ")


def has_no_strange(text: str) -> bool:
    r"""Whether `clean` can change nothing in the lines of a text but the number of their blanks.

    >>> has_no_strange("one two\nzwölf\n"), has_no_strange("one\u00a0two")
    (True, False)
    """
    if text.isascii():
        return len(text.encode().translate(None, _CONTROLS)) == len(text)
    return _STRANGE.search(text) is None


def split_words(text: str) -> list[str]:
    r"""Split a text into words.

    >>> split_words("one\u00a0 two\u200b")
    ['one', 'two']
    """
    return text.split() if _is_plain(text) else _INVISIBLE.sub("", text).split()


def _is_plain(text: str) -> bool:
    """Whether a text has no white space but spaces, and nothing invisible; most are found out at once."""
    return text.isprintable() and (text.isascii() or not _FILLER.search(text))


def has_no_spaces(texts: Iterable[str]) -> bool:
    """Whether most texts of two characters and more are of a language that is written without spaces.

    Its letters are of such a script, or words are longer than any language's, so that words are no unit.

    >>> has_no_spaces(["你好世界", "好"]), has_no_spaces(["ZERO", "ONE TWO"]), has_no_spaces(["你 好"])
    (True, False, False)
    """
    counted = Counter(
        len(text) > _LONGEST_WORD or _SPACELESS.search(text) is not None if " " not in text else False
        for text in map(clean, texts)
        if len(text) > 1
    )
    return counted[True] > counted[False]


def describe_strange(text: str) -> str:
    r"""List the characters that `clean` replaces or removes, without blanks at the ends; empty if none.

    >>> describe_strange("a\u00a0b\u200b\u200b")
    'U+00A0 (no-break space), U+200B (zero width space)'
    """
    found = {match for pattern in (_SPACE, _INVISIBLE) for match in pattern.findall(text)} - {" ", "\t"}
    return listed(map(_name, sorted(found)))


def normalise(text: str, forms: Sequence[str]) -> str:
    r"""Apply normal forms to a text; `lower` goes first, since it can undo the others.

    >>> normalise("E\u0301", ["nfc", "lower"])
    'é'
    """
    for name in sorted(set(forms), key=list(FORMS).index):
        text = FORMS[name](text)
    return text


def visible(text: str) -> str:
    r"""Return a text with escapes for control and other invisible characters, so that it fills one line.

    >>> print(visible("a\x1b[1m\nb"))
    a\x1b[1m\nb
    """
    hidden = re.compile(f"{_INVISIBLE.pattern}|(?! )\\s|\0")
    return hidden.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def abridge(name: str) -> str:
    """Return a name with its middle left out if it is long, as beginnings and ends tell names apart.

    >>> abridge("speaker"), abridge("houlsby_after_attention_512")
    ('speaker', 'houlsby_af…ention_512')
    """
    return name if len(name) <= _LONGEST_NAME else f"{name[:10]}…{name[-10:]}"


def _name(character: str) -> str:
    known = {"\r": "carriage return", "\n": "line feed", "\v": "line tabulation", "\f": "form feed"}
    name = unicodedata.name(character, known.get(character, "control character"))
    return f"U+{ord(character):04X} ({name.lower()})"
