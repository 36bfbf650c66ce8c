"""Labels of records that are lists of numbers: one-hot rows, a 0 or 1 for each of several labels, or their numbers."""

from collections.abc import Sequence

import numpy as np

from finetune.errors import FinetuneError
from finetune.text import printable

_MOST_LABELS = 100_000


def numbered(found: Sequence[int | tuple[float, ...]], places: Sequence[str], key: str, *, several: bool) -> np.ndarray:
    """The labels of records: int64 `[n]`, or uint8 0/1 `[n, labels]` where an image has several or none.

    found: of each record the number of its class, or a list. Lists of one length that hold 0 and 1 are rows with a
    place for each label; if every row has one 1, they are classes, unless `several` labels an image were asked for.
    Other lists are the numbers of the labels, each an image's own number of them. places: of each record, for messages.
    Raises FinetuneError for other numbers.
    """
    lists = [one if isinstance(one, tuple) else (one,) for one in found]
    widths = {len(one) for one in lists}
    if len(widths) == 1 and widths != {1} and {value for one in lists for value in one} <= {0, 1}:
        rows = np.array(lists, np.uint8)
        return rows if several or (rows.sum(axis=1) != 1).any() else rows.argmax(axis=1)
    if widths <= {0, 1} and not several:
        if 0 in widths:
            place = next(place for place, one in zip(places, lists, strict=True) if not one)
            raise FinetuneError(
                f"{place} has no {printable(key)} of numbers: expected a label of each image, or several of some; give "
                "--multi-label where an image may have none"
            )
        return np.array([one[0] for one in lists], np.int64)
    for place, one in zip(places, lists, strict=True):
        if wrong := [value for value in one if value % 1 or not 0 <= value < _MOST_LABELS]:
            raise FinetuneError(
                f"{place} has the labels {', '.join(f'{value:g}' for value in one[:5])} in {printable(key)}: expected "
                f"a row of 0 and 1 as long as all others, or the numbers of labels from 0 on, which {wrong[0]:g} is not"
            )
    hot = np.zeros((len(lists), int(max((value for one in lists for value in one), default=0)) + 1), np.uint8)
    for row, one in zip(hot, lists, strict=True):
        row[[int(value) for value in one]] = 1
    return hot


def named_labels(hot: np.ndarray, names: dict[int, str] | None, place: str) -> tuple[tuple[str, ...], np.ndarray]:
    """(the names of the labels, uint8 0/1 `[n, labels]`), of columns that are numbered as the records number them.

    A column 0 that no image has is left out where labels are numbered from 1 on. Raises FinetuneError for a label
    without a name.
    """
    first = 1 if hot.shape[1] > 1 and not hot[:, 0].any() and (names is None or 0 not in names) else 0
    if names is None:
        names = {number: str(number) for number in range(first, hot.shape[1])}
    used = np.flatnonzero(hot.any(axis=0))
    if missing := [int(number) for number in used if number not in names]:
        raise FinetuneError(f"{place}: a label is {missing[0]}, which labels.txt does not name: add it")
    wide = np.zeros((len(hot), max(*names, hot.shape[1] - 1) + 1), np.uint8)
    wide[:, : hot.shape[1]] = hot
    order = sorted(names)
    return tuple(names[number] for number in order), wide[:, order]
