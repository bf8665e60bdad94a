"""Load yaml files into frozen pydantic models, and report all problems of a file in one message."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from adaptkit.errors import ConfigError, counted, nearest, shorten
from adaptkit.files import read_text, require_regular, write_text


def _whole(number: object) -> object:
    """Read a float without a fraction, such as 1e4, as an integer."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _usable(path: Path) -> Path:
    """Refuse a path that no file system can hold."""
    if "\0" in str(path) or max((len(part.encode()) for part in path.parts), default=0) > 255:
        raise ValueError("expected a path without NUL characters, each name at most 255 bytes long")
    return path


_INT = BeforeValidator(_whole)
_LARGE = 10**9
PositiveInt = Annotated[int, Field(strict=True, gt=0, le=_LARGE), _INT]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0, le=_LARGE), _INT]
Width = Annotated[int, Field(strict=True, gt=0, le=2**16), _INT]  # of a layer; the largest published is 5120
Seed = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1), _INT]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, le=1e9)]
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0, le=1e9)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
FilePath = Annotated[Path, AfterValidator(_usable)]


class Config(BaseModel):
    """Base class of every section of a configuration: frozen, no unknown keys, defaults validated too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_keys(cls, content: Any, handler: Callable[[Any], Any]) -> Any:
        """Add the closest valid key to each unknown one; only the model itself knows its keys."""
        try:
            return handler(content)
        except ValidationError as error:
            problems = [_restate(problem, cls) for problem in error.errors()]
            raise ValidationError.from_exception_data(error.title, problems) from error


Model = TypeVar("Model", bound=Config)


class _Loader(yaml.SafeLoader):
    """Safe yaml loader of bounded depth and size, without tags and with numbers as written today.

    Of yaml 1.1 it drops dates, 1:30:00 for 5400, 010 for 8 and 1_000, and adds `1e-3` (yaml wants `1.0e-3`).
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, stream: str):
        super().__init__(stream)
        self._depth, self._sizes = 0, {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Compose a node; refuse tags, deep nesting, and anchors that refer to themselves or multiply."""
        event = self.peek_event()
        mark, tag = event.start_mark, getattr(event, "tag", None)
        self._depth += 1
        if tag is not None:
            raise yaml.MarkedYAMLError(problem=f"the tag {tag} is not allowed; remove it", problem_mark=mark)
        if self._depth > _MOST_NESTED:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {_MOST_NESTED} levels deep", problem_mark=mark
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._sizes[id(node)] = self._measure(node)
        if self._sizes.get(id(node), _MOST_VALUES) >= _MOST_VALUES:  # unknown: within itself, so without end
            raise yaml.MarkedYAMLError(problem=f"more than {_MOST_VALUES} values", problem_mark=mark)
        return node

    def _measure(self, node: yaml.Node) -> int:
        """Count the values below a node, with those of aliases."""
        items = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (part for item in items for part in (item if isinstance(item, tuple) else (item,)))
        return 1 + sum(self._sizes[id(part)] for part in parts)

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Refuse duplicate keys, of which yaml would silently keep the last."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                problem = f"duplicate key '{key.value}'"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Safe yaml dumper that quotes strings which `_Loader` reads as numbers, such as `1e-3`."""


_MOST_NESTED = 50
_MOST_VALUES = 1_000_000
_MOST_LINES = 50  # of problems
_MOST_BYTES = 32 << 20
_FLOAT = re.compile(
    r"^([-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))|\.(nan|NaN|NAN))$", re.ASCII
)
_BOOL = re.compile(r"^(yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
for _name, _form, _first in (
    ("bool", _BOOL, "yYnNtTfFoO"),
    ("null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"^<<$"), "<"),
    ("int", re.compile(r"^[-+]?(0|[1-9]\d*)$", re.ASCII), "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _form, list(_first))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a yaml file that holds a mapping."""
    if not str(path).startswith("/dev/fd/"):  # the shell's <(...)
        require_regular(path)
        num_bytes = Path(path).stat().st_size
        if num_bytes > _MOST_BYTES:
            raise ConfigError(
                f"{path}: {num_bytes} bytes; a configuration file may have at most {_MOST_BYTES}"
            )
    content = _parse(read_text(path), str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, found {type(content).__name__}")
    return content


def _parse(text: str, where: str, *, has_lines: bool = True) -> Any:
    """Parse yaml; what is invalid is a ConfigError, with the line if the text has several."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a number of 5000 digits
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and has_lines else ""
        raise ConfigError(f"{where}{line}: invalid yaml: {getattr(error, 'problem', error)}") from error


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as yaml atomically, keeping its order."""
    write_text(path, yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def load(model: type[Model], path: Path, overrides: Sequence[str] = ()) -> Model:
    """Read a yaml file, apply `--set key=value` overrides and validate everything at once."""
    content = read_yaml(path)
    for word in overrides:
        apply(content, word)
    return check(model, content, str(path))


def check(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """Validate a mapping against a configuration model; `where` starts the error message."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [f"  {_explain(problem)}" for problem in error.errors()]
        more = [f"  and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        shown = [f"{where}: {counted(len(lines), 'problem')}:", *lines[:_MOST_LINES], *more]
        raise ConfigError("\n".join(shown)) from error


def find_published(section: str, word: str | Path) -> Path:
    """Find the yaml file for a name or a path; a name stands for `conf/<section>/<name>.yaml`.

    A path is used as is. A name is looked up in the working folder, then in the folders above it, and finally
    among the files shipped with adaptkit; the first match is used.
    """
    found = find_optional(section, word)
    if found is None:
        known = published_names(section)
        near = nearest(str(word), known) or f"; known: {', '.join(known)}"
        raise ConfigError(f"'{word}': no conf/{section}/{word}.yaml here, above or in adaptkit{near}")
    return found


def find_optional(section: str, word: str | Path) -> Path | None:
    """Find the yaml file for a name or a path as `find_published` does; None for an unknown name."""
    if is_path(word):
        return Path(word)
    files = (folder / f"{word}.yaml" for folder in _folders(section))
    return next((file for file in files if str(word) in published_names(section) and file.is_file()), None)


def published_names(section: str) -> list[str]:
    """List the names that `find_published` finds in a section, sorted."""
    return sorted({file.stem for folder in _folders(section) for file in folder.glob("*.yaml")})


def is_path(word: str | Path) -> bool:
    """Whether a word is the path of a yaml file rather than a name.

    >>> is_path("conf/hra.yaml"), is_path("hra")
    (True, False)
    """
    return Path(word).suffix in (".yaml", ".yml") or len(Path(word).parts) > 1


def _folders(section: str) -> list[Path]:
    """List the folders that may hold a section's files, nearest first."""
    here = Path.cwd()
    shipped = Path(__file__).parent / "conf" / section
    return [*(folder / "conf" / section for folder in (here, *here.parents)), shipped]


def dump(config: Config) -> dict[str, Any]:
    """Return a configuration as plain yaml types, with every default written out."""
    return config.model_dump(mode="json")


def apply(content: dict[str, Any], word: str, *, option: str = "--set") -> None:
    """Set one `a.0.b=value` in nested mappings and lists; the value is yaml, errors name `option`."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"{option} {word}: expected key=value, for example train.lr=1e-3")
    *parents, last = key.split(".")
    if len(parents) > _MOST_NESTED:
        raise ConfigError(f"{option} {key[:60]}...: nested more than {_MOST_NESTED} levels deep")
    place: Any = content
    for part in parents:
        if isinstance(place, dict) and place.get(part) is None:  # absent, or `part:` with nothing after it
            place[part] = {}
        place = place[_index(place, part, f"{option} {key}") if isinstance(place, list) else part]
        if not isinstance(place, dict | list):
            raise ConfigError(
                f"{option} {key}: '{part}' holds the value {shorten(repr(place), 60)}, which has no keys"
            )
    parsed = _parse(value, f"{option} {word}", has_lines=False)
    if isinstance(place, list):
        place[_index(place, last, f"{option} {key}")] = parsed
    else:
        place[last] = parsed


def _index(items: list[Any], part: str, where: str) -> int:
    if not (part.isascii() and part.isdecimal() and len(part) < 9) or int(part) >= len(items):
        raise ConfigError(f"{where}: '{part}' is not an index of a list of {len(items)}")
    return int(part)


def _restate(problem: Mapping[str, Any], model: type[BaseModel]) -> InitErrorDetails:
    """Rephrase a pydantic problem for users; one that was rephrased before is kept."""
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        message = f"unknown key{nearest(str(problem['loc'][-1]), known) or '; known: ' + ', '.join(known)}"
    elif problem["type"] == "missing":
        message = "missing"
    elif problem["type"] == "literal_error":
        choices = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        message = f"{message}{nearest(str(problem['input']), choices)}"
    elif problem["type"] == "string_type" and isinstance(problem["input"], int | float | date):
        message = "expected text; put it in quotes, which yaml needs around a number or date: name='2380'"
    stated = PydanticCustomError("stated", "{message}", {"message": message})
    return {"type": stated, "loc": problem["loc"], "input": problem["input"]}


def _explain(problem: Mapping[str, Any]) -> str:
    """Format one problem as `key: what (seen: value)`."""
    key = ".".join(str(part) for part in problem["loc"])
    is_plain = isinstance(problem["input"], str | int | float | bool) and problem["msg"] != "missing"
    seen = f" (seen: {problem['input']!r})" if is_plain else ""
    what = problem["msg"].removeprefix("Value error, ")  # pydantic adds it again around a whole model
    return f"{key}: {what}{seen}" if key else what
