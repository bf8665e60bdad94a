"""Read the documentation of each adapter type from its file, and measure its size on a base model.

The docstrings of an adapter type follow this convention, as in `adapters/kinds/residual.py`:

- module: a one-line description; then its papers, the most important first, as authors, title, year,
  arXiv number, separated by `;`; then `Provenance:` and the source of each part, marked [abstract], [review],
  [code] or [ours];
- its Adapter, or `build` if the Adapter belongs to another type: the equation; then `Parameters:` and the
  closed form of the parameter count; tables show the part before the first `;` or full stop.

Every option of its Config has a description. `python -m adaptkit.adapters.describe` writes `catalog.json`.
"""

import inspect
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from adaptkit import config
from adaptkit.adapters import api
from adaptkit.adapters.api import Adapter, AdapterConfig, AdapterStack
from adaptkit.adapters.catalog import CATALOG, AdapterInfo, Option, available, digest_source
from adaptkit.adapters.site import Site
from adaptkit.errors import ConfigError, listed
from adaptkit.files import write_text
from adaptkit.keys import type_in_words


@dataclass(frozen=True)
class AdapterSize:
    """The size of an adapter on a base model: the number of its sites by kind, and its parameter counts."""

    sites: Mapping[str, int]
    per_task: int
    shared: int


def describe_adapter(kind: str) -> AdapterInfo:
    """Read the documentation of an adapter type; an unknown one is a ConfigError with the closest name."""
    module = api.load_kind(kind)
    head, _, provenance = _doc(module).partition("Provenance:")
    title, _, papers = head.partition("\n\n")
    equation, _, parameters = _doc(_described(module)).partition("Parameters:")
    texts = (title.removesuffix("."), papers, provenance, equation, parameters)
    return AdapterInfo(kind, *(text.strip() for text in texts), options=_options(module.Config))


def read(word: str, overrides: Sequence[str] = ()) -> AdapterConfig:
    """Read the options of an adapter: by its type, or from a yaml by name in `conf/adapters` or by path.

    `overrides` are like `bottleneck=32`.
    """
    path = None if word in available() else config.find_optional("adapters", word)
    entry = {"kind": word} if path is None else _only_adapter(path, config.read_yaml(path))
    for override in overrides:
        config.apply(entry, override)
    return config.check(api.load_kind(entry["kind"]).Config, entry, "--set" if path is None else str(path))


def measure(entry: AdapterConfig, sites: Sequence[Site]) -> AdapterSize:
    """Count the sites and parameters of an adapter, the latter also per task."""
    one, two = (api.build([entry], sites, [f"task{k}" for k in range(tasks)], seed=0) for tasks in (1, 2))
    per_task = two.num_parameters - one.num_parameters
    return AdapterSize(_count_sites(entry, one, sites), per_task, one.num_parameters - per_task)


def describe_difference(
    theirs: Sequence[AdapterConfig], ours: Sequence[AdapterConfig], *, but_for: Collection[str] = ()
) -> str:
    """Describe the options, or the adapter types, that differ, but for some options; empty if none do."""
    kinds, own_kinds = ("+".join(entry.kind for entry in side) for side in (theirs, ours))
    if kinds != own_kinds:
        return f"of adapter type {kinds}, not {own_kinds}"
    changed = [
        f"adapters.{index}.{name} {value!r}, not {own[name]!r}"
        for index, (other, own) in enumerate(zip(_dump(theirs), _dump(ours), strict=True))
        for name, value in other.items()
        if value != own[name] and name not in but_for
    ]
    return f"with {listed(changed)}" if changed else ""


def write_catalog() -> None:
    """Write `catalog.json`, for commands that do not need torch."""
    infos = {kind: asdict(describe_adapter(kind)) for kind in available()}
    entries = {kind: {"source": digest_source(kind), "info": info} for kind, info in infos.items()}
    write_text(CATALOG, json.dumps(entries, indent=1) + "\n")


def _dump(adapters: Sequence[AdapterConfig]) -> list[dict[str, Any]]:
    return [config.dump(entry) for entry in adapters]


def _only_adapter(path: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    entries = content.get("adapters")
    is_one = isinstance(entries, list) and len(entries) == 1 and isinstance(entries[0], dict)
    if not is_one or not isinstance(entries[0].get("kind"), str):
        raise ConfigError(f"{path}: expected 'adapters' with one entry; give an adapter type or another yaml")
    return dict(entries[0])


def _count_sites(entry: AdapterConfig, stack: AdapterStack, sites: Sequence[Site]) -> Counter[str]:
    options, names = config.dump(entry), stack.differences(0)
    blocks = options.get("blocks") or options.get("taps") or [site.block for site in sites]
    acting = [site for site in sites if site.kind in stack[0].wants and site.block in (-1, *blocks)]
    return Counter(site.kind for site in acting if site.kind != "weight" or site.name in names)


def _described(module: ModuleType) -> Any:
    """Return the object whose docstring has the equation: the module's own Adapter, else `build`."""
    classes = (member for _, member in inspect.getmembers(module, inspect.isclass))
    own = (c for c in classes if issubclass(c, Adapter) and c.__module__ == module.__name__)
    return next(own, module.build)


def _options(kind_config: type[AdapterConfig]) -> tuple[Option, ...]:
    properties = kind_config.model_json_schema()["properties"]
    defaults = config.dump(kind_config())
    return tuple(
        Option(name, type_in_words(schema), schema.get("description", ""), defaults[name])
        for name, schema in properties.items()
        if name != "kind"
    )


def _doc(described: Any) -> str:
    return inspect.cleandoc(described.__doc__ or "")


if __name__ == "__main__":
    write_catalog()
