"""A table of pixels: a row per image, with a column for each pixel (MNIST as CSV) or one of all pixels (FER2013)."""

import csv
import re
from pathlib import Path

import numpy as np

from checkpoints.errors import listed
from finetune.data.dataset import Dataset, Split
from finetune.data.sources.arrays import as_images
from finetune.data.sources.assembly import ReadOptions, assemble
from finetune.data.sources.image_table import splits_of
from finetune.data.sources.table_columns import plain, usual_columns
from finetune.data.sources.table_pairs import not_used, tables_beside
from finetune.data.sources.table_rows import Table, read_rows
from finetune.errors import FinetuneError
from finetune.text import first_line, printable

_LEAST = 60
"""A table with more columns whose names are numbered is one of pixels: images of 8 px and more."""
_NUMBERED = re.compile(r"[a-z_ ]{0,7}\d+([._x]\d+)?")
"""`pixel0`, `pixel_0_0`, `1x1`, or a number where there is no header."""
_ALL = ("pixels", "pixel")


def is_pixel_table(path: Path) -> bool:
    """Whether the first line of a `.csv` or `.tsv` has a column for each pixel, or one called `pixels`."""
    header = _header(path)[0]
    numbered = sum(_NUMBERED.fullmatch(name.lower()) is not None for name in header)
    return numbered > max(_LEAST, 0.9 * len(header)) or any(plain(name) in _ALL for name in header)


def read_pixels(path: Path, options: ReadOptions) -> Dataset:
    """The images in the rows of `path`: square, grey or RGB, in [0, 255] or [0, 1].

    The label has its usual name, or is named by `options.csv_columns`, or is the only other column. Without a header,
    it is the first column. A table of training images is read with those of other splits beside it, if they have as
    many columns: `sign_mnist_train.csv`, `sign_mnist_test.csv`. The classes are the labels that occur, in their order.
    Raises FinetuneError for cells that are no numbers, and for rows that are no square images.
    """
    header = _header(path)[0]
    if len(header) > _LEAST:
        tables, remarks = _beside(path, len(header))
        read = [_a_column_each(one, *_header(one), options) for one in tables.values()]
        pixels, labels = (np.concatenate([one[part] for one in read]) for part in (0, 1))
        splits = [split for split, one in zip(tables, read, strict=True) for _ in one[1]]
        label = read[0][2]
    else:
        pixels, labels, label, splits, remarks = _one_column(path, options)
    whole = np.issubdtype(labels.dtype, np.number)
    found, numbers = np.unique(labels, return_inverse=True)
    names = tuple(f"{name:g}" if whole else printable(str(name)) for name in found.tolist())
    images, said = as_images(path, "the pixels", pixels, options.white)
    members = {split: np.flatnonzero(np.array(splits) == split) for split in sorted({*splits} - {""})}
    return assemble(
        options,
        {split: Split(images[at], np.asarray(numbers[at], np.int64)) for split, at in members.items()},
        name=path.stem,
        class_names=names,
        source=f"{path}: a row of pixels for each image, label in column '{printable(label)}'",
        remarks=(*said, *remarks),
    )


def _beside(path: Path, columns: int) -> tuple[dict[str, Path], tuple[str, ...]]:
    """(the table of each split, what is not used because it has not so many columns: one without labels)."""
    beside = tables_beside(path)
    unfit = [one.name for one in beside.values() if len(_header(one)[0]) != columns]
    tables = {split: one for split, one in beside.items() if one.name not in unfit}
    said = f"read from {printable(listed([one.name for one in tables.values()]))}"
    return tables or {"train": path}, (*([said] if len(tables) > 1 else []), *not_used(unfit, path))


def _header(path: Path) -> tuple[list[str], str]:
    """(the cells of the first line, what separates them)."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline(1 << 20)
    separator = max(",;\t", key=line.count)
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])], separator
    except csv.Error:
        return [], separator


def _a_column_each(
    path: Path, header: list[str], separator: str, options: ReadOptions
) -> tuple[np.ndarray, np.ndarray, str]:
    """(float32 `[n, pixels]`, labels `[n]`, the label's column). NumPy reads the numbers: millions of cells."""
    plainly = all(cell.replace(".", "", 1).isdigit() for cell in header)
    names = [str(number) for number in range(1, len(header) + 1)] if plainly else header
    named = options.csv_columns.get("label")
    usual = [0] if plainly else usual_columns("label", names)
    at = names.index(named) if named in names else next(iter(usual), None)
    if at is None or (named and named not in names):
        raise FinetuneError(
            f"{path} has a column for each pixel ({printable(listed(names, most=3))}), and which holds the label is "
            "not clear: say it with --csv-columns label=COLUMN; images without labels cannot be used"
        )
    try:
        cells = np.loadtxt(path, np.float32, delimiter=separator, skiprows=int(not plainly), quotechar='"', ndmin=2)
    except ValueError as error:
        raise FinetuneError(f"{path}: a cell is no number ({first_line(error)}): correct or remove its row") from None
    return np.delete(cells, at, axis=1), cells[:, at], names[at]


def _one_column(path: Path, options: ReadOptions) -> tuple[np.ndarray, np.ndarray, str, list[str], tuple[str, ...]]:
    """(float32 `[n, pixels]`, labels `[n]`, the label's column, the split of each row, remarks)."""
    table: Table = read_rows(path)
    at = next(place for place, name in enumerate(table.header) if plain(name) in _ALL)
    split = next((place for place in usual_columns("split", table.header) if place != at), None)
    others = [place for place in range(len(table.header)) if place not in (at, split)]
    usual = usual_columns("label", [table.header[place] for place in others])
    named = options.csv_columns.get("label")
    if named in table.header:
        label = table.header.index(named)
    elif named is None and (usual or len(others) == 1):
        label = others[usual[0]] if usual else others[0]
    else:
        raise FinetuneError(
            f"{path} has the columns {printable(listed(list(table.header)))}: which of them holds the label of an "
            "image is not clear; say it with --csv-columns label=COLUMN"
        )
    splits, remarks = splits_of(table, {} if split is None else {"split": split})
    rows = [np.fromstring(cell, np.float32, sep=" ") for cell in table.column(at)]
    if len(sizes := {len(row) for row in rows}) != 1:
        raise FinetuneError(f"{path}: rows have {min(sizes)} to {max(sizes)} pixels: expected the same number in each")
    return np.stack(rows), np.array(table.column(label)), table.header[label], splits, remarks
