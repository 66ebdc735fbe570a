"""Cells and origins in words, for all formats."""

from __future__ import annotations

from dataclasses import dataclass

from .table import Cell, Origin

MARKS = {"seeded": "†", "part": "‡"}
ABSENT_CELLS = {"missing": "missing", "unpublished": "n/a"}
SHORT_HASH = 12
ORIGIN_HEADER = (
    "",
    "data set",
    "images and reasons",
    "config",
    "weights",
    "weights hash",
    "reasons hash",
    "code hash",
    "commit",
    "op",
    "file",
)


@dataclass(frozen=True)
class CellWords:
    """A cell's parts: the figure with its mark, the difference with its sign, the number of its origin; "" if none."""

    figure: str
    difference: str = ""
    source: str = ""


def cell_words(cell: Cell, minus: str = "−") -> CellWords:
    """A cell in words.

    Args:
        cell: the cell.
        minus: the sign of a negative difference.
    """
    if cell.value is None:
        return CellWords(ABSENT_CELLS[cell.state])
    if cell.state == "published":
        return CellWords(f"{cell.value:.1f}")
    sign = ""
    if cell.difference is not None:
        rounded = round(cell.difference, 2)
        sign = f"{'+' if rounded > 0 else minus if rounded < 0 else '±'}{abs(rounded):.2f}"
    return CellWords(
        f"{cell.value:.2f}{MARKS.get(cell.state, '')}", sign, "" if cell.source is None else str(cell.source)
    )


def origin_words(origin: Origin, *, short: bool) -> tuple[str, ...]:
    """The values for `ORIGIN_HEADER`.

    Args:
        origin: the origin.
        short: cut hashes to their first digits.
    """
    result = origin.result

    def digits(text: str) -> str:
        head, dirty, _ = text.partition("-dirty")
        return head[:SHORT_HASH] + dirty if short else text

    weights = result.text("weights_file")
    return (
        str(origin.number),
        result.dataset,
        origin.note,
        result.text("config_file"),
        "random stand-in weights" if result.seeded else weights,
        digits(result.part("weights")),
        digits(result.part("triplets")),
        digits(result.part("code")),
        digits(result.text("commit")),
        result.text("op_backend"),
        str(result.path),
    )
