"""A table of images: a `.csv`, `.tsv` or `.parquet` with the path, the class and perhaps the split of each image."""

import os
import re
from array import array
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.errors import listed
from finetune.data.dataset import Dataset
from finetune.data.image_files import PhotoFiles
from finetune.data.sources.assembly import LabelledPhotos, ReadOptions, assemble
from finetune.data.sources.split_names import role_of, settled
from finetune.data.sources.table_columns import USUAL, usual_columns
from finetune.data.sources.table_columns import plain as plain_name
from finetune.data.sources.table_labels import (
    JOINED,
    columns_of_labels,
    joined,
    mostly_labels,
    names_and_rows,
    obvious_separator,
)
from finetune.data.sources.table_pairs import as_one, read_beside
from finetune.data.sources.table_paths import PathFinder
from finetune.data.sources.table_rows import OF_FOLDER, Table, by_folder, read_rows
from finetune.errors import FinetuneError
from finetune.text import printable

_FOLDER = "the table's folder"
_LOOKED_AT = 1_000
_TRIED = 50
"""Rows of which one must name an existing file, for a column to be that of the paths."""
_NAMED = 5
"""The most columns of labels whose names are all in messages."""
_WHOLE = re.compile(r"([+-]?\d{1,18})(\.0*)?")


def read_table(path: Path, options: ReadOptions) -> Dataset:
    """The images that the table `path` lists. It has a header, unless a cell of its first row is an image's name.

    Columns are found by their usual names, or named by `options.csv_columns`; without a header they are called 1, 2,
    ... A label may also be a column for each class, with a 1 in that of the image. An image may have several labels, or
    none: in several such columns, or in one cell with a separator (`options.label_separator`, or as `table_labels`
    finds it).

    A table of training images is read with those of the other splits beside it: `train.csv`, `test.csv`. A list with
    nothing but paths takes the images' folders for their classes.

    Paths start at the table's folder. What is not there is looked for in other folders, as `PathFinder` says, and a
    name without suffix is completed: Kaggle's `train.csv` beside `train/`. The classes are the labels: whole numbers in
    their order, else sorted as text. Values of the split column are read as the names of split folders are.

    Raises FinetuneError where no columns fit, for rows without label, for an image with two labels, and for missing
    files, which `options.skip_bad_images` leaves out.
    """
    tables, remarks = read_beside(path)
    if len(tables) == 1:
        return _dataset(tables["train"], options, options.csv_columns, remarks)
    return _dataset_of_splits(path.parent, tables, options, remarks)


def read_split_tables(root: Path, tables: Mapping[str, Path], options: ReadOptions) -> Dataset:
    """The images that the tables of several splits list, each table in the split's own folder in `root`.

    They are read as one table with a column for the split. Raises FinetuneError as `read_table`.
    """
    return _dataset_of_splits(root, {split: read_rows(path) for split, path in tables.items()}, options, ())


def _dataset_of_splits(
    root: Path, tables: Mapping[str, Table], options: ReadOptions, remarks: tuple[str, ...]
) -> Dataset:
    said = f"read from {listed([printable(str(one.path.relative_to(root))) for one in tables.values()])}"
    columns = {**options.csv_columns, "split": _FOLDER}
    return _dataset(as_one(root, tables, _FOLDER), options, columns, (said, *remarks))


def _dataset(table: Table, options: ReadOptions, named: Mapping[str, str], said: tuple[str, ...]) -> Dataset:
    path = table.path
    find = PathFinder(path)
    table, columns = _columns(table, find, named)
    table, said = _separated(table, columns["label"], options, said)
    splits, remarks = splits_of(table, columns)
    used = [at for at, split in enumerate(splits) if split]
    texts, labels = table.column(columns["path"]), _labels(table, columns["label"], used)
    places = {at: find(texts[at], splits[at] if "split" in columns else None) for at in used}
    missing = [printable(texts[at]) or "(no path)" for at in used if places[at] is None]
    if missing and not options.skip_bad_images:
        raise FinetuneError(
            f"{len(missing)} of {len(used)} images of {path} are not there: {listed(missing, most=5)}: expected paths "
            f"from {path.parent} or a folder beside the table, in column {table.named(columns['path'])}; correct them, "
            "name another column with --csv-columns path=COLUMN, or give --skip-bad-images to leave such images out"
        )
    found = {at: places[at] or str(path.parent / texts[at]) for at in used}
    kept, twice = _without_repetition(table, found, labels, merged=options.multi_label)
    names, numbered = _numbered(table, {at: labels[at] for at in kept})
    photos, order, members = PhotoFiles(path.parent), array("q"), {}
    for split in sorted({splits[at] for at in kept}):
        begin = len(order)
        for at, place in kept.items():
            if splits[at] == split:
                photos.add(place)
                order.append(at)
        members[split] = photos.mixed(np.arange(begin, len(photos)))
    return assemble(
        options,
        LabelledPhotos(photos, np.array([numbered[at] for at in order]), members),
        name=printable(path.stem),
        class_names=tuple(printable(name) for name in names),
        source=f"{path}: {', '.join(f'{role} in column {table.named(at)}' for role, at in columns.items())}",
        remarks=(*said, *remarks, *twice, *find.remarks()),
    )


def _separated(table: Table, column: int, options: ReadOptions, said: tuple[str, ...]) -> tuple[Table, tuple[str, ...]]:
    """(the table with the separator of its labels, what users must know of it)."""
    if table.separator is not None:
        names = printable(listed(list(table.labels), most=5))
        return table, (*said, f"an image may have several labels: the columns of 0 and 1 {names}")
    given = options.label_separator
    cells = table.column(column)
    separator = given or obvious_separator(cells) or (JOINED if options.multi_label else None)
    if separator is None:
        return table, said
    if given and not any(given in cell for cell in cells):
        raise FinetuneError(
            f"--label-separator '{printable(given)}' is in no cell of column {table.named(column)} of {table.path}: "
            "expected what stands between the labels of an image; correct it, or leave it out"
        )
    apart = "one a row" if separator == JOINED else f"apart by '{printable(separator)}'"
    words = f"an image may have several labels: {apart} in column {table.named(column)}"
    return table._replace(separator=separator), (
        *said,
        words + ("" if given or separator == JOINED else " (--label-separator)"),
    )


def _numbered(table: Table, labels: Mapping[int, str]) -> tuple[list[str], dict[int, Any]]:
    """(the names of the classes, the label of each row: its number, or 0/1 for each class)."""
    if table.separator is not None:
        return names_and_rows(labels, table.separator, table.labels)
    whole = all(map(_WHOLE.fullmatch, labels.values()))
    names = sorted(set(labels.values()), key=int if whole else str)
    number = {name: label for label, name in enumerate(names)}
    return names, {at: number[label] for at, label in labels.items()}


def label_across_folders(path: Path, folders: Sequence[str]) -> str | None:
    """A class that the table `path` gives images in several of the `folders` beside it; None if there is none.

    Up to 1,000 rows are looked at. None as well for a table of something else.
    """
    find = PathFinder(path)
    try:
        table, columns = _columns(read_rows(path), find, {})
    except FinetuneError:
        return None
    known: dict[str, str] = {}
    for text, label in islice(
        zip(table.column(columns["path"]), table.column(columns["label"]), strict=True), _LOOKED_AT
    ):
        for place in find.places(text, None)[:1]:
            folder = Path(os.path.relpath(place, path.parent)).parts[0]
            if folder in folders and known.setdefault(label, folder) != folder:
                return label
    return None


def _columns(table: Table, find: PathFinder, named: Mapping[str, str]) -> tuple[Table, dict[str, int]]:
    """(the table, which path, label, and if there is one split -> the position of its column).

    Where the label is one-hot, a column a class, the table gets a column of the classes' names.
    """
    plain = [plain_name(name) for name in table.header]
    found: dict[str, int] = {}
    if "label" in named and named["label"] not in table.header and "+" in named["label"]:
        names = named["label"].split("+")
        if not set(names) - set(table.header):
            table = _with_classes(table, [table.header.index(name) for name in names], named=True)
            named = {**named, "label": table.header[-1]}
    for role, name in named.items():
        if name not in table.header:
            there = printable(listed(list(table.header)))
            raise FinetuneError(f"--csv-columns {role}={printable(name)}: {table.path} has the columns {there}")
        found[role] = table.header.index(name)
    for role in USUAL:
        if role in found:
            continue
        fits = [at for at in usual_columns(role, table.header) if at not in found.values()]
        if role == "path":
            # A column of numbers without a name is the rows' own: '7' is not 7.jpg.
            tried = fits or [at for at in range(len(plain)) if at not in found.values() and not _is_whole(table, at)]
            real = [at for at in tried if any(find.places(text, None) for text in table.column(at)[:_TRIED])]
            fits = real or fits
        elif role == "label" and OF_FOLDER in table.header:
            fits = [table.header.index(OF_FOLDER)]
        elif role == "label" and not fits:
            fits = [at for at, name in enumerate(plain) if at not in found.values() and name not in ("", "index")]
            if len(fits) > 1 and sum(mostly_labels(table.column(at)) for at in fits) > 1:
                table = _with_classes(table, fits)
                fits = [len(table.header) - 1]
            elif len(fits) > 1 and all(map(str.isdecimal, table.header)):
                # Without a header, one column of words among numbers is the class: boxes follow it, or their sizes.
                fits = [at for at in fits if not _is_whole(table, at)]
            fits = fits if len(fits) == 1 else []
        elif role == "split":
            fits = [at for at in fits if any(map(role_of, table.column(at)))]
        if fits and role == "label" and _is_numbering(table, fits[0]) and (more := by_folder(table, found["path"])):
            repeated = 1 < len(set(more.column(-1))) < len(more.rows)
            table, found[role] = (more, len(table.header)) if repeated else (table, fits[0])
        elif fits:
            found[role] = fits[0]
        elif role != "split":
            raise FinetuneError(
                f"{table.path} has the columns {printable(listed(list(table.header)))}: which of them holds the {role} "
                "of an image is not clear; say it with --csv-columns path=COLUMN,label=COLUMN"
            )
    return table, found


def _is_whole(table: Table, at: int) -> bool:
    return all(map(_WHOLE.fullmatch, table.column(at)))


def _is_numbering(table: Table, at: int) -> bool:
    """Whether each row has a whole number of its own in a column, as in a list of `1 cat/7.jpg`."""
    return _is_whole(table, at) and len(set(table.column(at))) == len(table.rows)


def _is_hot(table: Table, at: int) -> bool:
    """Whether all cells of a column are 0 or 1, and some are 1."""
    return {"1"} <= {cell.removesuffix(".0") for cell in table.column(at)} <= {"0", "1"}


def _with_classes(table: Table, among: Sequence[int], *, named: bool = False) -> Table:
    """The table with one more column: the names of those columns of `among` that are 1. It has a separator where a row
    has several, or none. named: all of `among` are columns of labels. FinetuneError for a cell other than 0 and 1."""
    hot = [at for at in among if named or _is_hot(table, at)]
    ones = _ones(table, hot)
    if any(len(one) != 1 for one in ones):
        where = str(table.path)
        hot = columns_of_labels(where, table.header, table.rows, among)
        if named and len(hot) < len(among):
            other = next(at for at in among if at not in hot)
            raise FinetuneError(f"{where}: column {table.named(other)} has other cells than 0 and 1: name others")
        ones = _ones(table, hot)
    names = [table.header[at] for at in hot]
    rows = [[*row, joined(one)] for row, one in zip(table.rows, ones, strict=True)]
    several = any(len(one) != 1 for one in ones)
    name = "+".join(names) if len(names) <= _NAMED else f"{len(names)} columns of labels"
    found = Table(table.path, [*table.header, name], rows)
    return found._replace(separator=JOINED, labels=names) if several else found


def _ones(table: Table, hot: Sequence[int]) -> list[list[str]]:
    """Of each row, the names of the columns that are 1."""
    return [[table.header[at] for at in hot if row[at].strip().removesuffix(".0") == "1"] for row in table.rows]


def splits_of(table: Table, columns: Mapping[str, int]) -> tuple[list[str], tuple[str, ...]]:
    """(for each row train, validation or test, "" if it is not used; remarks)."""
    if "split" not in columns:
        return ["train"] * len(table.rows), ()
    values = table.column(columns["split"])
    roles = {value: role_of(value) for value in dict.fromkeys(value.lower() for value in values)}
    named = table.named(columns["split"])
    if unknown := [value for value, role in roles.items() if role is None]:
        raise FinetuneError(
            f"{table.path}: column {named} has the values {printable(listed([one or '(none)' for one in unknown]))}: "
            "expected the name of a split in each row, such as train, val and test"
        )
    taken, remarks = settled(roles, f"{table.path}: column {named}")
    if "train" not in taken:
        raise FinetuneError(
            f"{table.path}: column {named} has {printable(listed(list(roles)))}: expected train as well"
        )
    meant = {value: split for split, value in taken.items()}
    left_out = sum(value.lower() not in meant for value in values)
    if left_out:
        remarks = (*remarks, f"{left_out} rows that are neither for training nor for testing are not used")
    return [meant.get(value.lower(), "") for value in values], remarks


def _labels(table: Table, column: int, used: Sequence[int]) -> dict[int, str]:
    """The label of each row that is used. If all are whole numbers, `1.0` and `01` are `1`."""
    cells = table.column(column)
    if table.separator is not None:
        return {at: cells[at] for at in used}
    if empty := [at for at in used if not cells[at]]:
        raise FinetuneError(
            f"{table.path}: {len(empty)} rows have no label in column {table.named(column)}, the first of them is row "
            f"{empty[0] + 2}: fill them in or remove them"
        )
    whole = {at: found for at in used if (found := _WHOLE.fullmatch(cells[at]))}
    return {at: str(int(whole[at][1])) if len(whole) == len(used) else cells[at] for at in used}


def _without_repetition(
    table: Table, places: Mapping[int, str], labels: dict[int, str], *, merged: bool
) -> tuple[dict[int, str], tuple[str, ...]]:
    """(the places without repeated ones, a remark on these). FinetuneError where an image has two labels, unless they
    are to be merged into `labels`."""
    first: dict[str, int] = {}
    kept = {at: place for at, place in places.items() if first.setdefault(place, at) == at}
    if merged:
        for at in places.keys() - kept.keys():
            labels[first[places[at]]] += (table.separator or JOINED) + labels[at]
        more = len(places) - len(kept)
        return kept, ((f"{more} rows give an image further labels",) if more else ())
    if wrong := [at for at, place in places.items() if labels[first[place]] != labels[at]]:
        pair = f"{printable(labels[first[places[wrong[0]]]])} and {printable(labels[wrong[0]])}"
        raise FinetuneError(
            f"{table.path}: {len(wrong)} rows give an image another label than a row before: "
            f"{printable(places[wrong[0]])} is {pair}; expected one class for each image, or "
            "--multi-label if it has both"
        )
    count = len(places) - len(kept)
    return kept, ((f"{count} rows that repeat an image are left out",) if count else ())
