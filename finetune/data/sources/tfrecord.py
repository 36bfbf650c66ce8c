"""slim's data sets: TFRecords of encoded images with labels, and the class names in `labels.txt`."""

import re
from pathlib import Path

import numpy as np

from finetune.data.dataset import LEFT_OUT, Dataset
from finetune.data.sources.assembly import ReadOptions, assemble
from finetune.data.sources.tfrecord_file import Keys, index_records
from finetune.errors import FinetuneError
from finetune.text import printable

_SPLIT = re.compile(r"(?:^|[_.-])(train|training|validation|valid|val|test)(?=[_.-]|$)", re.IGNORECASE)
_NAMES = {"training": "train", "valid": "validation", "val": "validation"}
_SHARD = re.compile(r"[_-](\d+)-of-(\d+)(?=$|\.tfrecords?$)")
_LABEL_LINE = re.compile(r"\s*(\d+)\s*:\s*(\S.*?)\s*$")
_BACKGROUND = re.compile(r"(unused )?background|dummy|none", re.IGNORECASE)


def is_tfrecord(path: Path) -> bool:
    """Whether a file's name is that of TFRecords."""
    return False


def tfrecord_files(folder: Path) -> dict[str, list[Path]]:
    """Maps each split to its TFRecord files in `folder`, sorted; empty if there are none.

    File names are as slim writes them: `flowers_train_00000-of-00005.tfrecord`, `train-00000-of-01024`,
    `mnist_test.tfrecord`. Raises FinetuneError if a file's name has no split, or a shard is missing.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        shard, split = _SHARD.search(path.name), _SPLIT.search(path.name)
        named = path.suffix in (".tfrecord", ".tfrecords") or ".tfrecord-" in path.name
        if path.name.startswith(".") or not path.is_file() or not (named or (shard and split)):
            continue
        if split is None:
            raise FinetuneError(
                f"{path} does not say what its images are for: expected train, validation or test in its name"
            )
        word = split.group(1).lower()
        found.setdefault(_NAMES.get(word, word), []).append(path)
    for paths in found.values():
        _check_shards(paths)
    return found


def read_tfrecords(folder: Path, options: ReadOptions) -> Dataset:
    """The TFRecords in `folder`.

    `image/encoded` holds images of any size, in the format that `image/format` names: JPEG, PNG and so on, or raw
    pixels. `image/class/label` holds the labels. `labels.txt` holds the class names (`0:daisy`); without it, classes
    are named by number. If labels start at 1, as in slim's ImageNet with its background class 0, they are shifted to
    start at 0, and the data set knows the background's name. Raises FinetuneError for files, records or labels that do
    not fit.
    """
    files = tfrecord_files(folder)
    if "train" not in files:
        raise FinetuneError(f"{folder} holds {', '.join(files)} TFRecords, but none with train in the name: add them")
    found = index_records(files, Keys(), options.on_scan)
    names = _read_names(folder / "labels.txt")
    class_names, labels, remarks = _classes(folder, names, found.labels)
    return assemble(
        options,
        found._replace(labels=labels),
        name=printable(folder.name) or "tfrecords",
        class_names=class_names,
        source=f"{folder}: TFRecords, {', '.join(f'{len(paths)} {split}' for split, paths in files.items())}",
        remarks=remarks,
        background=(names or {}).get(0, "background") if found.labels.min() == 1 > labels.min() else None,
    )


def _read_names(path: Path) -> dict[int, str] | None:
    """Maps labels to the names in `labels.txt`. Lines without numbers count from 0. None if there is no such file."""
    if not path.is_file():
        return None
    lines = [line for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
    matches = [_LABEL_LINE.match(line) for line in lines]
    if lines and not any(matches):
        return dict(enumerate(printable(line.strip()) for line in lines))
    names: dict[int, str] = {}
    for line, match in zip(lines, matches, strict=True):
        if match is None or int(match.group(1)) in names:
            what = "is not of the form 0:daisy" if match is None else "gives its number a second name"
            raise FinetuneError(
                f"{path}: the line {line[:80]!r} {what}: expected a number and a name per line; correct it"
            )
        names[int(match.group(1))] = printable(match.group(2))
    if not names:
        raise FinetuneError(f"{path} is empty: expected lines like 0:daisy; remove it to have classes named by number")
    return names


def _classes(
    folder: Path, names: dict[int, str] | None, labels: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """(class names, labels from 0, remarks for the user)."""
    least, most = int(labels.min()), int(labels.max())
    remarks: tuple[str, ...] = ()
    if least < 0:
        raise FinetuneError(f"{folder}: a label is {least}: expected 0 or more; images without a label cannot be used")
    if names is None:
        first = 1 if least == 1 else 0
        names = {label: str(label) for label in range(first, most + 1)}
        remarks = ("there is no labels.txt: classes are named by number",)
    elif least >= 1 and 0 in names and _BACKGROUND.fullmatch(names[0]):
        names = {label: name for label, name in names.items() if label}
    keys = np.array(sorted(names))
    positions = np.searchsorted(keys, labels)
    known = keys[np.minimum(positions, len(keys) - 1)] == labels
    if not known.all():
        raise FinetuneError(
            f"{folder}: a label is {labels[~known][0]}, which labels.txt does not name: expected one of "
            f"{keys[0]} to {keys[-1]}; is labels.txt of other data?"
        )
    if keys[0] == 1:
        remarks = (*remarks, LEFT_OUT)
    return tuple(names[int(key)] for key in keys), positions.astype(np.int64), remarks


def _check_shards(paths: list[Path]) -> None:
    """Raise FinetuneError if one of the shards `NNNNN-of-NNNNN` is missing."""
    shards = [(match.group(1), match.group(2)) for path in paths if (match := _SHARD.search(path.name))]
    for total in {total for _, total in shards}:
        missing = sorted(set(range(int(total))) - {int(number) for number, of in shards if of == total})
        if missing:
            raise FinetuneError(
                f"{paths[0].parent} lacks {len(missing)} of {int(total)} shards, the first being that of "
                f"{paths[0].name} with number {missing[0]:05d}: download them"
            )
