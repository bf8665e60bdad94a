"""Find all problems of a data directory: those of Kaldi's validate_data_dir.sh, and those of its audio."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from adaptkit.characters import split_words
from adaptkit.errors import counted, listed, shell_word
from adaptkit.files import read_text, split_lines
from adaptkit.kaldi.columns import Names, Strings
from adaptkit.kaldi.lines import NO_LINES
from adaptkit.kaldi.scan import Checks, Problem, Table, scan_table
from adaptkit.kaldi.segments import MOST_SEC, parse_segment, split_all
from adaptkit.kaldi.tables import MAKERS, OPTIONAL, REQUIRED
from adaptkit.kaldi.validate_audio import audio_problems

_NAMES = {"utt2spk": "speaker", "utt2task": "task", "utt2group": "group", "spk2group": "group"}


DEFAULT_CHECKS = Checks()


def find_problems(path: Path, checks: Checks = DEFAULT_CHECKS) -> list[Problem]:
    """List all problems of a data directory, none if it is valid; nothing is changed.

    Warnings leave it valid: speakers that are not a prefix of their utterance ids (tables sorted by utterance
    are then not sorted by speaker, as some Kaldi tools require), recordings without a segment, commands that
    were not run, and a speaking rate that makes the sampling rate doubtful.
    """
    return find_in_tables(Path(path), checks)[1]


def find_in_tables(path: Path, checks: Checks) -> tuple[dict[str, Table], list[Problem]]:
    """Return the readable part of each table and all problems, for `fix`."""
    if not path.is_dir():
        return {}, [Problem(path, 0, "", "no such data directory", MAKERS)]
    tables: dict[str, Table] = {}
    problems: list[Problem] = []
    for name in (*REQUIRED, *OPTIONAL):
        if (path / name).exists():
            tables[name], found = scan_table(path / name)
            problems += found
        elif name == "text":
            tables[name] = NO_LINES
        elif name in REQUIRED:
            remedy = "prepare the data again"
            if name == "spk2utt":
                remedy = f"'adaptkit data fix {shell_word(path)}' makes it"
            problems.append(Problem(path / name, 0, "", "no such file", remedy))
            tables[name] = NO_LINES
    problems += _text_problems(path, tables)
    problems += _value_problems(path, tables)
    problems += _disagreements(path, tables)
    problems += _recording_problems(path, tables)
    problems += _speaker_problems(path, tables)
    problems += _group_problems(path, tables)
    problems += alphabet_problems(path, tables["text"], checks)
    problems += audio_problems(path, tables, checks)
    return tables, problems


def read_alphabet(path: Path) -> frozenset[str]:
    r"""Read the characters of a token list, one token per line, without special tokens such as `<unk>`."""
    tokens = [token for token in split_lines(read_text(path)) if not (len(token) > 2 and token[0] == "<")]
    return frozenset("".join(tokens)) - {"\u2581"}  # sentencepiece's start of a word


def audio_table(tables: dict[str, Table]) -> str:
    """Return the name of the table with the audio location of each utterance."""
    return "segments" if "segments" in tables else "wav.scp"


def needed_tables(tables: dict[str, Table]) -> list[str]:
    """List the tables that must contain every utterance."""
    text = ["text"] if _has_words(tables) else []
    optional = [name for name in ("feats.scp", "utt2task", "utt2group") if tables.get(name)]
    return [*text, "utt2spk", audio_table(tables), *optional]


def _has_words(tables: dict[str, Table]) -> bool:
    return any(tables["text"].column)


def _text_problems(path: Path, tables: dict[str, Table]) -> Iterator[Problem]:
    """Warn of a set without words, which can still be decoded."""
    if not _has_words(tables):
        what = (
            "holds only ids"
            if tables["text"]
            else "no such file"
            if not (path / "text").exists()
            else "no words"
        )
        remedy = "the set can be decoded, but neither scored nor trained on"
        yield Problem(path / "text", 0, "", what, remedy, is_warning=True)


def _value_problems(path: Path, tables: dict[str, Table]) -> Iterator[Problem]:
    for name, table in tables.items():
        if (name == "text" and not _has_words(tables)) or _are_sound(name, table.column):
            continue
        for key, line in table.lines():
            what = _fault(name, line.value)
            if what:
                is_line = name in ("utt2dur", "spk2group")
                remedy = _drops(path, "the line") if is_line else _drops(path)
                utt_id = "" if name in ("spk2utt", "spk2group", "utt2dur") else key
                yield Problem(
                    path / name, line.number, utt_id, f"{key}: {what}", remedy, cause=what, example=key
                )


def _are_sound(name: str, values: Strings | Names) -> bool:
    """Whether nothing is wrong with any value of a table, found without a look at each."""
    if isinstance(values, Names):
        return not any(_fault(name, value) for value in values.names)
    if name == "segments":
        try:
            return bool(split_all(values)[0])
        except ValueError:
            return False
    return name not in ("spk2group", "utt2dur") and not values.any_empty()


def _fault(name: str, value: str) -> str:
    """Return the fault of a value in a table; empty if it is valid."""
    if not value:
        return {"text": "empty text", "wav.scp": "no location"}.get(name, "nothing after the key")
    if name in _NAMES and len(split_words(value)) > 1:
        return f"'{value}' is not a single {_NAMES[name]}"
    if name == "segments":
        try:
            parse_segment(value)
        except ValueError as error:
            return str(error)
    if name == "utt2dur":
        try:
            return "" if 0 < float(value) < MOST_SEC else f"'{value}' is not a duration"
        except ValueError:
            return f"'{value}' is not a number of seconds"
    return ""


def _disagreements(path: Path, tables: dict[str, Table]) -> Iterator[Problem]:
    """Find utterances missing from a table, and entries of optional tables for unknown utterances."""
    needed = needed_tables(tables)
    main = [name for name in needed if name in ("text", "utt2spk", audio_table(tables))]
    filled = [name for name in needed if tables[name]]
    by_utterance = ("feats.scp", "utt2task", "utt2group", "utt2dur")
    optional = [name for name in by_utterance if tables.get(name)]
    if _have_equal_keys([tables[name] for name in {*main, *filled, *optional} if tables[name]]):
        return
    ids = {name: set(tables[name].ids) for name in {*main, *filled, *optional}}
    known = {utt_id: name for name in reversed(main) for utt_id in tables[name].ids}
    for utt_id, name in sorted(known.items(), key=lambda item: item[0].encode()):
        missing = [other for other in filled if utt_id not in ids[other]]
        if missing:
            what = f"utterance {utt_id} is not in {listed(missing)}"
            number, cause = tables[name][utt_id].number, f"not in {listed(missing)}"
            yield Problem(path / name, number, utt_id, what, _drops(path), cause=cause, example=utt_id)
    for name in optional:
        for utt_id, line in tables[name].lines():
            if utt_id not in known:
                what = f"unknown utterance {utt_id}, neither in text nor in utt2spk"
                remedy, cause = _drops(path, "the line"), "utterances neither in text nor in utt2spk"
                yield Problem(path / name, line.number, "", what, remedy, cause=cause, example=utt_id)


def _have_equal_keys(tables: Sequence[Table]) -> bool:
    """Whether all tables have the same keys in the same order."""
    return all(table.ids == tables[0].ids for table in tables[1:])


def _recording_problems(path: Path, tables: dict[str, Table]) -> Iterator[Problem]:
    """Find segments of unknown recordings and recordings without a segment."""
    if "segments" not in tables:
        return
    segments, recordings = tables["segments"], tables["wav.scp"]
    used = Names.of(value.partition(" ")[0] for value in segments.column)
    for row in np.flatnonzero(recordings.rows(used) < 0).tolist():
        utt_id, recording = segments.ids[row], used[row]
        what = f"recording {recording} of utterance {utt_id} is not in wav.scp"
        cause, example = "recordings that are not in wav.scp", f"{recording} of {utt_id}"
        number = int(segments.numbers[row])
        yield Problem(path / "segments", number, utt_id, what, _drops(path), cause=cause, example=example)
    names = set(used.names)
    unused = [name for name in recordings.ids if name not in names]
    if unused:
        number = recordings[unused[0]].number
        what = f"{counted(len(unused), 'recording')} without a segment: {listed(unused, 3)}"
        yield Problem(path / "wav.scp", number, "", what, _drops(path, "them"), is_warning=True)


def _speaker_problems(path: Path, tables: dict[str, Table]) -> Iterator[Problem]:
    """Compare spk2utt with utt2spk in both directions, and speakers with utterance ids."""
    table = tables["utt2spk"]
    yield from _contradictions(path, table, tables["spk2utt"])
    speakers = zip(table.ids, table.column, strict=True)
    strangers = [utt_id for utt_id, speaker in speakers if not utt_id.startswith(speaker)]
    if strangers:
        number = table[strangers[0]].number
        number_of = counted(len(strangers), "utterance id")
        what = f"the speaker is not a prefix of {number_of}: {listed(strangers, 3)}"
        remedy = "name utterances speaker-..., since Kaldi's tools sort by both"
        yield Problem(path / "utt2spk", number, "", what, remedy, is_warning=True)


def _contradictions(path: Path, speakers: Table, utterances: Table) -> Iterator[Problem]:
    """Compare utt2spk with spk2utt, quickly if they agree and are sorted."""
    said_ids = Strings.of(chain.from_iterable(map(str.split, utterances.column)))
    counts = np.array([len(value.split()) for value in utterances.column], np.int64)
    by = Names(tuple(utterances.ids), np.repeat(np.arange(len(utterances)), counts))
    if said_ids == speakers.ids and by == speakers.column:
        return
    remedy = f"'adaptkit data fix {shell_word(path)}' makes spk2utt from utt2spk"
    true_of, numbers = dict(zip(speakers.ids, speakers.column, strict=True)), utterances.numbers[by.codes]
    for utt_id, speaker, number in zip(said_ids, by, numbers.tolist(), strict=True):
        true = true_of.get(utt_id)
        if true != speaker:
            what = f"{utt_id} is listed for {speaker}, but utt2spk has {true or 'no such utterance'}"
            cause = "utterances of other speakers in utt2spk" if true else "utterances not in utt2spk"
            yield Problem(path / "spk2utt", number, "", what, remedy, cause=cause, example=utt_id)
    said = set(said_ids)
    for utt_id, line in speakers.lines() if utterances else ():
        if utt_id not in said:
            what, cause = f"{utt_id} of {line.value} is not in spk2utt", "utterances not in spk2utt"
            yield Problem(path / "utt2spk", line.number, "", what, remedy, cause=cause, example=utt_id)


def _group_problems(path: Path, tables: dict[str, Table]) -> Iterator[Problem]:
    """Find speakers without a group in spk2group, which utt2group would contradict."""
    groups = tables.get("spk2group", NO_LINES)
    if groups and tables.get("utt2group"):
        what = "there is utt2group too, and only one of them can be followed"
        yield Problem(path / "spk2group", 0, "", what, _drops(path, "spk2group"))
        return
    named = {speaker for speaker, line in groups.lines() if not _fault("spk2group", line.value)}
    for utt_id, line in tables["utt2spk"].lines() if groups else ():
        if line.value not in named:
            what, cause = (
                f"speaker {line.value} of {utt_id} has no group in spk2group",
                "no group in spk2group",
            )
            yield Problem(
                path / "utt2spk", line.number, utt_id, what, _drops(path), cause=cause, example=utt_id
            )


def alphabet_problems(path: Path, texts: Table, checks: Checks) -> Iterator[Problem]:
    """Find texts with characters that are not among the tokens, if these are given."""
    if checks.alphabet is None:
        return
    for utt_id, line in texts.lines():
        strange = sorted(set("".join(split_words(line.value))) - checks.alphabet)
        if strange:
            characters, cause = listed([repr(c) for c in strange]), "characters not among the tokens"
            what, example = f"{utt_id}: {characters} not among the tokens", f"{utt_id} ({characters})"
            remedy = f"write the text with the base model's tokens, or {checks.repair_of(path)} drops it"
            yield Problem(path / "text", line.number, utt_id, what, remedy, cause=cause, example=example)


def _drops(path: Path, what: str = "it") -> str:
    return f"'adaptkit data fix {shell_word(path)}' drops {what}"
