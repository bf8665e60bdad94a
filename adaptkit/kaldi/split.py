"""Split data directories by speaker or within each speaker, at random with a seed.

Kaldi's subset_data_dir_tr_cv.sh makes two parts; here there may be more, the shares of groups may be kept
(`is_stratified`), and each sentence may be limited to one part (`has_own_texts`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from adaptkit.errors import ConfigError, DataError, counted, listed, shell_word
from adaptkit.files import remove, write_text
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.sentences import Cell, Quotas, assign_sentences

Size = int | float  # a number, or a share of all


@dataclass(frozen=True)
class Split:
    """The utterance ids of each part and of none, sorted, and the shortfall of speakers."""

    parts: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...]
    short: tuple[str, ...] = ()  # such as `anna: 8 of 10 in part 2`


@dataclass(frozen=True)
class SplitOptions:
    """How to split: the sizes of the parts (the last may get the rest), and constraints."""

    num_parts: int
    sizes: tuple[Size, ...]
    has_own_texts: bool = False  # every sentence (equal texts) is in one part only
    is_stratified: bool = False  # parts have the same share of every group
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.num_parts - 1 <= len(self.sizes) <= self.num_parts or self.num_parts < 2:
            raise ConfigError(
                f"{self.num_parts} parts and {len(self.sizes)} sizes; expected two parts or more, and a size "
                "for each, or for all but the last, which then has the rest"
            )
        if sum(size for size in self.sizes if isinstance(size, float)) > 1 + 1e-9:
            raise ConfigError(f"shares {listed(map(_in_words, self.sizes))}: more than 100 %; lower them")

    @property
    def has_rest(self) -> bool:
        """Whether the last part gets the rest."""
        return len(self.sizes) < self.num_parts

    @property
    def is_of_all(self) -> bool:
        """Whether each part has a share, and all add up to 100 %, so that rounding leaves nothing out."""
        has_shares = not self.has_rest and all(isinstance(size, float) for size in self.sizes)
        return has_shares and abs(sum(self.sizes) - 1) < 1e-9


def read_size(word: str) -> Size:
    """Read a number, or a share in percent or below 1.

    >>> read_size("10"), read_size("50%"), read_size("0.5")
    (10, 0.5, 0.5)
    """
    try:
        size = float(word.removesuffix("%"))
    except ValueError:
        size = math.nan
    is_share = word.endswith("%") or "." in word
    share = size / 100 if word.endswith("%") else size
    if not (0 < share < 1 if is_share else size >= 1 and size.is_integer()):
        raise ConfigError(f"size '{word}': expected a number, such as 10, or a share, such as 50%")
    return share if is_share else int(size)


def split_speakers(data: DataDir, options: SplitOptions) -> Split:
    """Divide the speakers; each has all utterances in one part, except for sentences of another part.

    With `has_own_texts` a sentence stays in the part with the most utterances of it, and is left out of the
    others. Too few speakers are a DataError.
    """
    groups = _group_speakers(data, options)
    total = sum(map(len, groups.values()))
    is_fixed = any(isinstance(size, int) for size in options.sizes)
    wanted = [_count(size, total) for size in options.sizes] if is_fixed else _numbers(total, options)
    wanted = wanted[: len(options.sizes)]
    if sum(wanted) + options.has_rest > total or min(wanted) < 1:
        asked = ", ".join(map(_in_words, options.sizes)) + (" and a rest" if options.has_rest else "")
        raise DataError(f"{data.path}: {counted(total, 'speaker')}, too few for {asked}; ask for fewer")
    for group, speakers in groups.items():
        Random(f"{options.seed} {group}").shuffle(speakers)
    part_of: dict[str, int] = {}
    sizes = {group: len(speakers) for group, speakers in groups.items()}
    for part, number in enumerate(wanted):
        left = {group: len(speakers) for group, speakers in groups.items()}
        for group, count in _apportion(number, sizes, left).items():
            part_of |= {groups[group].pop(): part for _ in range(count)}
    if options.has_rest:
        part_of |= {speaker: len(wanted) for speakers in groups.values() for speaker in speakers}
    placed = {u.utt_id: part_of[u.speaker] for u in data.utterances if u.speaker in part_of}
    if options.has_own_texts:
        placed = _keep_texts_apart(data.utterances, placed)
    return _finish(data, placed, options)


def split_within(data: DataDir, options: SplitOptions) -> Split:
    """Divide the utterances of each speaker, so that every speaker is in every part.

    A speaker with too few utterances for the sizes has proportionally fewer in each part. With
    `has_own_texts` a sentence is in one part for all speakers, and the parts are as close to their sizes as
    that allows. `short` lists the shortfalls; speakers missing from a part are a DataError.
    """
    _refuse_groupless(data, options)
    cells: dict[Cell, list[Utterance]] = defaultdict(list)
    for u in data.utterances:
        cells[u.speaker, u.group if options.is_stratified else ""].append(u)
    quotas = _plan(data, {cell: len(members) for cell, members in cells.items()}, options)
    parts = dict(assign_sentences(cells, quotas, seed=options.seed)) if options.has_own_texts else None
    placed: dict[str, int] = {}
    for cell, members in cells.items():
        Random(f"{options.seed} {' '.join(cell)}").shuffle(members)
        waiting = list(members)
        for part, number in enumerate(quotas[cell]):
            fitting = [u for u in waiting if parts is None or parts[u.text] == part]
            is_last = options.has_rest and part == options.num_parts - 1
            chosen = fitting if is_last else fitting[:number]
            placed |= {u.utt_id: part for u in chosen}
            waiting = [u for u in waiting if u.utt_id not in placed]
    return _finish(data, placed, options, _asked(data, options))


def write_lists(found: Split, names: Sequence[str], folder: Path, *, left_out: str) -> None:
    """Write the utterance ids of each part to `<name>.txt`, and those of none, if any."""
    lists = dict(zip(names, found.parts, strict=True)) | {left_out: found.left_out}
    for name, utt_ids in lists.items():
        if utt_ids:
            write_text(folder / f"{name}.txt", "".join(f"{utt_id}\n" for utt_id in utt_ids))
        else:
            remove(folder / f"{name}.txt")


def _in_words(size: Size) -> str:
    return f"{100 * size:g} %" if isinstance(size, float) else str(size)


def _count(size: Size, total: int) -> int:
    """Return a size as a number; for a share, at least 1."""
    return max(1, math.floor(size * total + 0.5)) if isinstance(size, float) else size


def _group_speakers(data: DataDir, options: SplitOptions) -> dict[str, list[str]]:
    """Return the speakers of each group, or all in one if groups do not matter."""
    _refuse_groupless(data, options)
    group_of: dict[str, set[str]] = defaultdict(set)
    for u in data.utterances:
        group_of[u.speaker].add(u.group if options.is_stratified else "")
    mixed = sorted(speaker for speaker, groups in group_of.items() if len(groups) > 1)
    if mixed:
        remedy = "split within speakers, or without keeping the shares of groups"
        raise DataError(f"{data.path}: utterances in several groups: {listed(mixed)}; {remedy}")
    groups: dict[str, list[str]] = defaultdict(list)
    for speaker in sorted(group_of, key=str.encode):
        groups[min(group_of[speaker])].append(speaker)
    return dict(sorted(groups.items()))


def _refuse_groupless(data: DataDir, options: SplitOptions) -> None:
    if options.is_stratified and not any(u.group for u in data.utterances):
        raise DataError(f"{data.path}: has no groups to keep the shares of; write its utt2group or spk2group")


def _apportion(
    number: int, sizes: Mapping[Cell | str | int, Size], left: Mapping, least: int = 0
) -> dict[Cell | str | int, int]:
    """Divide a number in proportion to sizes by largest remainders, between `least` and what is left of each.

    >>> _apportion(5, {"child": 6, "adult": 4}, {"child": 6, "adult": 4})
    {'child': 3, 'adult': 2}
    """
    total = sum(sizes.values())
    given = {key: min(least, left[key]) for key in sizes}
    for _ in range(number - sum(given.values())):
        open_ = [key for key in sizes if given[key] < left[key]]
        given[max(open_, key=lambda key: number * sizes[key] / total - given[key])] += 1
    return given


def _numbers(total: int, options: SplitOptions) -> list[int]:
    """Return how many of a speaker's utterances each part has; every part has some."""
    wanted = {part: _count(size, total) for part, size in enumerate(options.sizes)}
    room = total - options.has_rest
    if options.is_of_all:
        wanted = _apportion(room, dict(enumerate(options.sizes)), dict.fromkeys(wanted, room), least=1)
    elif sum(wanted.values()) > room:
        wanted = _apportion(room, wanted, wanted, least=1)
    numbers = list(wanted.values())
    return [*numbers, total - sum(numbers)] if options.has_rest else numbers


def _plan(data: DataDir, sizes: Mapping[Cell, int], options: SplitOptions) -> Quotas:
    """Return how many utterances of each cell each part should have."""
    of_speaker: dict[str, dict[Cell, int]] = defaultdict(dict)
    for cell, size in sorted(sizes.items()):
        of_speaker[cell[0]][cell] = size
    few = [s for s, own in of_speaker.items() if sum(own.values()) < options.num_parts]
    if few:
        raise DataError(
            f"{data.path}: fewer utterances than parts for {counted(len(few), 'speaker')}: {listed(few)}; "
            f"leave them out ('adaptkit data subset {shell_word(data.path)} OUT --spk-list FILE' with the "
            "others in FILE)"
        )
    quotas: dict[Cell, list[int]] = {cell: [] for cell in sizes}
    for own in of_speaker.values():
        left = dict(own)
        for number in _numbers(sum(own.values()), options):
            for cell, count in _apportion(number, own, left).items():
                quotas[cell].append(count)
                left[cell] -= count
    return quotas


def _asked(data: DataDir, options: SplitOptions) -> dict[tuple[str, int], int]:
    """Return how many utterances of each speaker the parts with a size should have."""
    totals = Counter(u.speaker for u in data.utterances)
    return {
        (speaker, part): size if isinstance(size, int) else planned
        for speaker, total in totals.items()
        for part, (size, planned) in enumerate(zip(options.sizes, _numbers(total, options), strict=False))
    }


def _keep_texts_apart(utterances: Collection[Utterance], placed: Mapping[str, int]) -> dict[str, int]:
    """Return the utterances that stay if each sentence is in the part with most of its utterances."""
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for u in utterances:
        if u.utt_id in placed:
            votes[u.text][placed[u.utt_id]] += 1
    part_of = {text: max(sorted(votes[text]), key=lambda part: votes[text][part]) for text in votes}
    text_of = {u.utt_id: u.text for u in utterances}
    return {utt_id: part for utt_id, part in placed.items() if part_of[text_of[utt_id]] == part}


def _finish(
    data: DataDir,
    placed: Mapping[str, int],
    options: SplitOptions,
    asked: Mapping[tuple[str, int], int] | None = None,
) -> Split:
    """Return the split; `asked` has the numbers for speakers who must be in every part."""
    found = Counter((u.speaker, placed[u.utt_id]) for u in data.utterances if u.utt_id in placed)
    parts = range(options.num_parts)
    speakers = sorted({u.speaker for u in data.utterances}) if asked is not None else []
    absent = [
        f"{speaker} in part {part + 1}" for speaker in speakers for part in parts if not found[speaker, part]
    ]
    empty = [f"part {part + 1}" for part in parts if part not in placed.values()]
    if absent or empty:
        raise DataError(
            f"{data.path}: nothing is left for {listed(absent or empty)}, since a sentence can be in one "
            "part only; allow sentences in several parts, or change the sizes or the seed"
        )
    ids = [tuple(u.utt_id for u in data.utterances if placed.get(u.utt_id) == part) for part in parts]
    short = [
        f"{speaker}: {found[speaker, part]} of {number} in part {part + 1}"
        for (speaker, part), number in (asked or {}).items()
        if found[speaker, part] < number
    ]
    left_out = tuple(u.utt_id for u in data.utterances if u.utt_id not in placed)
    return Split(tuple(ids), left_out, tuple(short))
