"""What each kind of adapter says of itself: its paper, equation, count and options, read from its own file.

The convention that a kind's docstrings follow, as in `adapters/residual.py`:

- module: a line of what it is; then its paper, most important first, as authors, title, year, arXiv number,
  with `;` between papers; then `Provenance:` and what comes from where, marked [abstract], [review], [code]
  or [ours];
- its Adapter, or `build` where the Adapter is another kind's: the equation; then `Numbers:` and the closed
  form of its parameters, up to the first `;` or full stop in a form for tables.

Every option of its Config has a description.
"""

import inspect
import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from adaptkit import config
from adaptkit.adapters import api
from adaptkit.adapters.api import Adapter, AdapterConfig, AdapterStack
from adaptkit.adapters.site import Site

_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}  # JSON schema


@dataclass(frozen=True)
class Option:
    """One option of a kind; `type` is in words, like `integer > 0` or `[integer] | null`."""

    name: str
    type: str
    help: str


@dataclass(frozen=True)
class KindInfo:
    """What a kind's own file says; empty where it does not keep to the convention."""

    kind: str
    title: str
    papers: str
    provenance: str
    equation: str
    numbers: str
    options: tuple[Option, ...]

    @property
    def closed_form(self) -> str:
        """The count in one line, without its special cases."""
        return re.split(r"[;.](?:\s|$)", _in_one_line(self.numbers))[0]

    @property
    def cited(self) -> str:
        """The first paper as first author, year and arXiv number."""
        paper = _in_one_line(self.papers.split(";")[0])
        author, _, rest = paper.partition(", ")
        others = " et al." if re.match(r"[\w-]+,", rest) else ""  # another surname, rather than a title
        year, number = (re.findall(form, paper) for form in (r" (\d{4})\b", r"arXiv:[\d.]*\d"))
        return ", ".join([" ".join([author + others, *year[-1:]]), *number[:1]])


@dataclass(frozen=True)
class Cost:
    """What an adapter takes on a base model: the sites it acts on by kind, and its numbers of parameters."""

    sites: Mapping[str, int]
    per_task: int
    shared: int


def describe(kind: str) -> KindInfo:
    """Read what a kind says of itself; an unknown one is a ConfigError with the nearest name."""
    module = api.load_kind(kind)
    head, _, provenance = _doc(module).partition("Provenance:")
    title, _, papers = head.partition("\n\n")
    equation, _, numbers = _doc(_described(module)).partition("Numbers:")
    texts = (title.removesuffix("."), papers, provenance, equation, numbers)
    return KindInfo(kind, *(text.strip() for text in texts), options=_options(module.Config))


def read(kind: str, words: Sequence[str] = ()) -> AdapterConfig:
    """Read the options of a kind in words like `bottleneck=32`; its defaults elsewhere."""
    entry = {"kind": kind}
    for word in words:
        config.apply(entry, word)
    return config.check(api.load_kind(kind).Config, entry, "--set")


def as_yaml(entry: AdapterConfig) -> str:
    """Write an entry as an experiment's yaml holds it, above every option what it means and its type."""
    values = config.dump(entry)
    lines = ["adapters:", f"  - kind: {entry.kind}"]
    for option in describe(entry.kind).options:
        comment = f"{option.help} ({option.type})"
        lines += textwrap.wrap(comment, 100, initial_indent="    # ", subsequent_indent="    # ")
        lines.append(f"    {option.name}: {json.dumps(values[option.name])}")
    return "\n".join(lines)


def measure(entry: AdapterConfig, sites: Sequence[Site]) -> Cost:
    """Build an adapter for one and for two tasks, and tell from the difference what each of them adds."""
    one, two = (api.build([entry], sites, [f"task{k}" for k in range(tasks)], seed=0) for tasks in (1, 2))
    counts = [sum(parameter.numel() for parameter in stack.parameters()) for stack in (one, two)]
    per_task = counts[1] - counts[0]
    return Cost(_count_sites(entry, one, sites), per_task, counts[0] - per_task)


def _count_sites(entry: AdapterConfig, stack: AdapterStack, sites: Sequence[Site]) -> Counter[str]:
    options, names = config.dump(entry), stack.differences(0)
    blocks = options.get("blocks") or options.get("taps") or [site.block for site in sites]
    wanted = [site for site in sites if site.kind in stack[0].wants and site.block in (-1, *blocks)]
    return Counter(site.kind for site in wanted if site.kind != "weight" or site.name in names)


def _described(module: ModuleType) -> Any:
    """Find what has the equation: the module's own Adapter, else `build`."""
    classes = (member for _, member in inspect.getmembers(module, inspect.isclass))
    own = (c for c in classes if issubclass(c, Adapter) and c.__module__ == module.__name__)
    return next(own, module.build)


def _options(kind_config: type[AdapterConfig]) -> tuple[Option, ...]:
    properties = kind_config.model_json_schema()["properties"]
    return tuple(
        Option(name, _type_in_words(schema), schema.get("description", ""))
        for name, schema in properties.items()
        if name != "kind"
    )


def _type_in_words(schema: Mapping[str, Any]) -> str:
    """Say a JSON schema in words.

    >>> _type_in_words({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]})
    'integer > 0 | null'
    """
    if "anyOf" in schema:
        return " | ".join(_type_in_words(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema["type"] == "array":
        return f"[{_type_in_words(schema['items'])}]"
    return " ".join([schema["type"], *(f"{_BOUNDS[k]} {v}" for k, v in schema.items() if k in _BOUNDS)])


def _doc(described: Any) -> str:
    return inspect.cleandoc(described.__doc__ or "")


def _in_one_line(text: str) -> str:
    return " ".join(text.split())
