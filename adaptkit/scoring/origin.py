"""Record the model and data behind hypotheses and scores, so that they are not mistaken for others."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptkit.errors import ScoringError
from adaptkit.folders import DecodeFolder
from adaptkit.kaldi.tables import format_table, read_table
from adaptkit.records import DecodeRecord, RunRecord


@dataclass(frozen=True)
class Source:
    """A table that was scored: its path, relative to the folder of the score, and a digest of its content."""

    path: str
    digest: str


def describe_source(path: Path, table: Mapping[str, str], *, folder: Path) -> Source:
    """Describe a table for a score in `folder`; a pipe has no path, as it cannot be read again."""
    return Source(_find_way(path, folder) if path.is_file() else "", digest_table(table))


def _find_way(path: Path, folder: Path) -> str:
    """Return the path from a folder to a file; if a link leads to the folder, from where it really is."""
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


def refuse_unlike(one: Path, other: Path) -> None:
    """Refuse to compare hypotheses of different base models or data sets, as far as their records say."""
    facts, others = _read_facts(one), _read_facts(other)
    unlike = [name for name in facts.keys() & others.keys() if facts[name] != others[name]]
    if unlike:
        described = "; ".join(f"{name} {facts[name]} against {others[name]}" for name in sorted(unlike))
        remedy = "decode both with one base model and set, or compare them anyway with --allow-unlike"
        raise ScoringError(f"{one}, {other}: made differently: {described}; {remedy}")


def _read_facts(path: Path) -> dict[str, str]:
    """Read the origin of the hypotheses in a decode folder or its `text`; empty without a record."""
    folder = DecodeFolder(path if path.is_dir() else path.parent)
    if not folder.record.exists() or path not in (folder.path, folder.text):
        return {}
    record = DecodeRecord.read(folder.record)
    fingerprint = record.base_fingerprint
    if not fingerprint and folder.run.record.exists():  # of an earlier version
        fingerprint = RunRecord.read(folder.run.record).base_fingerprint
    base = {"base model": fingerprint} if fingerprint else {}
    return {**base, "set": record.set_name, "seconds of audio": f"{record.audio_sec:.1f}"}
