"""slim's data sets: TFRecords of encoded images with labels, and the class names in `labels.txt`."""

import re
from pathlib import Path

import numpy as np

from finetune.data.dataset import LEFT_OUT, Dataset
from finetune.data.image_files import is_visible
from finetune.data.sources.assembly import ReadOptions, assemble
from finetune.data.sources.label_lists import named_labels
from finetune.data.sources.split_names import role_of, settled, split_word
from finetune.data.sources.tfrecord_example import Keys
from finetune.data.sources.tfrecord_file import first_record, index_records, naming_record
from finetune.data.sources.tfrecord_keys import find_keys
from finetune.errors import FinetuneError
from finetune.text import printable

_KIND, _PACKED = r"\.(?:tfrecords?|tfrec|records?)", r"(?:\.(?:gz|gzip|zlib))?"
_FILE = re.compile(rf"{_KIND}(?:-\d+-of-\d+)?{_PACKED}$", re.IGNORECASE)
_SHARD = re.compile(rf"[_-](\d+)-of-(\d+)(?:{_KIND})?{_PACKED}$")
_NAMES = ("labels.txt", "label.labels.txt", "classes.txt", "class_names.txt")
"""The files of class names: slim's, that of tensorflow_datasets, and others' habits."""
_LABEL_LINE = re.compile(r"\s*(\d+)\s*:\s*(\S.*?)\s*$")
_COLUMNS = re.compile(r"\s*(\d+)[\s,;]+(\S.*?)\s*$")
_BACKGROUND = re.compile(r"(unused )?background|dummy|none", re.IGNORECASE)


def is_tfrecord(path: Path) -> bool:
    """Whether a file's name is that of TFRecords."""
    return _FILE.search(path.name) is not None


def tfrecord_files(folder: Path) -> dict[str, list[Path]]:
    """Maps the word for a split, "" without one, to its TFRecord files in `folder`, or in the folders in it, sorted.

    File names are as slim writes them: `flowers_train_00000-of-00005.tfrecord`, `train-00000-of-01024`,
    `mnist_test.tfrecord`; or end in `.tfrec` or `.record`, compressed also in `.gz`. Empty if there are none.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        word = split_word(path.name)
        if is_visible(path.name) and path.is_file() and (is_tfrecord(path) or (_SHARD.search(path.name) and word)):
            found.setdefault(word, []).append(path)
    for inner in () if found else sorted(folder.iterdir()):
        if inner.is_dir() and (word := split_word(inner.name)):
            paths = sorted(path for path in inner.iterdir() if is_visible(path.name) and is_tfrecord(path))
            found |= {word: [*found.get(word, []), *paths]} if paths else {}
    return found


def _splits(place: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """(the files of each split in the folder `place`, remarks). Where no name has a split, all files are for training.

    Raises FinetuneError if some names have one and others have not, none is for training, or a shard is missing.
    """
    found = tfrecord_files(place)
    if "" in found and len(found) > 1:
        raise FinetuneError(
            f"{found[''][0]} does not say what its images are for: expected train, validation or test in its name, "
            f"as in {next(paths[0].name for word, paths in found.items() if word)}"
        )
    words, remarks = settled({word: role_of(word) for word in found if word}, str(place))
    files = {split: found[word] for split, word in words.items()} if words else {"train": found.get("", [])}
    if not files.get("train"):
        has = ", ".join(word for word in found if word)
        raise FinetuneError(f"{place} holds {has} TFRecords, but none with train in the name: add them")
    for paths in files.values():
        _check_shards(paths)
    if unused := sum(len(paths) for word, paths in found.items() if word and word not in words.values()):
        remarks = (*remarks, f"not used: {unused} TFRecords without labels, by their names")
    return files, remarks


def read_tfrecords(place: Path, options: ReadOptions) -> Dataset:
    """The TFRecords in the folder `place`, or that file.

    slim's `image/encoded` holds images of any size, in any format that is read, or raw pixels; `image/class/label`
    holds the labels. Other names are found, or given in `options.tfrecord_keys`. `labels.txt` holds the class names
    (`0:daisy`); without it, classes are named by number, or by their text if labels are text. If labels start at 1, as
    in slim's ImageNet with its background class 0, they are shifted to start at 0, and the data set knows the
    background's name. A split without labels is left out. Raises FinetuneError for files, records or labels that do not
    fit.
    """
    files, remarks = _splits(place) if place.is_dir() else ({"train": [place]}, ())
    folder = place if place.is_dir() else place.parent
    first = first_record(files["train"][0])
    if first is None:
        raise FinetuneError(f"{files['train'][0]} holds no image: download or write it again")
    with naming_record(f"{files['train'][0]} record 0"):
        keys = find_keys(f"{files['train'][0]} record 0", first, options.tfrecord_keys)
    for split in ("validation", "test"):
        one = first_record(files[split][0]) if split in files else None
        if one and (keys.label or keys.text) not in one.features:
            remarks = (*remarks, f"the {split} TFRecords have no {keys.label or keys.text}: they are left out")
            del files[split]
    found, texts = index_records(files, keys, options.on_scan, several=options.multi_label)
    path = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    names = _read_names(path) if path else None
    if found.labels.ndim == 2:
        class_names, labels = named_labels(found.labels, names, str(folder))
        said: tuple[str, ...] = (f"an image may have several labels: lists in {printable(keys.label)}",)
    else:
        class_names, labels, said = _classes(folder, names, found.labels, texts)
    if keys.side:
        remarks = (*remarks, f"raw pixels of {keys.side} x {keys.side} px, by their number")
    if keys.unit:
        remarks = (*remarks, f"{printable(keys.image)} holds floats in [0, 1]: they are multiplied by 255")
    if (keys.image, keys.label) != (Keys().image, Keys().label):
        remarks = (
            f"images are read from {printable(keys.image)}, labels from {printable(keys.label or keys.text)}",
            *remarks,
        )
    return assemble(
        options,
        found._replace(labels=labels),
        name=printable(place.name.partition(".")[0]) or "tfrecords",
        class_names=class_names,
        source=f"{place}: TFRecords, {', '.join(f'{len(paths)} {split}' for split, paths in files.items())}",
        remarks=(*remarks, *said),
        background=(names or {}).get(0, "background") if found.labels.min() == 1 > labels.min() else None,
    )


def _read_names(path: Path) -> dict[int, str]:
    """Maps labels to the names in `path`: `0:daisy` or `0 daisy` in a line. Lines without numbers count from 0."""
    lines = [line for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
    matches = [_COLUMNS.match(line) for line in lines]
    if not all(matches):
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
    folder: Path, names: dict[int, str] | None, labels: np.ndarray, texts: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """(class names, labels from 0, remarks for the user)."""
    least, most = int(labels.min()), int(labels.max())
    remarks: tuple[str, ...] = ()
    if texts:
        order = tuple(names[label] for label in sorted(names)) if names else tuple(sorted(texts))
        if missing := set(texts) - set(order):
            raise FinetuneError(f"{folder}: a label is '{sorted(missing)[0]}', which labels.txt does not name: add it")
        return order, np.array([order.index(text) for text in texts], np.int64)[labels], ()
    if most > len(labels) and names is None:
        raise FinetuneError(f"{folder}: a label is {most}: expected classes numbered from 0 or 1, without gaps")
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
