"""`tfds:NAME`: image classification data sets of tensorflow_datasets, an extra of this package."""

import difflib
import os
from pathlib import Path
from typing import Any

import numpy as np

from finetune._version import install_line
from finetune.data.dataset import Dataset
from finetune.data.lazy import Photos
from finetune.data.sources.assembly import LabelledPhotos, ReadOptions, assemble
from finetune.data.sources.tfrecord_example import Keys
from finetune.data.sources.tfrecord_file import index_records
from finetune.errors import FinetuneError, WrongUse
from finetune.text import first_line, printable

_SPLITS = ("train", "validation", "test")


def read_tfds(name: str, options: ReadOptions) -> Dataset:
    """The data set `name` (`NAME`, `NAME/CONFIG`, `NAME:VERSION`) of tensorflow_datasets, which is prepared if needed.

    `options.data_dir` is tensorflow_datasets' own `data_dir`. The files are read at random access: TFRecords, which it
    writes by default, by an index of this package; ArrayRecord and others through its `as_data_source`. Raises
    WrongUse if the extra is not installed or the name is unknown; FinetuneError if the data set is no image
    classification, or cannot be prepared.
    """
    if not name:
        raise WrongUse("--data tfds: names no data set: expected tfds:NAME, such as tfds:oxford_flowers102")
    builder = _prepared(name, options.data_dir)
    info = builder.info
    image_key, label_key = _keys(name, info)
    splits = [split for split in _SPLITS if split in info.splits]
    if "train" not in splits:
        raise FinetuneError(f"tfds:{name} has the splits {', '.join(info.splits)}, but no train: take another data set")
    if info.file_format.value == "tfrecord":
        files = {split: _files(info.splits[split]) for split in splits}
        found, _ = index_records(files, Keys(image_key, label_key, "", "", "", ""), options.on_scan)
    else:
        found = _sourced(builder, splits, image_key, label_key)
    return assemble(
        options,
        found,
        name=info.name,
        class_names=tuple(printable(one) for one in info.features[label_key].names),
        source=f"tfds:{info.full_name}: {', '.join(splits)}",
    )


def _prepared(name: str, data_dir: Path | None) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError:
        raise WrongUse(f"--data tfds:{name} needs tensorflow_datasets: {install_line('tfds')}") from None
    try:
        builder = tfds.builder(name, data_dir=data_dir and str(data_dir))
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], tfds.list_builders(), n=1)
        hint = f"did you mean tfds:{near[0]}? " if near else ""
        raise WrongUse(f"unknown data 'tfds:{name}': {hint}tensorflow_datasets knows no such name") from None
    except Exception as error:  # it checks names, configurations and versions in many ways
        raise FinetuneError(f"tfds:{name} cannot be opened: {_described(error)}; check the name") from None
    if os.path.isdir(builder.data_dir):
        return builder
    try:
        builder.download_and_prepare()
    except Exception as error:  # from its downloads, its checksums or its code for the data set
        raise FinetuneError(
            f"tfds:{name} is not in {builder.data_dir}, and could not be fetched: {_described(error)}; prepare it "
            f"with 'tfds build {name}' on a machine that can, and give its folder with --data-dir"
        ) from None
    return builder


def _keys(name: str, info: Any) -> tuple[str, str]:
    """The names of the image feature and of the label feature."""
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


def _files(split: Any) -> list[Path]:
    """The TFRecords of a split of tensorflow_datasets."""
    paths = [Path(os.fspath(path)) for path in split.filepaths]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FinetuneError(
            f"{missing[0]} is missing: tensorflow_datasets prepared it in part; delete its folder, and repeat"
        )
    return paths


class _Sources(Photos):
    """The images of some random access sources of tensorflow_datasets, one source after another.

    source: int64 `[n]`, the position of each image's source in `named`.
    """

    def __init__(self, named: list[tuple[str, Any]], key: str) -> None:
        self._named, self._key = named, key
        lengths = [len(source) for _, source in named]
        self.source = np.repeat(np.arange(len(named)), lengths)
        self._within = np.concatenate([np.arange(length) for length in lengths])

    def __len__(self) -> int:
        return len(self.source)

    def _at(self, number: int) -> tuple[str, Any, int]:
        return *self._named[self.source[number]], int(self._within[number])

    def name(self, number: int) -> str:
        """Its split and its number in that split."""
        name, _, within = self._at(number)
        return f"{name} {within}"

    def place(self, number: int) -> str:
        """The same, for messages."""
        return f"example {self.name(number)}"

    def content(self, number: int) -> bytes:
        """The image as it is stored."""
        _, source, within = self._at(number)
        return bytes(source[within][self._key])


def _sourced(builder: Any, splits: list[str], image: str, label: str) -> LabelledPhotos:
    import tensorflow_datasets as tfds

    try:
        decoders = {image: tfds.decode.SkipDecoding()}
        named = [(split, builder.as_data_source(split, decoders=decoders)) for split in splits]
    except Exception as error:  # a format without random access, or without its library
        raise FinetuneError(
            f"tfds:{builder.info.name} lies in {builder.data_dir} in a format that cannot be read at random access: "
            f"{_described(error)}; prepare it as TFRecords ('tfds build --file_format=tfrecord')"
        ) from None
    labels = [int(example[label]) for _, source in named for example in source]
    photos = _Sources(named, image)
    members = {split: np.flatnonzero(photos.source == position) for position, split in enumerate(splits)}
    return LabelledPhotos(photos, np.array(labels, np.int64), members)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error, 200)}"
