"""Labels as people write them - whole numbers, floats, one-hot rows, a column, text - as numbers from 0."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from finetune.errors import FinetuneError
from finetune.text import printable

Named = Mapping[str, tuple[str, np.ndarray]]
"""The name and the labels of each split."""


def classes(
    path: Path, found: Named, given: np.ndarray | None, *, several: bool = False
) -> tuple[dict[str, np.ndarray], tuple[str, ...], tuple[str, ...]]:
    """(the labels of each split, int64 `[n]` from 0; the class names; remarks for users).

    given: the class names, if the file has them. Without them, classes are named by their text or number. Labels that
    start at 1 are shifted. Rows of 0 and 1 that do not all have one 1 mark several labels of an image, uint8
    `[n, labels]`; with `several`, one-hot rows do too. Raises FinetuneError for other labels than these.
    """
    if all(labels.ndim == 2 and labels.shape[1] > 1 for _, labels in found.values()) and (several or _several(found)):
        return _multi_hot(path, found, given)
    plain = {split: _one_each(path, name, labels) for split, (name, labels) in found.items()}
    text = {labels.dtype.kind == "U" for labels in plain.values()}
    if len(text) > 1:
        raise FinetuneError(f"{path}: some labels are text and some are numbers: expected the same in all arrays")
    names = None if given is None else _names(path, given)
    if text == {True}:
        known = names or tuple(sorted(set(plain["train"].tolist()), key=lambda one: (len(one) * one.isdecimal(), one)))
        placed = {split: _positions(path, found[split][0], one, known) for split, one in plain.items()}
        return placed, tuple(map(printable, known)), ()
    least, most = (int(limit(labels)) for limit, labels in ((np.min, plain["train"]), (np.max, plain["train"])))
    for split, labels in plain.items():
        least, most = min(least, int(labels.min())), max(most, int(labels.max()))
        if least < 0 or most > len(plain["train"]):
            raise FinetuneError(
                f"{path}: {found[split][0]} has label {least if least < 0 else most}: expected classes numbered from 0 "
                "without gaps; of other numbers give np.unique(labels, return_inverse=True)[1]"
            )
    if least == 1 and (names is None or len(names) == most):
        names = names or tuple(str(label) for label in range(1, most + 1))
        remark = f"labels start at 1: label 1 is the first class, {printable(names[0])}"
        return {split: labels - 1 for split, labels in plain.items()}, tuple(map(printable, names)), (remark,)
    return plain, tuple(map(printable, names or map(str, range(most + 1)))), ()


def _one_each(path: Path, name: str, labels: np.ndarray) -> np.ndarray:
    """int64 or text `[n]`."""
    found = f"{path}: {name} is {labels.dtype} {list(labels.shape)}"
    kind = labels.dtype.kind
    if labels.ndim > 1 and labels.shape[1:] == (1,) * (labels.ndim - 1):  # as Keras gives CIFAR's, and PCam's files
        labels = labels.reshape(-1)
    if kind in "US" and labels.ndim == 1:
        return np.char.decode(labels, "utf-8", "replace") if kind == "S" else np.asarray(labels)
    if kind not in "biuf" or labels.ndim not in (1, 2) or not labels.size:
        raise FinetuneError(f"{found}: expected a class for each image: a whole number, text or a one-hot row")
    if labels.ndim == 2:
        if not (np.all((labels == 1).sum(1) == 1) and np.all((labels != 0).sum(1) == 1)):
            raise FinetuneError(
                f"{found}, and not every row is of 0 and 1: expected one class for each image, or a row with a 1 for "
                "each label of an image; of probabilities give labels.argmax(1)"
            )
        return np.asarray(labels.argmax(1), np.int64)
    if kind == "f" and not np.array_equal(np.rint(labels), labels):
        wrong = labels[np.rint(labels) != labels][0]
        raise FinetuneError(f"{found}, such as {wrong:g}: expected whole numbers, a class each")
    if float(np.abs(labels, dtype=np.float64).max()) > np.iinfo(np.int64).max / 2:
        raise FinetuneError(f"{found}, such as {labels.max()}: expected classes numbered from 0")
    return np.array(labels, np.int64)


def _several(found: Named) -> bool:
    """Whether the rows of any split are of 0 and 1, and not all one-hot."""
    numbers = [labels for _, labels in found.values() if labels.dtype.kind in "biuf"]
    return any(((one == 0) | (one == 1)).all() and ((one == 1).sum(1) != 1).any() for one in numbers)


def _multi_hot(
    path: Path, found: Named, given: np.ndarray | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...], tuple[str, ...]]:
    """`classes` of images that may have several labels."""
    width = found["train"][1].shape[1]
    for name, labels in found.values():
        if labels.shape[1] != width:
            raise FinetuneError(
                f"{path}: {name} has {labels.shape[1]} labels an image, {found['train'][0]} has {width}: expected the "
                "same labels in all arrays, in the same order"
            )
        binary = labels.dtype.kind in "biuf" and ((labels == 0) | (labels == 1)).all()
        if not binary:
            raise FinetuneError(
                f"{path}: {name} is {labels.dtype} {list(labels.shape)} with other values than 0 and 1: expected a 1 "
                "for each label that an image has"
            )
    names = tuple(map(str, range(width))) if given is None else _names(path, given)
    if len(names) != width:
        raise FinetuneError(f"{path}: there are {len(names)} class names for {width} labels: expected one for each")
    numbered = {split: labels.astype(np.uint8) for split, (_, labels) in found.items()}
    return numbered, tuple(map(printable, names)), ("an image may have several labels: rows of 0 and 1",)


def _positions(path: Path, name: str, labels: np.ndarray, known: tuple[str, ...]) -> np.ndarray:
    order = {one: position for position, one in enumerate(known)}
    other = next((one for one in labels.tolist() if one not in order), None)
    if other is not None:
        shown = ", ".join(printable(one) for one in known[:10])
        raise FinetuneError(f"{path}: {name} has the label '{printable(other)}': expected one of {shown}")
    return np.array([order[one] for one in labels.tolist()], np.int64)


def _names(path: Path, names: np.ndarray) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise FinetuneError(f"{path}: class_names is {names.dtype} {list(names.shape)}: expected a list of text")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist())
