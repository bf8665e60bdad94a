"""Seeded mutations of bytes, tables, and trees of yaml or json."""

import copy
import random
from collections.abc import Iterator
from typing import Any

WORDS = (
    *("", " ", "-", "0", "-1", "1e309", "nan", "inf", "1.5", "99999999999999999999999", "true", "null"),
    *("a b", "a\tb", "a\rb", "a\x00b", "\ufeffa", "a\u3000b", "a\u200bb", "a\u2028b", "é", "e\u0301", "<b>"),
    *("../up", "/dev/null", "a" * 5000, "%s", "$(true)", "|", "true |", "a.ark:5", "x.ark:-1", "[", "&"),
    "a.ark:99999999999999999999999",
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        3.5,
        -0.5,
        1e-30,
        1e30,
        float("nan"),
        float("inf"),
        2**31,
        2**63,
        2**64,
    ),
    *(10**20, 10**26, 10**400, "", " ", "a", "1", "yes", "1:30:00", "2024-13-45", "1e5", "é", "a\x00b"),
    *(
        "../up",
        "/dev/null",
        [],
        [0],
        [1, 2],
        [[]],
        [None],
        ["a", "a"],
        {},
        {"a": 1},
        {"": {}},
        {1: 2},
        b"\xff",
    ),
)


def mutate_bytes(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Damage a file; return what was done, and the new content."""
    size = max(1, len(content))
    at, length = rng.randrange(size), rng.choice([1, 1, 2, 8, 512, 4096])
    head = rng.randrange(min(size, 200))
    match rng.choice(
        ["flip", "flip", "flip head", "cut", "cut few", "zero", "grow", "insert", "drop", "empty"]
    ):
        case "flip":
            changed = bytes(byte ^ rng.randrange(1, 256) for byte in content[at : at + length])
            return f"flip {length} at {at}", content[:at] + changed + content[at + length :]
        case "flip head":
            changed = bytes(byte ^ rng.randrange(1, 256) for byte in content[head : head + 1])
            return f"flip 1 at {head}", content[:head] + changed + content[head + 1 :]
        case "cut":
            return f"cut to {at}", content[:at]
        case "cut few":
            return f"cut {length}", content[: max(0, len(content) - length)]
        case "zero":
            return f"zero {length} at {at}", content[:at] + bytes(len(content[at : at + length])) + content[
                at + length :
            ]
        case "grow":
            return f"append {length}", content + rng.randbytes(length)
        case "insert":
            return f"insert {length} at {at}", content[:at] + rng.randbytes(length) + content[at:]
        case "drop":
            return f"drop {length} at {at}", content[:at] + content[at + length :]
        case _:
            return "empty", b""


def mutate_table(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Damage a Kaldi table in a way that people and programs do."""
    lines = content.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    word = rng.choice(WORDS)
    raw = word.encode()
    fields = lines[at].split(b" ")
    field = rng.randrange(len(fields))
    match rng.choice(
        ["drop", "double", "swap", "field", "field", "cross", "ends", "bom", "tab", "add", "bytes"]
    ):
        case "drop":
            return f"drop line {at}", b"\n".join(lines[:at] + lines[at + 1 :])
        case "double":
            return f"double line {at}", b"\n".join(lines[: at + 1] + lines[at:])
        case "swap":
            lines[at], lines[other] = lines[other], lines[at]
            return f"swap lines {at} and {other}", b"\n".join(lines)
        case "field":
            fields[field] = raw
            lines[at] = b" ".join(fields)
            return f"line {at} field {field} = {word[:30]!r}", b"\n".join(lines)
        case "cross":
            lines[at] = lines[at].split(b" ")[0] + b" " + b" ".join(lines[other].split(b" ")[1:])
            return f"value of line {other} on line {at}", b"\n".join(lines)
        case "ends":
            return "CRLF", content.replace(b"\n", b"\r\n")
        case "bom":
            return "byte-order mark", b"\xef\xbb\xbf" + content
        case "tab":
            return "tabs", content.replace(b" ", b"\t")
        case "add":
            return f"append {word[:30]!r}", content + raw + rng.choice([b"", b"\n", b" x\n"])
        case _:
            return mutate_bytes(rng, content)


def paths(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every node of a tree below its root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def mutate_tree(rng: random.Random, tree: Any) -> tuple[str, Any]:
    """Change one node of a tree of mappings, lists and values."""
    tree = copy.deepcopy(tree)
    path = rng.choice(list(paths(tree)))
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    name, key = ".".join(map(str, path)), path[-1]
    match rng.choice(["value", "value", "value", "drop", "key", "deep", "double", "near"]):
        case "drop":
            del parent[key]
            return f"{name} dropped", tree
        case "key" if isinstance(parent, dict):
            new = rng.choice([f"{key}x", "", 5, None])
            parent[new] = parent.pop(key)
            return f"{name} renamed to {new!r}", tree
        case "deep":
            nested: Any = 1
            for _ in range(rng.choice([3, 60, 600])):
                nested = [nested]
            parent[key] = nested
            return f"{name} nested", tree
        case "double" if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
            return f"{name} doubled", tree
        case "near" if isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
            parent[key] = parent[key] * rng.choice([-1, 0, 2, 3, 1000, 0.5]) + rng.choice([-1, 0, 1])
            return f"{name} = {parent[key]!r}", tree
    parent[key] = value = copy.deepcopy(rng.choice(VALUES))
    return f"{name} = {str(value)[:40]!r} ({type(value).__name__})", tree
