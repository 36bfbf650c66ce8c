"""The text of a table: a `.csv`, `.tsv`, `.parquet`, or a list, as rows of cells."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checkpoints.errors import listed
from finetune.data import decoding
from finetune.data.sources.parquet_images import opened_parquet
from finetune.data.sources.split_names import role_of
from finetune.data.sources.table_columns import USUAL, usual_columns
from finetune.errors import FinetuneError
from finetune.text import printable

TABLES = (".csv", ".tsv", ".parquet")
"""The suffixes of tables."""
LISTS = (".txt", ".lst")
"""The suffixes of lists, whose columns may also be apart by blanks: `cat/1.jpg 0`."""
OF_FOLDER = "the image's folder"
"""The column that `by_folder` adds."""
_SEPARATORS = ",;\t|"


class Table(NamedTuple):
    """The text of a table: `header` with a name for each column, and the rows below it.

    separator: what stands between several labels in one cell, None where a cell is one label. labels: their names,
    where columns of the table have been joined.
    """

    path: Path
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    separator: str | None = None
    labels: Sequence[str] = ()

    def column(self, at: int) -> list[str]:
        """The texts of a column, without blanks around them."""
        return [row[at].strip() for row in self.rows]

    def named(self, at: int) -> str:
        """The name of a column, for messages."""
        return f"'{printable(self.header[at])}'"


def read_rows(path: Path) -> Table:
    """The table's text. Raises FinetuneError for a file that is no table, and for rows that are too short."""
    rows = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    if rows and len(rows[0]) == 1:
        header, below = ([rows[0][0]], rows[1:]) if "/" not in rows[0][0] else (["1"], rows)
        if found := by_folder(Table(path, header, below), 0):
            return found
    if not rows or len(rows[0]) < 2:
        raise FinetuneError(
            f"{path} has {'one column' if rows else 'no rows'}: expected a table with the paths and the classes of "
            "images, its columns apart by commas, semicolons or tabs"
        )
    if any(map(_is_image_name, rows[0])) or (_is_list(path) and not _has_usual_name(rows[0])):
        rows.insert(0, [str(number) for number in range(1, len(rows[0]) + 1)])
    header, *rest = rows
    for number, row in enumerate(rest, 2):
        if len(row) < len(header):
            raise FinetuneError(f"{path}: row {number} has {len(row)} of {len(header)} cells: complete or remove it")
    if not rest:
        raise FinetuneError(f"{path} has a header and no rows: expected an image in each")
    return Table(path, [name.strip() for name in header], rest)


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
    if _is_list(path) and separator not in first:
        return _apart_by_blanks([line.strip() for line in text.splitlines()])
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(row)]
    except csv.Error as error:
        raise FinetuneError(f"{path} is no table, or damaged ({error}): write it again as CSV in UTF-8") from None


def _apart_by_blanks(lines: list[str]) -> list[list[str]]:
    """The cells of a list's lines, without empty ones and comments.

    They are two where the first is an image's name: it may hold blanks, or the rest may. Otherwise every blank
    separates, if all lines have as many; else the last one; and a line without blanks is one cell.
    """
    lines = [line for line in lines if line and not line.startswith("#")]
    halves = [list(line.rpartition(" ")[::2]) for line in lines]
    words = [line.split() for line in lines]
    if len({len(one) for one in words}) > 1 and all(_is_image_name(one[0]) for one in words):
        return [line.split(None, 1) for line in lines]
    if halves and not _is_image_name(halves[0][0]) and len({len(one) for one in words}) == 1:
        return words
    return halves if all(one[0] for one in halves) else [[line] for line in lines]


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in LISTS


def _has_usual_name(header: Sequence[str]) -> bool:
    return any(usual_columns(role, header) for role in USUAL)


def _is_image_name(cell: str) -> bool:
    return os.path.splitext(cell.strip())[1].lower() in decoding.SUFFIXES


def by_folder(table: Table, at: int) -> Table | None:
    """The table with one more column: the last folder in the path in column `at`, such as `cat` of `cat/1.jpg`.

    None where these are no classes: a path has no folder, or they are splits.
    """
    folders = [text.replace("\\", "/").rpartition("/")[0].rpartition("/")[2] for text in table.column(at)]
    kinds = set(folders)
    if not all(kinds) or all(map(role_of, kinds)):
        return None
    rows = [[*row, folder] for row, folder in zip(table.rows, folders, strict=True)]
    return Table(table.path, [*table.header, OF_FOLDER], rows)


def _parquet(path: Path) -> list[list[str]]:
    with opened_parquet(path) as file:
        table = file.read()
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
