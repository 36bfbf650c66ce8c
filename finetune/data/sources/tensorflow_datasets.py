"""`tfds:NAME`: image classification data sets of tensorflow_datasets, an extra of this package."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.data import decoding
from finetune.data.dataset import Dataset
from finetune.data.lazy import Photos
from finetune.data.sources.assembly import ReadOptions, assemble, photo_splits
from finetune.data.sources.tfrecord import Keys, index
from finetune.errors import FinetuneError, WrongUse
from finetune.text import printable

_SPLITS = {"train": "train", "validation": "validation", "test": "test"}


def read_tfds(name: str, request: ReadOptions) -> Dataset:
    """The data set `name` (`NAME`, `NAME/CONFIG`, `NAME:VERSION`) of tensorflow_datasets, prepared where it is not yet.

    `request.data_dir` is tensorflow_datasets' own `data_dir`. Its files are read at random access: TFRecords, which
    it writes by default, by their index; ArrayRecord and the like as its `as_data_source` gives them.
    Raises WrongUse where the extra is not installed or the name unknown; FinetuneError where it is no image
    classification, or cannot be prepared.
    """
    if not name:
        raise WrongUse("--data tfds: names no data set: expected tfds:NAME, such as tfds:oxford_flowers102")
    builder = _prepared(name, request)
    info = builder.info
    image_key, label_key = _keys(name, info)
    names = info.features[label_key].names
    files = {split: _files(builder, split) for split in _SPLITS if split in info.splits}
    if "train" not in files:
        raise FinetuneError(f"tfds:{name} has the splits {', '.join(info.splits)}, but no train: take another data set")
    if all(paths is not None for paths in files.values()):
        given = {split: paths for split, paths in files.items() if paths is not None}
        photos: Photos
        photos, labels, members = index(given, Keys(image_key, label_key, "", "", ""), request.on_scan)
    else:
        photos, labels, members = _sourced(builder, list(files), image_key, label_key)
    splits, skipped = photo_splits(request, photos, labels, members)
    return assemble(
        request,
        name=info.name,
        class_names=tuple(printable(one) for one in names),
        splits=splits,
        source=f"tfds:{info.full_name}: {', '.join(files)}",
        skipped=skipped,
    )


def _prepared(name: str, request: ReadOptions) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError:
        raise WrongUse(
            f"--data tfds:{name} needs tensorflow_datasets: pip install 'finetune-backbones[tfds]'"
        ) from None
    try:
        builder = tfds.builder(name, data_dir=request.data_dir)
    except tfds.core.DatasetNotFoundError:
        near = _near(name, tfds)
        raise WrongUse(f"unknown data 'tfds:{name}': {near}tensorflow_datasets knows no such name") from None
    except Exception as error:  # whatever it makes of a name, a configuration or a version
        raise FinetuneError(f"tfds:{name} cannot be opened: {_first_line(error)}; check the name") from None
    if os.path.isdir(builder.data_dir):
        return builder
    try:
        builder.download_and_prepare()
    except Exception as error:  # its downloads, its checksums, its code for the data set
        raise FinetuneError(
            f"tfds:{name} is not in {builder.data_dir}, and could not be fetched: {_first_line(error)}; prepare it "
            f"with 'tfds build {name}' on a machine that can, and give its folder with --data-dir"
        ) from None
    return builder


def _keys(name: str, info: Any) -> tuple[str, str]:
    """What the image and the label are called."""
    import tensorflow_datasets as tfds

    features = dict(info.features)
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    supervised = info.supervised_keys
    if isinstance(supervised, tuple) and supervised[0] in images and supervised[1] in labels:
        return str(supervised[0]), str(supervised[1])
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    raise FinetuneError(
        f"tfds:{name} has the features {', '.join(features)}: expected one image and one class label; it is no image "
        "classification"
    )


def _files(builder: Any, split: str) -> list[Path] | None:
    """The split's TFRecords, or None where it is kept in another format."""
    info = builder.info.splits[split]
    paths = [Path(os.fspath(path)) for path in info.filepaths]
    if builder.info.file_format.value != "tfrecord":
        return None
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FinetuneError(
            f"{missing[0]} is missing: tensorflow_datasets prepared it in part; delete its folder, and repeat"
        )
    return paths


class _Sources:
    """The images of some random access sources of tensorflow_datasets, one after another."""

    def __init__(self, named: list[tuple[str, Any]], key: str) -> None:
        self._named, self._key = named, key
        self._ends = np.cumsum([len(source) for _, source in named])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _at(self, number: int) -> tuple[str, Any, int]:
        which = int(np.searchsorted(self._ends, number, side="right"))
        name, source = self._named[which]
        return name, source, number - (int(self._ends[which - 1]) if which else 0)

    def open(self, number: int) -> Image.Image:
        """The image with its header read."""
        return decoding.opened(self.content(number), self.place(number))

    def name(self, number: int) -> str:
        """Its split and its number there."""
        name, _, within = self._at(number)
        return f"{name} {within}"

    def place(self, number: int) -> str:
        """The same."""
        return f"example {self.name(number)}"

    def content(self, number: int) -> bytes:
        """The image as it is stored."""
        _, source, within = self._at(number)
        return bytes(source[within][self._key])

    def bytes_of(self, number: int) -> int:
        """Its length."""
        return len(self.content(number))

    def picture(self, number: int) -> bytes:
        """The same as `content`."""
        return self.content(number)

    def picture_size(self, number: int) -> int | None:
        """None: it takes reading."""
        return None


def _sourced(
    builder: Any, splits: list[str], image: str, label: str
) -> tuple[Photos, np.ndarray, dict[str, np.ndarray]]:
    import tensorflow_datasets as tfds

    try:
        decoders = {image: tfds.decode.SkipDecoding()}
        named = [(split, builder.as_data_source(split, decoders=decoders)) for split in splits]
    except Exception as error:  # a format without random access, or without its library
        raise FinetuneError(
            f"tfds:{builder.info.name} lies in {builder.data_dir} in a format that cannot be read at random access: "
            f"{_first_line(error)}; prepare it as TFRecords ('tfds build --file_format=tfrecord')"
        ) from None
    labels = [int(example[label]) for _, source in named for example in source]
    ends = np.cumsum([0, *(len(source) for _, source in named)])
    members = {split: np.arange(ends[i], ends[i + 1], dtype=np.int64) for i, split in enumerate(splits)}
    return _Sources(named, image), np.array(labels, np.int64), members


def _near(name: str, tfds: Any) -> str:
    import difflib

    near = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], tfds.list_builders(), n=1)
    return f"did you mean tfds:{near[0]}? " if near else ""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
