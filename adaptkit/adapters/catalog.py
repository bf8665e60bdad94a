"""The paper, equation, parameter count and options of every adapter type, without loading torch.

`catalog.json` stores the descriptions that `adapters.describe` reads from the files of `adapters/kinds`, with
a digest of each file. A new or changed adapter type is read from its file, which loads torch (3 s).
"""

import hashlib
import json
import pkgutil
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from adaptkit.adapters import kinds
from adaptkit.files import read_text

CATALOG = Path(__file__).with_name("catalog.json")


@dataclass(frozen=True)
class Option:
    """One option of an adapter type; `type` is in words, such as `integer > 0` or `[integer] | null`."""

    name: str
    type: str
    help: str
    default: Any = None


@dataclass(frozen=True)
class AdapterInfo:
    """The documentation of an adapter type; a field is empty if the file breaks the convention."""

    kind: str
    title: str
    papers: str
    provenance: str
    equation: str
    parameters: str
    options: tuple[Option, ...]

    @property
    def closed_form(self) -> str:
        """The parameter count in one line, without special cases."""
        return re.split(r"[;.](?:\s|$)", _in_one_line(self.parameters))[0]

    @property
    def cited(self) -> str:
        """The first paper, as first author, year and arXiv number."""
        paper = _in_one_line(self.papers.split(";")[0])
        author, _, rest = paper.partition(", ")
        others = " et al." if re.match(r"[\w-]+,", rest) else ""  # another surname, rather than a title
        year, number = (re.findall(form, paper) for form in (r" (\d{4})\b", r"arXiv:[\d.]*\d"))
        return ", ".join([" ".join([author + others, *year[-1:]]), *number[:1]])

    def as_text(self, values: Mapping[str, Any] | None = None) -> str:
        """Format the whole documentation for a terminal, with a yaml example."""
        parts = (self.title, self.papers, f"Provenance: {self.provenance}", self.equation)
        return "\n\n".join([*parts, f"Parameters: {self.parameters}", self.as_yaml(values)])

    def as_yaml(self, values: Mapping[str, Any] | None = None) -> str:
        """Format an entry for an experiment's yaml, with each option's description and type above it.

        `values` replace the defaults.
        """
        lines = ["adapters:", f"  - kind: {self.kind}"]
        for option in self.options:
            comment = f"{option.help} ({option.type})"
            lines += textwrap.wrap(comment, 100, initial_indent="    # ", subsequent_indent="    # ")
            value = option.default if values is None else values[option.name]
            lines.append(f"    {option.name}: {json.dumps(value)}")
        return "\n".join(lines)


def available() -> list[str]:
    """List the adapter types: the modules of `adapters/kinds`."""
    return sorted(module.name for module in pkgutil.iter_modules(kinds.__path__))


def read_catalog() -> dict[str, AdapterInfo]:
    """Return the documentation of every adapter type, by name."""
    stored = json.loads(read_text(CATALOG)) if CATALOG.exists() else {}
    return {kind: _read_entry(kind, stored.get(kind, {})) for kind in available()}


def digest_source(kind: str) -> str:
    """Hash the file of an adapter type; 16 hexadecimal digits."""
    source = Path(kinds.__path__[0], f"{kind}.py").read_bytes()
    return hashlib.blake2b(source, digest_size=8).hexdigest()


def _read_entry(kind: str, entry: Mapping[str, Any]) -> AdapterInfo:
    if entry.get("source") == digest_source(kind):
        return TypeAdapter(AdapterInfo).validate_python(entry["info"])
    from adaptkit.adapters.describe import describe_adapter  # loads torch

    return describe_adapter(kind)


def _in_one_line(text: str) -> str:
    return " ".join(text.split())
