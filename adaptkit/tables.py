"""Format tables as text: aligned columns for a terminal or log, and Markdown."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format rows as aligned columns, the first `left` flush left and the others flush right.

    >>> print(aligned([["speaker", "WER"], ["bob", "7.50"]]))
    speaker   WER
    bob      7.50
    """
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
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], rule, *lines[1:]])
