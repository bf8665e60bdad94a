"""Read tables in any state: the valid lines, and a `Problem` for each of the others."""

import codecs
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adaptkit.characters import describe_strange
from adaptkit.errors import DataError, counted, listed, shell_word
from adaptkit.files import explain_os_error, require_regular, split_lines
from adaptkit.kaldi.lines import NO_LINES, Builder, Lines
from adaptkit.kaldi.tables import is_clean, split_line

EXAMPLES = 3  # of each cause
_BLOCK_BYTES = 1 << 18
_OF_NAMES = ("utt2spk", "utt2task", "utt2group", "spk2group")  # few different values
_BROKEN = re.compile("[\ud800-\udfff]")  # of bytes that are not UTF-8


@dataclass(frozen=True)
class Checks:
    """The checks beyond the syntax of the tables, and their limits."""

    max_sec: float = 60.0  # of an utterance; the memory of self-attention grows quadratically
    min_sec: float = 0.1  # as in ESPnet's recipes; the shortest digit of FSDD has 0.14 s
    check_audio: bool = True
    allow_pipes: bool = False  # run the commands of wav.scp
    alphabet: frozenset[str] | None = None  # the characters a text may hold, spaces aside
    num_jobs: int = 1  # processes that decode recordings

    def repair_of(self, path: Path) -> str:
        """Return the command that drops what these checks refuse, which other limits would let pass.

        >>> Checks(max_sec=30).repair_of(Path("data/train"))
        "'adaptkit data fix data/train --max-sec 30'"
        """
        usual = Checks()
        words = [f"--max-sec {self.max_sec:g}"] if self.max_sec != usual.max_sec else []
        words += [f"--min-sec {self.min_sec:g}"] if self.min_sec != usual.min_sec else []
        words += ["--tokens FILE"] if self.alphabet is not None else []
        words += ["--allow-pipes"] if self.allow_pipes else []
        return f"'{' '.join(['adaptkit data fix', shell_word(path), *words])}'"


@dataclass(frozen=True)
class Problem:
    """A problem of a data directory, shown as `path:line: what; remedy`.

    `line` is 0 if it concerns the whole file; `utt_id` is the utterance (in wav.scp, the recording) that
    cannot be used because of it, empty if no utterance has to be dropped. Warnings leave a directory valid.
    Problems with the same `cause`, apart from numbers and quoted values, are shown together, each by its
    `example`.
    """

    path: Path
    line: int
    utt_id: str
    what: str
    remedy: str
    is_warning: bool = False
    cause: str = ""
    example: str = ""

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else f"{self.path}"
        return f"{where}: {'warning: ' if self.is_warning else ''}{self.what}; {self.remedy}"


def describe(problems: Iterable[Problem]) -> list[str]:
    """Describe problems in one line for each cause, with its count and first examples."""
    groups: dict[tuple[str, ...], list[Problem]] = {}
    for problem in problems:
        parts = (problem.path.name, str(problem.is_warning), _cause(problem), problem.remedy)
        groups.setdefault(tuple(map(_pattern, parts)), []).append(problem)
    return [str(group[0]) if len(group) == 1 else _describe_all(group) for group in groups.values()]


@functools.lru_cache(maxsize=1 << 10)
def _pattern(text: str) -> str:
    """Return a text without the numbers and quoted values, in which problems of one cause differ."""
    return re.sub(r"'[^']*'|[0-9.]+", "#", text)


def _describe_all(group: list[Problem]) -> str:
    first = group[0]
    examples = (p.example or p.utt_id or f"line {p.line}" for p in group)
    what = f"{len(group)} times: {_cause(first)}: {listed(examples, EXAMPLES)}"
    return str(replace(first, what=what, remedy=first.remedy.replace("' drops it", "' drops them")))


def _cause(problem: Problem) -> str:
    return problem.cause or problem.what.removeprefix(f"{problem.utt_id}: ")


Table = Lines  # by key, in the file's order


def scan_table(path: Path) -> tuple[Table, list[Problem]]:
    """Read the valid lines of a table, the first of each key, and list all problems of its syntax."""
    require_regular(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(explain_os_error(error, path)) from error
    if not content.strip():
        return NO_LINES, [Problem(path, 0, "", "the file is empty", "prepare the data again")]
    problems = list(_ending_problems(path, content))
    builder, number = Builder(has_few_values=path.name in _OF_NAMES), 1
    for block in _blocks(content.removeprefix(codecs.BOM_UTF8)):
        lines = split_lines(block)
        if not _take_clean(builder, number, lines):
            problems += _take(path, builder, number, lines)
        number += len(lines)
    table = builder.finish()
    return table, [*problems, *_order_problems(path, table)]


def _blocks(content: bytes) -> Iterator[str]:
    """Yield blocks of whole lines, each of which ends with LF, unless the file has none."""
    start = 0 if b"\n" in content else len(content)
    if start:
        yield content.decode("utf-8", errors="surrogateescape")
    while start < len(content):
        end = content.find(b"\n", start + _BLOCK_BYTES) + 1 or len(content)
        text = content[start:end].decode("utf-8", errors="surrogateescape")
        yield text if text.endswith("\n") else f"{text}\n"
        start = end


def _take_clean(builder: Builder, first: int, lines: Sequence[str]) -> bool:
    """Add lines, numbered from `first`, to a table if nothing can be wrong with any of them."""
    if not is_clean("\n".join(lines)) or not all(map(_is_text, lines)):
        return False
    parts = [line.partition(" ") for line in lines]
    return builder.add_all(first, [part[0] for part in parts], [part[2] for part in parts])


def _take(path: Path, builder: Builder, first: int, lines: Sequence[str]) -> list[Problem]:
    """Add the valid lines among some, numbered from `first`, to a table, and list the problems of all."""
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=first):
        is_text = _is_text(line)
        key, value = split_line(line, has_location=path.suffix == ".scp") if is_text else ("", "")
        if not key:
            what = "empty line" if is_text else "a NUL character" if "\0" in line else "not UTF-8 text"
            remedy, example = _fix(path, "drops it"), f"line {number}"
            problems.append(Problem(path, number, "", what, remedy, cause=what, example=example))
        elif (known := builder.add(number, key, value)) is not None:
            what = f"duplicate key {key}, first on line {known}"
            remedy, cause = _fix(path, "keeps the first"), "duplicate keys"
            problems.append(Problem(path, number, "", what, remedy, cause=cause, example=key))
        else:
            problems += _character_problems(path, number, key, line.rstrip(" \t").removesuffix(value))
    return problems


def _is_text(line: str) -> bool:
    """Whether a line was UTF-8, without NUL characters."""
    return "\0" not in line and (line.isascii() or not _BROKEN.search(line))


def _character_problems(path: Path, number: int, key: str, line: str) -> Iterator[Problem]:
    """Find white space other than blanks, and invisible characters."""
    strange = describe_strange(line)
    if strange:
        does = "writes a space for white space and removes what is invisible"
        what = f"contains {strange}"
        yield Problem(path, number, "", f"{key}: {what}", _fix(path, does), cause=what, example=key)


def _ending_problems(path: Path, content: bytes) -> Iterator[Problem]:
    if content.startswith(codecs.BOM_UTF8):
        yield Problem(path, 1, "", "starts with a byte order mark", _fix(path, "removes it"))
    returns = content.count(b"\r\n")
    if returns:
        number = content[: content.index(b"\r\n")].count(b"\n") + 1
        what = f"{counted(returns, 'line')} ending in CR LF, as on Windows"
        yield Problem(path, number, "", what, _fix(path, "writes LF"))
    elif b"\r" in content and b"\n" not in content:
        what = "the lines end in CR, as on old Macs"
        yield Problem(path, 1, "", what, _fix(path, "writes LF"))


def _order_problems(path: Path, table: Table) -> Iterator[Problem]:
    found = table.first_out_of_order()  # one of them is enough
    if found is not None:
        before, key = found
        what = f"not sorted in C order, {key} after {before}"
        yield Problem(path, table[key].number, "", what, _fix(path, "sorts it"))


def _fix(path: Path, does: str) -> str:
    return f"'adaptkit data fix {shell_word(path.parent)}' {does}"
