r"""The tables of a report in LaTeX, with the rules of the package booktabs, scaled to fit by graphicx.

Tables of many columns are divided into several below each other, so that none becomes too small to read, and
what is still wider than the text is shrunk to its width.

Names keep characters beyond ASCII: pdfLaTeX sets those of European languages, LuaLaTeX and XeLaTeX whatever
the font has.
"""

import re
from collections.abc import Sequence

from adaptkit.characters import visible
from adaptkit.report import by_set, summary
from adaptkit.report.by_set import SetComparison
from adaptkit.report.notes import list_notes, list_warnings
from adaptkit.report.runs import Comparison
from adaptkit.report.sections import Cell, Section, list_group_sections, list_speaker_sections
from adaptkit.report.speakers import list_rate_sections

_SPECIAL = {character: f"\\{character}" for character in "_%&#${}"}
_SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}"}
_SPECIAL |= {"'": r"\textquotesingle{}", '"': r"{\char34}", "[": "{[}", "]": "{]}", "*": "{*}", "–": "--"}
_MINUS = re.compile(r"(?<![^\s(])-(?=\d)")
_REMARK = "% needs \\usepackage{booktabs,graphicx}"
_WIDEST = 120  # characters in a row; an article has 75 of this size, so that no table is shrunk below 3/5
_GAP = 3  # characters between columns
_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def as_latex(comparison: Comparison) -> str:
    """Format the experiments, their groups and speakers."""
    notes = [summary.explain(comparison), *list_notes(comparison.results), *list_warnings(comparison)]
    main = Section(f"Word error rates on {comparison.set_name}", summary.as_cells(comparison), notes)
    more = [*list_speaker_sections(comparison), *list_group_sections(comparison)]
    return _join([main, *more, *list_rate_sections(comparison.results)])


def sets_as_latex(conditions: Sequence[SetComparison]) -> str:
    """Format the experiments on several sets."""
    sections = []
    for group in conditions:
        sections.append(
            Section("Word error rates by set", by_set.as_cells(group), by_set.list_remarks(group))
        )
        sections += [*list_speaker_sections(group.together), *by_set.list_group_sections(group)]
    return _join(sections)


def escape_latex(text: str) -> str:
    r"""Escape what LaTeX would take for markup, also at the start of a row; line ends show.

    >>> print(escape_latex(r"50 % of a_b\c --"))
    50 \% of a\_b\textbackslash{}c -{}-
    """
    escaped = "".join(_SPECIAL.get(character, character) for character in visible(text))
    return re.sub("-(?=-)", "-{}", escaped) if "--" in text else escaped


def _join(sections: Sequence[Section]) -> str:
    return "\n\n".join([_REMARK, *map(_format_table, sections)])


def _format_table(section: Section) -> str:
    caption = " ".join([f"{section.title}.", *section.notes])
    parts = [_format_part([[row[0], *row[part]] for row in section.rows]) for part in _divide(section.rows)]
    body = "\n\\par\\medskip\n".join(parts)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(caption)}}}", r"\small", body]
    return "\n".join([*lines, r"\end{table}"])


def _divide(rows: Sequence[Sequence[Cell]]) -> list[slice]:
    """Divide the columns, the first aside, into parts that are not too wide together with the first."""
    first, *widths = (max(map(_width, column)) + _GAP for column in zip(*rows, strict=True))
    starts, total = [1], first
    for place, width in enumerate(widths, start=1):
        total += width
        if total > _WIDEST and place > starts[-1]:
            starts.append(place)
            total = first + width
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(widths) + 1], strict=True)]


def _width(cell: Cell) -> float:
    """Return about how many characters wide a cell is; its small print is narrower."""
    figure, small = cell
    return len(figure) + (0.9 * len(f" ({small})") if small else 0)


def _format_part(rows: Sequence[Sequence[Cell]]) -> str:
    head, *body = rows
    lines = [
        _FIT,
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        _format_row(head),
        r"\midrule",
        *map(_format_row, body),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    return "\n".join(lines)


def _format_row(row: Sequence[Cell]) -> str:
    name, *figures = (
        escape_latex(figure) + (rf" {{\footnotesize ({escape_latex(small)})}}" if small else "")
        for figure, small in row
    )
    return " & ".join([name, *(_MINUS.sub("$-$", figure) for figure in figures)]) + r" \\"
