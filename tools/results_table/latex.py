"""The report as LaTeX: two `table` environments for the figures, one for where they come from.

Not tabulate or pandas: their tables have no groups of rows and do not break long names.
"""

from __future__ import annotations

from itertools import groupby

from .table import Cell, Report, Table
from .words import ORIGIN_HEADER, cell_words, origin_words

_HEAD = "% \\usepackage{booktabs,graphicx} in the preamble.\n"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_\allowbreak{}",
    "/": r"/\allowbreak{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": r"{[}",
    "]": r"{]}",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "−": r"$-$",
    "±": r"$\pm$",
    "…": r"\ldots{}",
}


def latex(report: Report) -> str:
    """The report as LaTeX that needs booktabs and graphicx."""
    parts = [_HEAD]
    if report.alarm:
        parts.append(f"\\textbf{{{escape(report.alarm)}}}\n")
    parts += [_figures(table) for table in report.tables]
    parts.append(
        "\\begin{itemize}\n" + "".join(f"\\item {escape(note)}\n" for note in report.notes) + "\\end{itemize}\n"
    )
    if report.origins:
        rows = [origin_words(origin, short=True) for origin in report.origins]
        lines = [_line(map(escape, ORIGIN_HEADER)), r"\midrule", *(_line(map(escape, row)) for row in rows)]
        parts.append(_environment("Where the figures come from.", "l" * len(ORIGIN_HEADER), lines))
    return "\n".join(parts)


def escape(text: str) -> str:
    """Text whose characters LaTeX takes for themselves."""
    return "".join(_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def _figures(table: Table) -> str:
    lines = [_line(["", "", *(escape(column.title) for column in table.columns)])]
    for _, rows in groupby(table.rows, key=lambda row: row.method):
        lines.append(r"\midrule")
        for place, row in enumerate(rows):
            name = escape(row.method) if place == 0 else ""
            lines.append(_line([name, escape(row.kind), *map(_cell, row.cells)]))
    return _environment(f"{table.title}.", "ll" + "r" * len(table.columns), lines)


def _environment(caption: str, columns: str, lines: list[str]) -> str:
    body = "\n".join(["\\toprule", *lines, "\\bottomrule"])
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{escape(caption)}}}\n"
        f"\\resizebox{{\\linewidth}}{{!}}{{%\n\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}}}\n\\end{{table}}\n"
    )


def _line(cells: object) -> str:
    return " & ".join(cells) + r" \\"  # type: ignore[arg-type]


def _cell(cell: Cell) -> str:
    words = cell_words(cell)
    text = escape(words.figure)
    if cell.state in ("missing", "unpublished"):
        return f"\\textit{{{text}}}"
    if words.difference:
        text += f" ({escape(words.difference)})"
    return text + (f" {{\\scriptsize [{words.source}]}}" if words.source else "")
