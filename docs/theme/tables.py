"""`make readme`: fill the tables of README.md and docs/ with figures from the results that they come from.

A comment above a table, which is not shown, names its source:

    <!-- table
    of: egs/voices/RESULTS.md           # the page; its first table with these columns and rows
    rows: {none: no adapters, tpa: '`tpa`'}             # experiment: its name here; without it all rows
    columns: {WER: WER (95 % interval), size: [egs/fsdd/RESULTS.md, per task]}    # or a list of names to keep
    -->
"""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_COPIED = re.compile(r"<!-- table\n(?P<spec>.*?)-->\n(?:\n(?:\|[^\n]*\n)+)?", re.DOTALL)
_TABLE = re.compile(r"^\|.*\n\|[ :|-]+\|\n(?:\|.*\n)*", re.MULTILINE)
_ADDED = re.compile(r" \(.*| ?\*$|, a .*")  # what explains the name of a row or column


def pages() -> list[Path]:
    """Return the pages that may have copied tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fill(text: str) -> str:
    """Return a page with its copied tables filled; raises `ValueError` where a source lacks a figure."""
    return _COPIED.sub(lambda match: f"<!-- table\n{match['spec']}-->\n\n{_make(match['spec'])}", text)


def _make(spec: str) -> str:
    """Make the table of a comment."""
    wanted: dict[str, Any] = yaml.safe_load(spec)
    page, rows, columns = wanted["of"], wanted.get("rows", {}), wanted["columns"]
    columns = columns if isinstance(columns, dict) else {name: name for name in columns}
    sources = [[page, at] if isinstance(at, str) else at for at in columns.values()]
    tables = {of: _find(of, [at for other, at in sources if other == of], list(rows)) for of, _ in sources}
    names = rows or {name: name for name in tables[page]}
    head = [wanted.get("head", "experiment"), *columns]
    body = [[shown, *(tables[of][name][at] for of, at in sources)] for name, shown in names.items()]
    lines = [head, [":--", *["--:"] * len(sources)], *body]
    return "".join(f"|{'|'.join(_pad(cell) for cell in cells)}|\n" for cells in lines)


def _pad(cell: str) -> str:
    return cell if cell in {":--", "--:"} else f" {cell} "


def _find(page: str, columns: list[str], rows: list[str]) -> dict[str, dict[str, str]]:
    """Return the first table of a page that has some columns and rows: its cells by row and column."""
    for table in _TABLE.findall((ROOT / page).read_text(encoding="utf-8")):
        head, _, *lines = (
            [cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()
        )
        found = {_name(cells[0]): dict(zip(head, cells, strict=True)) for cells in lines}
        if set(columns) <= set(head) and set(rows) <= set(found):
            return found
    raise ValueError(f"{page}: no table with the columns {columns} and the rows {rows}")


def _name(cell: str) -> str:
    """Return the name of a row: 'hra_ffn (hra)' without what explains it."""
    return _ADDED.sub("", cell.strip("`"))


def main() -> None:
    """Fill all pages."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if (filled := fill(text)) != text:
            path.write_text(filled, encoding="utf-8")
            sys.stderr.write(f"{path.relative_to(ROOT)}: tables filled\n")


if __name__ == "__main__":
    main()
