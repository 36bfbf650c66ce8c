"""A table of images: a `.csv`, `.tsv` or `.parquet` with the path, the class and perhaps the split of each image."""

import csv
import io
import os
import re
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from checkpoints.errors import listed
from finetune.data import decoding
from finetune.data.dataset import Dataset
from finetune.data.image_files import PhotoFiles, is_visible
from finetune.data.sources.assembly import LabelledPhotos, ReadOptions, assemble
from finetune.data.sources.split_names import role_of, settled
from finetune.data.sources.table_columns import USUAL
from finetune.data.sources.table_columns import plain as plain_name
from finetune.errors import FinetuneError
from finetune.text import first_line, printable

TABLES = (".csv", ".tsv", ".parquet")
"""The suffixes of tables."""
_SEPARATORS = ",;\t|"
_TRIED = 50
"""Rows of which one must name an existing file, for a column to be that of the paths."""
_WHOLE = re.compile(r"([+-]?\d{1,18})(\.0*)?")


class _Table(NamedTuple):
    """The text of a table: `header` with a name for each column, and the rows below it."""

    path: Path
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def column(self, at: int) -> list[str]:
        """The texts of a column, without blanks around them."""
        return [row[at].strip() for row in self.rows]

    def named(self, at: int) -> str:
        """The name of a column, for messages."""
        return f"'{printable(self.header[at])}'"


def read_table(path: Path, options: ReadOptions) -> Dataset:
    """The images that the table `path` lists. It has a header, unless a cell of its first row is an image's name.

    Columns are found by their usual names, or named by `options.csv_columns`; without a header they are called 1, 2,
    ... A label may also be a column for each class, with a 1 in that of the image.

    Paths start at the table's folder. What is not there is looked for in the folders beside the table, and a name
    without suffix is completed: Kaggle's `train.csv` beside `train/`. The classes are the labels: whole numbers in
    their order, else sorted as text. Values of the split column are read as the names of split folders are.

    Raises FinetuneError where no columns fit, for rows without label, for an image with two labels, and for missing
    files, which `options.skip_bad_images` leaves out.
    """
    find = _Finder(path)
    table, columns = _columns(_read(path), find, options.csv_columns)
    splits, remarks = _splits(table, columns)
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
    kept, twice = _without_repetition(table, {at: places[at] or str(path.parent / texts[at]) for at in used}, labels)
    whole = all(map(_WHOLE.fullmatch, labels.values()))
    names = sorted({labels[at] for at in kept}, key=int if whole else str)
    number = {name: label for label, name in enumerate(names)}
    photos, numbers, members = PhotoFiles(path.parent), array("q"), {}
    for split in sorted({splits[at] for at in kept}):
        begin = len(numbers)
        for at, place in kept.items():
            if splits[at] == split:
                photos.add(place)
                numbers.append(number[labels[at]])
        members[split] = photos.mixed(np.arange(begin, len(photos)))
    return assemble(
        options,
        LabelledPhotos(photos, np.array(numbers, np.int64), members),
        name=printable(path.stem),
        class_names=tuple(printable(name) for name in names),
        source=f"{path}: {', '.join(f'{role} in column {table.named(at)}' for role, at in columns.items())}",
        remarks=(*remarks, *twice, *find.remarks()),
    )


def _read(path: Path) -> _Table:
    """The table's text. Raises FinetuneError for a file that is no table, and for rows that are too short."""
    rows = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    if not rows or len(rows[0]) < 2:
        raise FinetuneError(
            f"{path} has {'one column' if rows else 'no rows'}: expected a table with the paths and the classes of "
            "images, its columns apart by commas, semicolons or tabs"
        )
    if any(os.path.splitext(cell.strip())[1].lower() in decoding.SUFFIXES for cell in rows[0]):
        rows.insert(0, [str(number) for number in range(1, len(rows[0]) + 1)])
    header, *rest = rows
    for number, row in enumerate(rest, 2):
        if len(row) < len(header):
            raise FinetuneError(f"{path}: row {number} has {len(row)} of {len(header)} cells: complete or remove it")
    if not rest:
        raise FinetuneError(f"{path} has a header and no rows: expected an image in each")
    return _Table(path, [name.strip() for name in header], rest)


def _csv(path: Path) -> list[list[str]]:
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", "replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
    if "\0" in text:
        raise FinetuneError(f"{path} is no text: expected a table such as 'Save as CSV' writes")
    first = text.lstrip().partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(row)]
    except csv.Error as error:
        raise FinetuneError(f"{path} is no table, or damaged ({error}): write it again as CSV in UTF-8") from None


def _parquet(path: Path) -> list[list[str]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise FinetuneError(
            f"{path}: Parquet files are read by pyarrow: pip install 'finetune-backbones[parquet]', or write a .csv"
        ) from None
    try:
        table = parquet.ParquetFile(path).read()
    except (ArrowException, OSError) as error:
        raise FinetuneError(f"{path} is no Parquet file, or damaged ({first_line(error)}): write it again") from None
    columns = [column.to_pylist() for column in table.columns]
    if nested := [name for name, cells in zip(table.column_names, columns, strict=True) if _nested(cells)]:
        raise FinetuneError(
            f"{path}: {printable(listed(nested))} holds more than a text or a number, such as images themselves: "
            "expected their paths; write the images to files, and a table of these"
        )
    return [
        table.column_names,
        *(["" if cell is None else str(cell) for cell in row] for row in zip(*columns, strict=True)),
    ]


def _nested(cells: Sequence[object]) -> bool:
    return any(isinstance(cell, dict | list | bytes) for cell in cells)


def _columns(table: _Table, find: "_Finder", named: Mapping[str, str]) -> tuple[_Table, dict[str, int]]:
    """(the table, which path, label, and if there is one split -> the position of its column).

    Where the label is one-hot, a column a class, the table gets a column of the classes' names.
    """
    plain = [plain_name(name) for name in table.header]
    found: dict[str, int] = {}
    if "label" in named and named["label"] not in table.header and "+" in named["label"]:
        names = named["label"].split("+")
        if not set(names) - set(table.header):
            table = _with_classes(table, [table.header.index(name) for name in names])
            named = {**named, "label": table.header[-1]}
    for role, name in named.items():
        if name not in table.header:
            there = printable(listed(list(table.header)))
            raise FinetuneError(f"--csv-columns {role}={printable(name)}: {table.path} has the columns {there}")
        found[role] = table.header.index(name)
    for role, usual in USUAL.items():
        if role in found:
            continue
        fits = [plain.index(name) for name in usual if name in plain]
        fits = [at for at in fits if at not in found.values()]
        if role == "path":
            tried = fits or [at for at in range(len(plain)) if at not in found.values()]
            real = [at for at in tried if any(find.places(text, None) for text in table.column(at)[:_TRIED])]
            fits = real or fits
        elif role == "label" and not fits:
            fits = [at for at, name in enumerate(plain) if at not in found.values() and name not in ("", "index")]
            if len(fits) > 1 and len(hot := [at for at in fits if _is_hot(table, at)]) > 1:
                table = _with_classes(table, hot)
                fits = [len(table.header) - 1]
            fits = fits if len(fits) == 1 else []
        elif role == "split":
            fits = [at for at in fits if any(map(role_of, table.column(at)))]
        if fits:
            found[role] = fits[0]
        elif role != "split":
            raise FinetuneError(
                f"{table.path} has the columns {printable(listed(list(table.header)))}: which of them holds the {role} "
                "of an image is not clear; say it with --csv-columns path=COLUMN,label=COLUMN"
            )
    return table, found


def _is_hot(table: _Table, at: int) -> bool:
    """Whether all cells of a column are 0 or 1, and some are 1."""
    return {"1"} <= {cell.removesuffix(".0") for cell in table.column(at)} <= {"0", "1"}


def _with_classes(table: _Table, hot: Sequence[int]) -> _Table:
    """The table with one more column: the name of the one column of `hot` that is 1. FinetuneError for other rows."""
    names = [table.header[at] for at in hot]
    rows = []
    for number, row in enumerate(table.rows, 2):
        ones = [name for at, name in zip(hot, names, strict=True) if row[at].strip().removesuffix(".0") == "1"]
        if len(ones) != 1:
            raise FinetuneError(
                f"{table.path}: row {number} has {printable(listed(ones)) if ones else 'none'} of the classes "
                f"{printable(listed(names, most=5))}: expected one 1 in each row; images of several classes at once "
                "have no one label to train on"
            )
        rows.append([*row, ones[0]])
    return _Table(table.path, [*table.header, "+".join(names)], rows)


def _splits(table: _Table, columns: Mapping[str, int]) -> tuple[list[str], tuple[str, ...]]:
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


def _labels(table: _Table, column: int, used: Sequence[int]) -> dict[int, str]:
    """The label of each row that is used. If all are whole numbers, `1.0` and `01` are `1`."""
    cells = table.column(column)
    if empty := [at for at in used if not cells[at]]:
        raise FinetuneError(
            f"{table.path}: {len(empty)} rows have no label in column {table.named(column)}, the first of them is row "
            f"{empty[0] + 2}: fill them in or remove them"
        )
    whole = {at: found for at in used if (found := _WHOLE.fullmatch(cells[at]))}
    return {at: str(int(whole[at][1])) if len(whole) == len(used) else cells[at] for at in used}


def _without_repetition(
    table: _Table, places: Mapping[int, str], labels: Mapping[int, str]
) -> tuple[dict[int, str], tuple[str, ...]]:
    """(the places without repeated ones, a remark on these). FinetuneError where an image has two labels."""
    first: dict[str, int] = {}
    kept = {at: place for at, place in places.items() if first.setdefault(place, at) == at}
    if wrong := [at for at, place in places.items() if labels[first[place]] != labels[at]]:
        pair = f"{printable(labels[first[places[wrong[0]]]])} and {printable(labels[wrong[0]])}"
        raise FinetuneError(
            f"{table.path}: {len(wrong)} rows give an image another label than a row before: "
            f"{printable(places[wrong[0]])} is {pair}; expected one class for each image"
        )
    count = len(places) - len(kept)
    return kept, ((f"{count} rows that repeat an image are left out",) if count else ())


class _Finder:
    """Finds the files that the table `path` names. Each folder is listed once."""

    def __init__(self, path: Path) -> None:
        self._root, self._stem = str(path.parent), path.stem
        self._listed: dict[str, tuple[set[str], dict[str, str]]] = {}
        with os.scandir(path.parent) as entries:
            self._beside = sorted(entry.name for entry in entries if is_visible(entry.name) and entry.is_dir())
        self._outside: dict[str, str] = {}

    def __call__(self, text: str, split: str | None) -> str | None:
        """The file that `text` names, as in `places`; None if there is none. FinetuneError if there are several."""
        places = self.places(text, split)
        if len(places) > 1:
            raise FinetuneError(
                f"'{printable(text)}' is {' and '.join(map(printable, places[:2]))}: name the folder in the table"
            )
        if places and os.path.relpath(places[0], self._root).startswith(os.pardir):
            self._outside[places[0]] = os.path.dirname(places[0])
        return places[0] if places else None

    def places(self, text: str, split: str | None) -> list[str]:
        """The files that `text` may name, in a row of that split if the table says so.

        The table's folder comes first, then the folders beside it that belong to the split, then the others.
        """
        for value in dict.fromkeys((text, text.replace("\\", "/"))):
            if found := self._in(self._root, value):
                return [found]
            role = split or role_of(self._stem) or "train"
            fitting = [name for name in self._beside if name == self._stem or role_of(name) == role]
            for folders in (fitting, self._beside):
                if hits := [hit for name in folders if (hit := self._in(os.path.join(self._root, name), value))]:
                    return hits
        return []

    def remarks(self) -> tuple[str, ...]:
        """A sentence on images outside the table's folder; none if there are none."""
        folders = [printable(name) for name in sorted(set(self._outside.values()))]
        if not folders:
            return ()
        return (f"{len(self._outside)} images lie outside the table's folder, in {listed(folders, most=3)}",)

    def _in(self, folder: str, value: str) -> str | None:
        if not value or "\0" in value:
            return None
        parent, name = os.path.split(os.path.join(folder, value))
        if parent not in self._listed:
            self._listed[parent] = _listing(parent)
        names, by_stem = self._listed[parent]
        name = name if name in names else by_stem.get(name, "")
        return os.path.join(parent, name) if name else None


def _listing(folder: str) -> tuple[set[str], dict[str, str]]:
    """(the names of the files in `folder`, those of images by their name without suffix); empty if it is no folder."""
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set(), {}
    parts = ((*os.path.splitext(name), name) for name in sorted(names))
    return names, {stem: name for stem, suffix, name in parts if suffix.lower() in decoding.SUFFIXES}
