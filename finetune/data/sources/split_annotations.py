"""The classes of a split's images that lie in no class folders, by a table: `val/` with Tiny ImageNet's annotations."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.data.image_files import images_below
from finetune.data.sources.table_columns import usual_columns
from finetune.data.sources.table_rows import LISTS, TABLES, read_rows
from finetune.errors import FinetuneError


def labels_by_table(folder: Path, classes: Sequence[str]) -> tuple[Path, dict[str, int]] | None:
    """(the table, the class of each image below `folder`), by a table in it or beside it; None without one.

    The table has a column with the names of all images and one whose cells, or their first words, are names of
    `classes`, which may be numbers: `7` is the class `00007`. Where several columns would fit, the usual names decide.
    """
    images = list(images_below(folder, Counter()))
    named = {os.path.basename(path): path for path in images}
    if not images or len(named) < len(images):
        return None
    named |= {os.path.splitext(name)[0]: path for name, path in named.items()}
    numbers = _numbers(classes)
    for place in (folder, folder.parent):
        for table in sorted(place.iterdir()):
            if table.name.lower().endswith((*TABLES, *LISTS)) and (found := _read(table, named, len(images), numbers)):
                return table, found
    return None


def _numbers(classes: Sequence[str]) -> dict[str, int]:
    """The number of each class by how a table may spell it."""
    found = {name: number for number, name in enumerate(classes)}
    if all(name.isdecimal() for name in classes) and len({int(name) for name in classes}) == len(classes):
        found |= {str(int(name)): number for name, number in found.items()}
    return found


def _read(table: Path, named: Mapping[str, str], count: int, numbers: Mapping[str, int]) -> dict[str, int] | None:
    """The class of each image that the table names, if it names all of them."""
    try:
        read = read_rows(table)
    except (FinetuneError, OSError):
        return None
    # Names without suffix do not show whether the first row is a header.
    rows = read.rows if all(map(str.isdecimal, read.header)) else [read.header, *read.rows]
    for at in range(len(read.header)):
        places = [named.get(os.path.basename(row[at].strip().replace("\\", "/"))) for row in rows]
        if len({place for place in places if place}) < count:
            continue
        of_images = [(place, row) for place, row in zip(places, rows, strict=True) if place]
        fitting = [
            (column, labels)
            for column in range(len(read.header))
            if column != at and (labels := _labels([(place, row[column]) for place, row in of_images], numbers))
        ]
        usual = usual_columns("label", read.header)
        chosen = fitting if len(fitting) == 1 else [one for one in fitting if one[0] in usual[:1]]
        if chosen:
            return chosen[0][1]
    return None


def _labels(cells: Sequence[tuple[str, str]], numbers: Mapping[str, int]) -> dict[str, int] | None:
    """The number of the class of each image; None where a cell is no class, or an image has two."""
    found: dict[str, int] = {}
    for place, cell in cells:
        text = cell.strip()
        number = numbers.get(text, numbers.get(text.partition(" ")[0]))
        if number is None or found.setdefault(place, number) != number:
            return None
    return found
