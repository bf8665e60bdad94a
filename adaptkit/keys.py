"""The keys of configuration models, each with its type and range in words, its default and its help."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adaptkit.config import Config

_LOWER = {"exclusiveMinimum": ">", "gt": ">", "minimum": ">=", "ge": ">="}  # of JSON schemas; the short ones
_UPPER = {"exclusiveMaximum": "<", "lt": "<", "maximum": "<=", "le": "<="}  # where a validator comes first
_UNBOUNDED = 1e9  # limits from here on only guard against typing errors


@dataclass(frozen=True)
class Key:
    """A key in full, as for --set; `kind` is the adapter type or search that it belongs to, if any."""

    name: str
    type: str
    help: str
    default: Any = None  # of a section, those of its keys
    is_required: bool = False
    kind: str = ""


def list_keys(model: type[Config], prefix: str = "", *, leaves: frozenset[str] = frozenset()) -> list[Key]:
    """List the keys of a configuration model and its sections, but for those of `leaves` (full keys)."""
    schema = model.model_json_schema()
    return list(_walk(schema, schema.get("$defs", {}), prefix, {}, leaves))


def type_in_words(schema: Mapping[str, Any]) -> str:
    """Describe the type in a JSON schema in words.

    >>> type_in_words({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]})
    'integer > 0 | null'
    """
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(type_in_words(choice) for choice in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "$ref" in schema or schema.get("type") == "object":
        return "section"
    if "prefixItems" in schema:
        return f"[{', '.join(map(type_in_words, schema['prefixItems']))}]"
    if schema.get("type") == "array":
        return f"[{type_in_words(schema.get('items', {}))}]"
    name = "path" if schema.get("format") == "path" else schema.get("type", "any value")
    lower = max(((schema[key], word) for key, word in _LOWER.items() if key in schema), default=None)
    upper = min(((schema[key], word) for key, word in _UPPER.items() if key in schema), default=None)
    bounds = [lower, upper if upper and upper[0] < _UNBOUNDED else None]
    return " ".join([name, *(f"{bound[1]} {bound[0]:g}" for bound in bounds if bound)])


def _walk(
    schema: Mapping[str, Any],
    parts: Mapping[str, Any],
    prefix: str,
    given: Mapping[str, Any],
    leaves: frozenset[str],
) -> Iterator[Key]:
    """Yield the keys of a schema, each section before its keys; `given` are defaults instead of its own."""
    for own_name, field in schema.get("properties", {}).items():
        name = f"{prefix}{own_name}"
        default = given.get(own_name, field.get("default"))
        is_required = own_name in schema.get("required", ()) and own_name not in given
        yield Key(name, type_in_words(field), field.get("description", ""), default, is_required)
        sections = [choice["$ref"] for choice in [field, *field.get("anyOf", [])] if "$ref" in choice]
        if len(sections) == 1 and name not in leaves:
            below = parts[sections[0].rpartition("/")[2]]
            yield from _walk(below, parts, f"{name}.", default if isinstance(default, dict) else {}, leaves)
