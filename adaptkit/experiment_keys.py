"""Every key of an experiment's yaml, by section: what `adaptkit config describe` shows."""

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from adaptkit.adapters.catalog import read_catalog
from adaptkit.errors import ConfigError
from adaptkit.keys import Key, list_keys
from adaptkit.search_options import KINDS
from adaptkit.training_options import AdapterTraining

ALL = "all"
_MOST_NEAR = 5


def list_section(section: str) -> list[Key]:
    """List the keys of a section, or with ALL those of an experiment."""
    return [key for name, make in _SECTIONS.items() if section in (name, ALL) for key in make()]


def section_names() -> list[str]:
    """Return the names of the sections, and ALL."""
    return [*_SECTIONS, ALL]


def find_keys(name: str) -> list[Key]:
    """Return the keys of a section, or one key by its full name, with those below it.

    A key of several adapter types or searches is one for each. An unknown one is a ConfigError with the
    nearest. Only keys of the base model, of data and of augmentation need torch to be loaded.
    """
    if name in section_names():
        return list_section(name)
    wanted = re.sub(r"(?<=\.)\d+(?=\.|$)", "0", name)
    shown = _list_within(wanted)
    found = [key for key in shown if key.name == wanted or key.name.startswith(f"{wanted}.")]
    if found:
        return found
    known = dict.fromkeys(key.name for key in list_section(ALL))
    same = [key for key in known if key.rpartition(".")[2] == name]
    near = same or difflib.get_close_matches(wanted, known, n=_MOST_NEAR, cutoff=0.5)
    remedy = (
        f"did you mean {' or '.join(near[:_MOST_NEAR])}?" if near else "'adaptkit config describe' lists all"
    )
    raise ConfigError(f"'{name}': no such key; {remedy}")


def _list_within(name: str) -> list[Key]:
    """List the keys of the section that a key is in; the policy of a base model has those of `augment`."""
    section, _, rest = name.partition(".")
    if section == "base" and rest.partition(".")[0] == "augment":
        return [*_list_base(), *(replace(key, name=f"base.{key.name}") for key in _list_augment())]
    return list_section(section if section in _SECTIONS else ALL)


def _list_base() -> list[Key]:
    from adaptkit.experiment import Base  # loads torch (3 s)

    return list_keys(Base, "base.", leaves=frozenset({"base.augment"}))


def _list_data() -> list[Key]:
    from adaptkit.experiment import Sets

    return list_keys(Sets, "data.")


def _list_augment() -> list[Key]:
    from adaptkit.augment.policy import Policy

    return list_keys(Policy, "augment.")


def _list_adapters() -> Iterator[Key]:
    infos = read_catalog()
    yield Key("adapters.0.kind", " | ".join(infos), "the adapter type", is_required=True)
    for kind, info in infos.items():
        for option in info.options:
            yield Key(f"adapters.0.{option.name}", option.type, option.help, option.default, kind=kind)


def _list_search() -> Iterator[Key]:
    yield Key("search.kind", " | ".join(KINDS), "the search", is_required=True)
    for kind, options in KINDS.items():
        own = (key for key in list_keys(options, "search.") if key.name != "search.kind")
        yield from (replace(key, kind=kind) for key in own)


def _list_rest() -> Iterator[Key]:
    """Yield the keys of an experiment that are in no section, and those of its `compare`."""
    from adaptkit.experiment import Experiment, Variant

    yield from list_keys(Experiment, leaves=frozenset(_SECTIONS))
    yield from list_keys(Variant, "compare.NAME.")


_SECTIONS: dict[str, Callable[[], Iterator[Key] | list[Key]]] = {
    "experiment": _list_rest,
    "base": _list_base,
    "train": lambda: list_keys(AdapterTraining, "train."),
    "data": _list_data,
    "adapters": _list_adapters,
    "augment": _list_augment,
    "search": _list_search,
}
