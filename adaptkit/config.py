"""Configuration: yaml files into frozen pydantic models, with every problem of a file in one message."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from adaptkit.errors import ConfigError, nearest
from adaptkit.files import read_text, write_text


class Config(BaseModel):
    """The base of every part of a configuration: frozen, no unknown keys, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_keys(cls, content: Any, handler: Callable[[Any], Any]) -> Any:
        """Add the nearest right word to each unknown key; only the model at hand knows its keys."""
        try:
            return handler(content)
        except ValidationError as error:
            problems = [_restate(problem, cls) for problem in error.errors()]
            raise ValidationError.from_exception_data(error.title, problems) from error


Model = TypeVar("Model", bound=Config)


class _Loader(yaml.SafeLoader):
    """Safe yaml, where no key comes twice and `1e-3` is a number (yaml 1.1 wants `1.0e-3`)."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Refuse a key that is given twice, of which yaml would keep the last without a word."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' comes twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Safe yaml, where the text `1e-3` gets the quotes that keep it text."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"),
        list("-+0123456789."),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a yaml file that holds a mapping."""
    try:
        content = yaml.load(read_text(path), Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        raise ConfigError(f"{where}: not yaml: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {type(content).__name__} instead of 'key: value' lines")
    return content


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as yaml, in its own order, atomically."""
    write_text(path, yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def load(model: type[Model], path: Path, overrides: Sequence[str] = ()) -> Model:
    """Read an experiment's yaml, apply `--set key=value` words and check everything at once."""
    content = read_yaml(path)
    for word in overrides:
        apply(content, word)
    return check(model, content, str(path))


def check(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """Turn a mapping into a checked configuration; `where` opens the message about what is wrong with it."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [f"  {_explain(problem)}" for problem in error.errors()]
        raise ConfigError("\n".join([f"{where}: {len(lines)} problem(s):", *lines])) from error


def find_published(section: str, word: str | Path) -> Path:
    """Find the yaml that a name or a path means, as in `conf/<section>/<name>.yaml`.

    A path is taken as it is. A name is looked up in the working folder, in the folders above it, and last
    among the files that adaptkit ships; the nearest one counts.
    """
    found = find_optional(section, word)
    if found is None:
        known = published_names(section)
        near = nearest(str(word), known) or f"; known: {', '.join(known)}"
        raise ConfigError(f"'{word}': no conf/{section}/{word}.yaml here, above or in adaptkit{near}")
    return found


def find_optional(section: str, word: str | Path) -> Path | None:
    """Find the yaml that a name or a path means, as `find_published` does; None for an unknown name."""
    if is_path(word):
        return Path(word)
    files = (folder / f"{word}.yaml" for folder in _folders(section))
    return next((file for file in files if file.is_file()), None)


def published_names(section: str) -> list[str]:
    """Name what `find_published` finds in a section, sorted."""
    return sorted({file.stem for folder in _folders(section) for file in folder.glob("*.yaml")})


def is_path(word: str | Path) -> bool:
    """Whether a word is the path of a yaml rather than a name.

    >>> is_path("conf/hra.yaml"), is_path("hra")
    (True, False)
    """
    return Path(word).suffix in (".yaml", ".yml") or len(Path(word).parts) > 1


def _folders(section: str) -> list[Path]:
    """List the folders in which a section's files may be, the nearest first."""
    here = Path.cwd()
    shipped = Path(__file__).parent / "conf" / section
    return [*(folder / "conf" / section for folder in (here, *here.parents)), shipped]


def dump(config: Config) -> dict[str, Any]:
    """Give a configuration as plain yaml types, every default written out."""
    return config.model_dump(mode="json")


def apply(content: dict[str, Any], word: str) -> None:
    """Set one `a.0.b=value` in nested mappings and lists; the value is read as yaml."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {word}: expected key=value, for example train.lr=1e-3")
    *parents, last = key.split(".")
    place: Any = content
    for part in parents:
        if isinstance(place, dict) and place.get(part) is None:  # absent, or `part:` with nothing after it
            place[part] = {}
        place = place[_index(place, part, key) if isinstance(place, list) else part]
        if not isinstance(place, dict | list):
            raise ConfigError(f"--set {key}: '{part}' holds the value {place!r}, which has no keys")
    try:
        parsed = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {word}: the value is not yaml") from error
    if isinstance(place, list):
        place[_index(place, last, key)] = parsed
    else:
        place[last] = parsed


def _index(items: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(f"--set {key}: '{part}' is not an index of a list of {len(items)}")
    return int(part)


def _restate(problem: Mapping[str, Any], model: type[BaseModel]) -> InitErrorDetails:
    """Repeat a problem with the words that a user needs; one stated before keeps its words."""
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        message = f"unknown key{nearest(str(problem['loc'][-1]), known) or '; known: ' + ', '.join(known)}"
    elif problem["type"] == "missing":
        message = "missing"
    elif problem["type"] == "literal_error":
        choices = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        message = f"{message}{nearest(str(problem['input']), choices)}"
    stated = PydanticCustomError("stated", "{message}", {"message": message})
    return {"type": stated, "loc": problem["loc"], "input": problem["input"]}


def _explain(problem: Mapping[str, Any]) -> str:
    """Say one problem as `key: what (seen: value)`."""
    key = ".".join(str(part) for part in problem["loc"])
    is_plain = isinstance(problem["input"], str | int | float | bool) and problem["msg"] != "missing"
    seen = f" (seen: {problem['input']!r})" if is_plain else ""
    what = problem["msg"].removeprefix("Value error, ")  # which pydantic adds once more around a whole model
    return f"{key}: {what}{seen}" if key else what
