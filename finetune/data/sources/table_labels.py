"""Several labels an image in a table: in one cell with a separator, or as a column of 0 and 1 for each label."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from finetune.data.label_sets import multi_hot
from finetune.errors import FinetuneError
from finetune.text import printable

JOINED = "\x1f"
"""What `joined` puts between labels: the unit separator, which no label holds."""
_OBVIOUS = "|;,"
_MOSTLY = 0.9
"""A column with this share of 0 and 1 is meant as one of labels, and its other cells are faults."""


def obvious_separator(cells: Iterable[str]) -> str | None:
    """The separator of labels, where the cells show it; else None.

    It does if its parts are fewer than the cells that they make, and cells have different numbers of them: `red;small`
    and `blue;big`, two parts in every cell, may be classes.
    """
    distinct = {cell for cell in cells if cell}
    for separator in _OBVIOUS:
        parts = [labels_of(cell, separator) for cell in distinct]
        if len({len(one) for one in parts}) > 1 and len({name for one in parts for name in one}) < len(distinct):
            return separator
    return None


def labels_of(cell: str, separator: str) -> tuple[str, ...]:
    """The labels in a cell, each once, in their order; none of an empty one."""
    return tuple(dict.fromkeys(part.strip() for part in cell.split(separator) if part.strip()))


def joined(ones: Iterable[str]) -> str:
    """The labels of an image as one cell."""
    return JOINED.join(ones)


def names_and_rows(
    cells: Mapping[int, str], separator: str, known: Sequence[str]
) -> tuple[list[str], dict[int, np.ndarray]]:
    """(the names of the labels, uint8 0/1 `[labels]` of each row). known: the names where columns give them.

    Otherwise they are sorted, whole numbers by their value.
    """
    sets = {at: labels_of(cell, separator) for at, cell in cells.items()}
    found = {name for one in sets.values() for name in one}
    names = list(known) or sorted(found, key=(lambda name: (int(name), name)) if all(map(_whole, found)) else str)
    return names, dict(zip(sets, multi_hot(list(sets.values()), names), strict=True))


def mostly_labels(cells: Sequence[str]) -> bool:
    """Whether a column is one of labels, apart from a few faults: 0 and 1, and some 1."""
    whole = [cell.removesuffix(".0") for cell in cells]
    return "1" in whole and sum(cell in ("0", "1") for cell in whole) >= _MOSTLY * len(whole)


def columns_of_labels(
    where: str, header: Sequence[str], rows: Sequence[Sequence[str]], among: Sequence[int]
) -> list[int]:
    """The positions, of those in `among`, of the columns of 0 and 1. FinetuneError where one of them has other cells.

    Columns that are not mostly of 0 and 1 say something else about the images.
    """
    found = []
    for at in among:
        cells = [row[at].strip().removesuffix(".0") for row in rows]
        wrong = [number for number, cell in enumerate(cells) if cell not in ("0", "1")]
        if wrong and len(cells) - len(wrong) >= _MOSTLY * len(cells):
            shown = f"'{printable(cells[wrong[0]])}'" if cells[wrong[0]] else "an empty cell"
            raise FinetuneError(
                f"{where}: row {wrong[0] + 2} has {shown} in column '{printable(header[at])}', whose other cells are 0 "
                "and 1: expected a 1 where the image has the label, else a 0"
            )
        found += [] if wrong else [at]
    return found


def _whole(name: str) -> bool:
    return name.isdecimal()
