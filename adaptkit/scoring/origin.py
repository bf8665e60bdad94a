"""Record the model and data behind hypotheses and scores, so that they are not mistaken for others."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptkit.errors import ScoringError, shell_word
from adaptkit.folders import DecodeFolder
from adaptkit.kaldi.tables import format_table, read_table
from adaptkit.records import DecodeRecord, RunRecord

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A table that was scored: its path, relative to the folder of the score, and a digest of its content."""

    path: str
    digest: str


def describe_source(path: Path, table: Mapping[str, str], *, folder: Path) -> Source:
    """Describe a table for a score in `folder`; a pipe has no path, as it cannot be read again."""
    return Source(find_way(path, folder) if path.is_file() else "", digest_table(table))


def find_way(path: Path, folder: Path) -> str:
    """Return the path from a folder to another path; if a link leads to the folder, from where it is."""
    way = os.path.relpath(path, folder)
    is_right = (folder / way).exists() and (folder / way).samefile(path)
    return way if is_right else os.path.relpath(path, folder.resolve())


def digest_table(table: Mapping[str, str]) -> str:
    """Return a digest of the keys and values of a table that does not depend on order and white space."""
    return hashlib.blake2b(format_table(table).encode(), digest_size=8).hexdigest()


def find_changed(sources: Mapping[str, Source], folder: Path) -> list[str]:
    """List the tables that have changed since the score in `folder`, without those that have moved."""
    paths = {name: folder / source.path for name, source in sources.items() if source.path}
    return [
        str(path)
        for name, path in paths.items()
        if path.is_file() and digest_table(read_table(path)) != sources[name].digest
    ]


def describe_score(sources: Mapping[str, Source], normalize: Sequence[str], folder: Path, data: str) -> str:
    """Return the command that scores `folder` again as it was scored; of `data` if that is not known."""
    paths = {name: Path(os.path.normpath(folder / one.path)) for name, one in sources.items() if one.path}
    ref, options = paths.get("ref", Path(data)), []
    if "ref" in paths and ref.name == "text" and paths.get("utt2spk") == ref.parent / "utt2spk":
        ref = ref.parent
    for name, table in (("utt2spk", "utt2spk"), ("utt2group", "utt2group")):
        if name in paths and paths[name] != ref / table:
            options += [f"--{name}", paths[name]]
    for form in normalize:
        options += ["--normalize", form]
    return f"adaptkit score {' '.join(map(shell_word, [ref, folder, *options]))}"


def refuse_unlike(one: Path, other: Path) -> None:
    """Refuse to compare hypotheses of different base models or data sets, as far as their records say."""
    facts, others = _read_facts(one), _read_facts(other)
    unlike = [name for name in facts.keys() & others.keys() if facts[name] != others[name]]
    if unlike:
        described = "; ".join(f"{name} {facts[name]} against {others[name]}" for name in sorted(unlike))
        remedy = "decode both with one base model and set, or compare them anyway with --allow-unlike"
        raise ScoringError(f"{one}, {other}: made differently: {described}; {remedy}")
    records = {str(path): _read_record(path) for path in (one, other)}
    if all(records.values()) and (found := describe_searches(records)):
        _LOG.warning("decoded differently: %s", "; ".join(f"{path}: {how}" for path, how in found.items()))


def describe_searches(records: Mapping[str, DecodeRecord], *, routes: bool = False) -> dict[str, str]:
    """Describe how each of several sets of hypotheses was decoded, where that differs; else empty.

    With `routes`, the choice of weights is a part of it.

    >>> from dataclasses import replace
    >>> usual = DecodeRecord("test", 1, 1.0, 1.0, 1.0, 1, base_only=False)
    >>> beam = replace(usual, search={"kind": "beam", "beam_size": 5})
    >>> describe_searches({"none": usual, "tpa": beam})
    {'none': 'greedy search', 'tpa': 'beam search, beam_size 5'}
    """
    facts = {}
    for name, record in records.items():
        route = {f"route {key}": value for key, value in (record.route or {}).items() if routes}
        facts[name] = {"kind": "greedy", **(record.search or {}), "lm_sha256": record.lm_sha256, **route}
    keys = sorted(set().union(*facts.values()) - {"kind"})
    unlike = [key for key in keys if len({str(own.get(key)) for own in facts.values()}) > 1]
    if not unlike and len({own["kind"] for own in facts.values()}) < 2:
        return {}
    described = {}
    for name, own in facts.items():
        shown = [f"{key} {own[key]}" for key in unlike if own.get(key) is not None and key != "lm_sha256"]
        lm = [f"language model {records[name].lm}"] if "lm_sha256" in unlike and own["lm_sha256"] else []
        described[name] = ", ".join([f"{own['kind']} search", *shown, *lm])
    return described


def _read_record(path: Path) -> DecodeRecord | None:
    """Read the record of the hypotheses in a decode folder or its `text`; None without one."""
    folder = DecodeFolder(path if path.is_dir() else path.parent)
    if not folder.record.exists() or path not in (folder.path, folder.text):
        return None
    return DecodeRecord.read(folder.record)


def _read_facts(path: Path) -> dict[str, str]:
    """Read the origin of the hypotheses in a decode folder or its `text`; empty without a record."""
    folder, record = DecodeFolder(path if path.is_dir() else path.parent), _read_record(path)
    if record is None:
        return {}
    fingerprint = record.base_fingerprint
    if not fingerprint and folder.run.record.exists():  # of an earlier version
        fingerprint = RunRecord.read(folder.run.record).base_fingerprint
    base = {"base model": fingerprint} if fingerprint else {}
    return {**base, "set": record.set_name, "seconds of audio": f"{record.audio_sec:.1f}"}
