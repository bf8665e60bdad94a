"""Format tables as text: aligned columns for a terminal or log, and Markdown.

Names come from data: what Markdown or html would take for markup is escaped, and a cell fills one line.
"""

import html
import re
from collections.abc import Sequence

from adaptkit.characters import visible

_FIGURE = re.compile(r"[-+]?[\d,]+(\.\d+)?\*?( \([^|<&`]*\))?")  # * marks a significant difference
_MARKUP = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format rows as aligned columns, the first `left` flush left and the others flush right.

    >>> print(aligned([["speaker", "WER"], ["bob", "7.50"]]))
    speaker   WER
    bob      7.50
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{{:{'<' if column < left else '>'}{width}}}" for column, width in enumerate(widths)]
    lines = ([shape.format(cell) for shape, cell in zip(formats, row, strict=True)] for row in rows)
    return "\n".join("  ".join(cells).rstrip() for cells in lines)


def markdown(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format rows as a Markdown table whose first row is the header.

    >>> print(markdown([["speaker", "WER"], ["bob", "7.50"]]))
    | speaker | WER |
    |:--|--:|
    | bob | 7.50 |
    """
    rule = "|" + "|".join(":--" if column < left else "--:" for column in range(len(rows[0]))) + "|"
    lines = ["| " + " | ".join(map(_escape_name, row)) + " |" for row in rows]
    return "\n".join([lines[0], rule, *lines[1:]])


def escape_markdown(text: str) -> str:
    r"""Escape what Markdown would take for markup, html included; line ends and control characters show.

    >>> print(escape_markdown("<b>spk_1|`x`_"))
    &lt;b&gt;spk_1\|\`x\`\_
    """
    return _MARKUP.sub(r"\\\g<0>", html.escape(visible(text), quote=False))


def quote_code(text: str) -> str:
    """Quote a text as Markdown code, between more backticks than it contains in a row.

    >>> quote_code("a ``b``")
    '``` a ``b`` ```'
    """
    text = visible(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"


def _escape_name(cell: str) -> str:
    return cell if _FIGURE.fullmatch(cell) else escape_markdown(cell)
