"""slim's data sets: TFRecords of encoded images with labels, and the class names in `labels.txt`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data import decoding
from finetune.data.dataset import Dataset
from finetune.data.lazy import Photos
from finetune.data.sources import tfrecord_file as wire
from finetune.data.sources.assembly import Progress, ReadOptions, assemble, photo_splits
from finetune.errors import FinetuneError
from finetune.text import printable

_SPLIT = re.compile(r"(?:^|[_.-])(train|training|validation|valid|val|test)(?=[_.-]|$)", re.IGNORECASE)
_NAMES = {"training": "train", "valid": "validation", "val": "validation"}
_SHARD = re.compile(r"[_-](\d+)-of-(\d+)(?=$|\.tfrecords?$)")
_LABEL_LINE = re.compile(r"\s*(\d+)\s*:\s*(\S.*?)\s*$")
_BACKGROUND = re.compile(r"(unused )?background|dummy|none", re.IGNORECASE)
_REPORT_EVERY = 1_000


@dataclass(frozen=True)
class Keys:
    """The names of the features. `height` and `width` are needed only for images of the format `raw`."""

    image: str = "image/encoded"
    label: str = "image/class/label"
    format: str = "image/format"
    height: str = "image/height"
    width: str = "image/width"


SLIM = Keys()


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
    start at 0. Raises FinetuneError for files, records or labels that do not fit.
    """
    files = tfrecord_files(folder)
    if "train" not in files:
        raise FinetuneError(f"{folder} holds {', '.join(files)} TFRecords, but none with train in the name: add them")
    photos, labels, members = index_records(files, SLIM, options.on_scan)
    names = _read_names(folder / "labels.txt")
    class_names, labels, remarks = _classes(folder, names, labels)
    splits, skipped = photo_splits(options, photos, labels, members)
    return assemble(
        options,
        name=printable(folder.name) or "tfrecords",
        class_names=class_names,
        splits=splits,
        source=f"{folder}: TFRecords, {', '.join(f'{len(paths)} {split}' for split, paths in files.items())}",
        remarks=remarks,
        skipped=skipped,
    )


class Records(Photos):
    """The images of some TFRecord files.

    file, begin, end: int64 `[n]`, the position of each record's file in `paths` and of its bytes in that file.
    """

    def __init__(self, paths: list[Path], file: np.ndarray, begin: np.ndarray, end: np.ndarray, keys: Keys) -> None:
        self._paths, self._file, self._begin, self._end, self._keys = paths, file, begin, end, keys
        first = np.searchsorted(file, np.arange(len(paths)))
        self._within = np.arange(len(file)) - first[file]

    def __len__(self) -> int:
        return len(self._file)

    def open(self, number: int) -> Image.Image:
        """The image with its header read."""
        record, place = self.content(number), self.place(number)
        with decoding.naming(place):
            found = wire.features(record, (0, len(record)))
            pixels = _first_bytes(record, found, self._keys.image)
            if _first_bytes(record, found, self._keys.format).lower() == b"raw":
                return self._raw(record, found, pixels)
        return decoding.opened(pixels, place)

    def _raw(self, record: bytes, found: dict[str, wire.Span], pixels: bytes) -> Image.Image:
        keys = (self._keys.width, self._keys.height)
        width, height = ((wire.first_int(record, found[key]) if key in found else 0) or 0 for key in keys)
        channels = len(pixels) // (width * height) if width > 0 and height > 0 else 0
        if channels not in (1, 3) or width * height * channels != len(pixels):
            raise ValueError(f"{len(pixels)} raw bytes are no image of {width} x {height} pixels")
        return Image.frombytes("L" if channels == 1 else "RGB", (width, height), pixels)

    def name(self, number: int) -> str:
        """The file's name and the record's number in it, from 0."""
        return f"{printable(self._paths[self._file[number]].name)} record {self._within[number]}"

    def place(self, number: int) -> str:
        """The same with the file's path."""
        return f"{printable(str(self._paths[self._file[number]]))} record {self._within[number]}"

    def content(self, number: int) -> bytes:
        """The whole record."""
        with self._paths[self._file[number]].open("rb") as file:
            file.seek(int(self._begin[number]))
            content: bytes = file.read(self.bytes_of(number))
            return content

    def bytes_of(self, number: int) -> int:
        """The record's length."""
        return int(self._end[number] - self._begin[number])

    def picture(self, number: int) -> bytes:
        """The image in the record, without its label, file name and other features."""
        record = self.content(number)
        with decoding.naming(self.place(number)):
            return _first_bytes(record, wire.features(record, (0, len(record))), self._keys.image)


def _first_bytes(record: bytes, found: dict[str, wire.Span], key: str) -> bytes:
    """The first value of the bytes feature `key`; empty if there is none."""
    begin, end = (wire.first_bytes(record, found[key]) if key in found else None) or (0, 0)
    return record[begin:end]


def index_records(
    files: Mapping[str, list[Path]], keys: Keys, progress: Progress | None
) -> tuple[Records, np.ndarray, dict[str, np.ndarray]]:
    """(the images, their labels int64 `[n]`, the numbers of each split's images). Raises FinetuneError."""
    paths: list[Path] = []
    rows: list[np.ndarray] = []
    labels: list[int] = []
    members = {}
    for split, of_split in files.items():
        first = len(labels)
        for path in of_split:
            spans: list[wire.Span] = []
            for mapped, span in wire.records(path):
                labels.append(_label(mapped, span, keys, path, len(spans)))
                spans.append(span)
                if progress is not None and len(labels) % _REPORT_EVERY == 0:
                    progress(len(labels), None)
            rows.append(np.column_stack([np.full(len(spans), len(paths)), np.array(spans, np.int64).reshape(-1, 2)]))
            paths.append(path)
        members[split] = np.arange(first, len(labels), dtype=np.int64)
        if first == len(labels):
            raise FinetuneError(
                f"{of_split[0].parent}: the {split} TFRecords hold no image: download or write them again"
            )
    file, begin, end = np.concatenate(rows).astype(np.int64).T
    return Records(paths, file, begin, end, keys), np.array(labels, np.int64), members


def _label(mapped: wire.Buffer, span: wire.Span, keys: Keys, path: Path, number: int) -> int:
    try:
        found = wire.features(mapped, span)
        label = wire.first_int(mapped, found[keys.label]) if keys.label in found else None
    except wire.Malformed as error:
        raise FinetuneError(
            f"{path} record {number} is no tf.train.Example ({error}): expected slim's, with {keys.image} and "
            f"{keys.label}"
        ) from None
    missing = keys.label if label is None else keys.image if keys.image not in found else None
    if missing or label is None:
        has = ", ".join(sorted(printable(name) for name in found)) or "no features"
        prepared = (path.parent / "dataset_info.json").is_file()
        hint = "; tensorflow_datasets prepared it: give --data tfds:NAME and its root as --data-dir" if prepared else ""
        raise FinetuneError(
            f"{path} record {number} has no {missing}: expected {keys.image} and {keys.label}, found {has}{hint}"
        )
    return label


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
        remarks = (*remarks, "labels start at 1: class 0 is slim's background, has no images, and is left out")
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
