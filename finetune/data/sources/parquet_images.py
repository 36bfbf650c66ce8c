"""Parquet files with the images themselves in a column, as the Hugging Face Hub has them (`{bytes, path}`)."""

import json
import os
import re
import weakref
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from checkpoints.errors import listed
from finetune._version import install_line
from finetune.data.dataset import Dataset
from finetune.data.image_files import images_below, is_visible
from finetune.data.lazy import Photos
from finetune.data.sources.assembly import LabelledPhotos, ReadOptions, assemble
from finetune.data.sources.record_copies import DATA, copied
from finetune.data.sources.split_names import role_of, settled, split_word
from finetune.data.sources.table_columns import usual_columns
from finetune.errors import FinetuneError
from finetune.text import first_line, printable

SUFFIX = ".parquet"
_INDEX = "index.npy"
_ROWS_AT_ONCE = 64
_UNLABELLED = ("-1", "")
"""Labels of images without one: the test images of ImageNet on the Hub have -1."""


class _Columns(NamedTuple):
    """The columns of the images, of the labels, and if there is one of the splits; the names of the labels that are
    numbers, where the file has them."""

    image: str
    label: str
    split: str | None
    class_names: tuple[str, ...]


class _Rows(Photos):
    """The images in the rows of Parquet files, read from copies (`record_copies`), which stay until this value goes.

    rows: int64 `[n, 4]`, for each image the position of its file, its row in it, and the begin and end of its bytes.
    """

    def __init__(self, paths: list[Path], copies: list[tuple[Path, int]], rows: np.ndarray) -> None:
        self._paths, self._data = paths, [folder / DATA for folder, _ in copies]
        for _, descriptor in copies:
            weakref.finalize(self, os.close, descriptor)
        self._file, self._within, self._begin, self._end = rows.T

    def __len__(self) -> int:
        return len(self._file)

    def name(self, number: int) -> str:
        """The file's name and the number of the row in it, from 0."""
        return f"{printable(self._paths[self._file[number]].name)} row {self._within[number]}"

    def place(self, number: int) -> str:
        """The same with the file's path."""
        return f"{printable(str(self._paths[self._file[number]]))} row {self._within[number]}"

    def content(self, number: int) -> bytes:
        """The encoded image."""
        with self._data[self._file[number]].open("rb") as file:
            file.seek(int(self._begin[number]))
            content: bytes = file.read(self.bytes_of(number))
            return content

    def bytes_of(self, number: int) -> int:
        """Its length."""
        return int(self._end[number] - self._begin[number])

    def picture_size(self, number: int) -> int | None:
        """Its length."""
        return self.bytes_of(number)


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files in `folder` and in the folders in it, sorted; none if there are image files as well."""
    if next(images_below(folder, Counter()), None) is not None:
        return []
    files = (path for path in folder.rglob(f"*{SUFFIX}") if path.is_file())
    return sorted(path for path in files if all(map(is_visible, path.relative_to(folder).parts)))


def holds_images(path: Path) -> bool:
    """Whether a Parquet file has a column of images, and not only of their paths. FinetuneError as `opened_parquet`."""
    with opened_parquet(path) as file:
        return bool(_image_columns(file.schema_arrow))


def read_parquet(place: Path, options: ReadOptions) -> Dataset:
    """The images in the Parquet files below `place`, or in that file.

    Splits are in the names of the files or folders (`data/train-00000-of-00002.parquet`), otherwise in a column. The
    columns have their usual names, or are given in `options.csv_columns`; class names are those that the Hub keeps in
    the file. Rows without a label (-1) are left out. Raises FinetuneError for files and labels that do not fit.
    """
    files, remarks = _splits(place) if place.is_dir() else ({"": [place]}, ())
    with opened_parquet(next(iter(files.values()))[0]) as first:
        columns = _columns(place, first.schema_arrow, options.csv_columns)
    paths: list[Path] = []
    copies: list[tuple[Path, int]] = []
    rows, texts = array("q"), list[str]()
    numbers: dict[str, list[int]] = {}
    for split, of_split in files.items():
        for path in of_split:
            copies.append(copied(path, partial(_fill, column=columns.image), columns.image))
            ends = np.load(copies[-1][0] / _INDEX)
            labels, splits = _cells(path, columns, split)
            for within, (text, role) in enumerate(zip(labels, splits, strict=True)):
                numbers.setdefault(role if text not in _UNLABELLED else "", []).append(len(texts))
                texts.append(text)
                rows.extend((len(paths), within, int(ends[within]), int(ends[within + 1])))
            paths.append(path)
    unused = len(numbers.pop("", []))
    if "train" not in numbers:
        raise FinetuneError(f"{place} has no training images with labels in column '{columns.label}': check the column")
    photos = _Rows(paths, copies, np.array(rows, np.int64).reshape(-1, 4))
    used = sorted(number for of_split in numbers.values() for number in of_split)
    class_names, found = _numbered(place, columns, [texts[number] for number in used])
    all_labels = np.full(len(texts), -1, np.int64)
    all_labels[used] = found
    unlabelled = (f"{unused} images without a label are not used",) if unused else ()
    return assemble(
        options,
        LabelledPhotos(photos, all_labels, {split: photos.mixed(np.array(of)) for split, of in numbers.items()}),
        name=printable(place.stem),
        class_names=class_names,
        source=f"{place}: {len(paths)} Parquet file{'s' if len(paths) > 1 else ''}, images in "
        f"'{columns.image.removesuffix('.bytes')}', labels in '{columns.label}'",
        remarks=(*remarks, *unlabelled),
    )


def _splits(place: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """(the files of each split, "" for files whose rows say it; remarks)."""
    found: dict[str, list[Path]] = {}
    for path in parquet_files(place):
        found.setdefault(split_word(str(path.relative_to(place))), []).append(path)
    if "" in found:
        if len(found) > 1:
            raise FinetuneError(f"{found[''][0]} does not say what its images are for: expected a split in its name")
        return found, ()
    words, remarks = settled({word: role_of(word) for word in found}, str(place))
    return {split: found[word] for split, word in words.items()}, remarks


@contextmanager
def opened_parquet(path: Path) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`. FinetuneError for a damaged file, and where the package is missing."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise FinetuneError(
            f"{path}: Parquet files are read by pyarrow: {install_line('parquet')}, or write a .csv"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (ArrowException, OSError) as error:
        raise FinetuneError(f"{path} is no Parquet file, or damaged ({first_line(error)}): write it again") from None


def _image_columns(schema: Any) -> dict[str, str]:
    """The columns that hold bytes -> the name of the leaf that holds them."""
    from pyarrow import types

    found = {}
    for field in schema:
        kind = field.type
        if types.is_binary(kind) or types.is_large_binary(kind):
            found[field.name] = field.name
        elif types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            found[field.name] = f"{field.name}.bytes"
    return found


def _columns(place: Path, schema: Any, given: Mapping[str, str]) -> _Columns:
    names, images = list(schema.names), _image_columns(schema)
    there = printable(listed(names))
    for role, name in given.items():
        if name not in (images if role == "path" else names):
            raise FinetuneError(f"--csv-columns {role}={printable(name)}: {place} has the columns {there}")

    def chosen(role: str, of: list[str], alone: list[str]) -> str | None:
        """The column that is given, or has the first of the usual names, or is the only one."""
        usual = [of[at] for at in usual_columns(role, of)]
        return given.get(role) or next(iter(usual or (alone if len(alone) == 1 else [])), None)

    others = [name for name in names if name not in images]
    features = _features(schema)
    labelled = [name for name in others if features.get(name)]
    image, label = chosen("path", list(images), list(images)), chosen("label", labelled or others, labelled)
    if image is None or label is None:
        what = "image" if image is None else "label"
        raise FinetuneError(
            f"{place} has the columns {there}: which of them holds the {what} is not clear; say it with --csv-columns "
            "path=COLUMN,label=COLUMN"
        )
    return _Columns(images[image], label, chosen("split", others, []), features.get(label, ()))


def _features(schema: Any) -> dict[str, tuple[str, ...]]:
    """The class names of each column that the Hub's library wrote them for."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: tuple(map(str, one["names"])) for name, one in features.items() if one.get("names")}
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _cells(path: Path, columns: _Columns, split: str) -> tuple[list[str], list[str]]:
    """(the label of each row as text, the split of each row)."""
    with opened_parquet(path) as file:
        table = file.read(columns=[columns.label, *([columns.split] if columns.split and not split else [])])
    labels = ["" if cell is None else str(cell).strip() for cell in table.column(columns.label).to_pylist()]
    if split or columns.split is None:
        return labels, [split or "train"] * len(labels)
    values = [str(cell).lower() for cell in table.column(columns.split).to_pylist()]
    meant = settled({value: role_of(value) for value in dict.fromkeys(values)}, f"{path}: column '{columns.split}'")[0]
    role = {value: name for name, value in meant.items()}
    return labels, [role.get(value, "") for value in values]


def _numbered(place: Path, columns: _Columns, texts: list[str]) -> tuple[tuple[str, ...], list[int]]:
    """(the class names, the label of each text)."""
    whole = all(re.fullmatch(r"[+-]?\d{1,18}(\.0*)?", text) for text in texts)
    texts = [str(int(float(text))) for text in texts] if whole else texts
    known = columns.class_names
    if known and whole:
        wrong = next((text for text in texts if not 0 <= int(text) < len(known)), None)
        if wrong is not None:
            raise FinetuneError(f"{place}: a label is {wrong}: expected 0 to {len(known) - 1}, for its class names")
        return tuple(map(printable, known)), [int(text) for text in texts]
    names = sorted(set(texts), key=int if whole else str)
    order = {name: label for label, name in enumerate(names)}
    return tuple(map(printable, names)), [order[text] for text in texts]


def _fill(path: Path, folder: Path, *, column: str) -> None:
    """The images of `column` one after another, and where each begins."""
    ends = array("q", [0])
    with opened_parquet(path) as file, open(folder / DATA, "xb") as out:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[column]):
            values = batch.column(0)
            for value in values.field("bytes") if column.endswith(".bytes") else values:
                content = value.as_py()
                if content is None:
                    raise FinetuneError(
                        f"{path} row {len(ends) - 1} has a path and no image in it: write the images into the file, or "
                        "a table of their paths"
                    )
                out.write(content)
                ends.append(ends[-1] + len(content))
    np.save(folder / _INDEX, np.array(ends, np.int64))
