"""A config's images and labels, read and split; and the table of the names of data.

The readers are in `sources`, one module per kind.
"""

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from finetune.config import RunConfig
from finetune.data.dataset import Dataset, Split, few_shot, hold_out, stratified_subset
from finetune.data.exclusion import read_exclusion, without
from finetune.data.sources import parquet_images
from finetune.data.sources.array_files import FILES, array_files
from finetune.data.sources.arrays import read_arrays_file
from finetune.data.sources.assembly import Progress, ReadOptions
from finetune.data.sources.cifar import CIFAR, cifar_at, read_cifar
from finetune.data.sources.generated import demo_source, demo_target
from finetune.data.sources.idx import IDX, idx_at, read_idx
from finetune.data.sources.image_folder import read_folder
from finetune.data.sources.image_table import read_table
from finetune.data.sources.pixel_table import is_pixel_table, read_pixels
from finetune.data.sources.table_rows import LISTS, TABLES
from finetune.data.sources.tensorflow_datasets import read_tfds
from finetune.data.sources.tfrecord import is_tfrecord, read_tfrecords, tfrecord_files
from finetune.errors import WrongUse
from finetune.text import pairs

_GENERATED: dict[str, Callable[[], Dataset]] = {"demo-source": demo_source, "demo-target": demo_target}
_NAMES = (*CIFAR, *IDX, *_GENERATED)
_TFDS = "tfds:"
_UNPACK = "; unpack the archive, and give the folder"
_INSTEAD = {
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), _UNPACK),
    **dict.fromkeys((".json", ".jsonl", ".xml", ".xlsx"), "; write a .csv of the images and their classes from it"),
    ".npy": "; put images and labels into a folder, as x_train.npy and y_train.npy, and give the folder",
}
"""The way on from files that are not read, by their suffix."""
_KNOWN = ", ".join((*_NAMES, "tfds:NAME"))


def load_data(
    config: RunConfig,
    *,
    white: int | None = None,
    progress: Progress | None = None,
    on_scan: Progress | None = None,
) -> Dataset:
    """The data a run is configured for. The same seed gives the same split, and all splits are stratified.

    `config.data` is a name of the table, `tfds:NAME` or a path; if it is a path, `data_dir` is where it lies now.

    - `examples` is the whole budget of labels: so many training images are drawn, and the validation images are a
      fraction `validation` of those.
    - `few_shot` draws so many training images of every class, and all of them train. The validation images are a
      fraction `validation` of that number, drawn from the other images.
    - Validation images of the data's own are used instead, unless `validation` is 0.
    - `exclude` lists images that are left out, of every split; the others stay in their split.
    - Test images never change otherwise. Only if the data has none, a fraction `test` is drawn as well.

    `white` is that of a run (`Dataset.white`), by which its images are scaled wherever they lie now.
    `progress` receives the bytes of downloads, `on_scan` the number of photos that were inspected. Raises WrongUse for
    an unknown name (with the nearest one), for a `data_dir` that would not be read and for an impossible number;
    FinetuneError for files.
    """
    split = _split(load_whole(config, white=white, progress=progress, on_scan=on_scan), config)
    return split.with_background() if config.background_class else split


def load_whole(
    config: RunConfig,
    *,
    white: int | None = None,
    progress: Progress | None = None,
    on_scan: Progress | None = None,
) -> Dataset:
    """As `load_data`, but with all training images, and with the data's own validation images where it has any."""
    data_dir = Path(config.data_dir) if config.data_dir else None
    exclusion = read_exclusion(Path(config.exclude)) if config.exclude else None
    options = ReadOptions(
        data_dir,
        config.test,
        config.seed,
        config.skip_bad_images,
        progress=progress,
        on_scan=on_scan,
        npz_keys=pairs(config.npz_keys or "") or {},
        tfrecord_keys=pairs(config.tfrecord_keys or "") or {},
        csv_columns=pairs(config.csv_columns or "") or {},
        multi_label=config.multi_label,
        label_separator=config.label_separator,
        white=white,
        excluded=exclusion.names.keys() if exclusion else (),
    )
    dataset = read_source(config.data, options)
    if (config.multi_label or config.label_separator) and not dataset.multi_label:
        option = config.as_option("multi_label" if config.multi_label else "label_separator")
        raise WrongUse(f"{option}: {dataset.source} has one label an image in a form that holds no more: leave it out")
    if config.background_class and dataset.background is None:
        raise WrongUse(f"--background-class: the labels of {dataset.source} do not start at 1; leave it out")
    return without(dataset, exclusion) if exclusion else dataset


def _split(dataset: Dataset, config: RunConfig) -> Dataset:
    """`dataset` with its training and validation images drawn as `load_data` says."""
    train, held_out = dataset.train, dataset.validation if config.validation else None
    if config.few_shot is not None:
        train, others = few_shot(train, config.few_shot, config.seed, dataset.class_names)
        if config.validation and held_out is None:
            held_out = _drawn_from(others, max(round(config.validation * len(train)), 1), config.seed)
        return replace(dataset, train=train, validation=held_out)
    if config.examples is not None:
        train = stratified_subset(train, config.examples, config.seed)
    if config.validation and held_out is None:
        train, held_out = hold_out(train, config.validation, config.seed)
    return replace(dataset, train=train, validation=held_out)


def _drawn_from(others: Split, count: int, seed: int) -> Split:
    """`count` validation images from those that the few shots leave over."""
    if len(others) <= count:
        raise WrongUse(
            f"--few-shot leaves {len(others)} other images, of which {count} would be held out for validation: lower "
            "--few-shot, or give --validation 0"
        )
    return hold_out(others, count / len(others), seed)[1]


def read_source(name: str, options: ReadOptions) -> Dataset:
    """All the data called `name`: one of the table, `tfds:NAME`, or a path.

    A path is one of published files, a folder of images per class, TFRecords, a table, or arrays. Raises WrongUse and
    FinetuneError as `load_data` says.
    """
    if name in _GENERATED:
        if options.data_dir is not None:
            raise WrongUse(f"{name} is generated, not read from {options.data_dir}: leave --data-dir out")
        return _GENERATED[name]()
    if name in CIFAR:
        return read_cifar(name, options.data_dir, options.progress)
    if name in IDX:
        return read_idx(name, options.data_dir, options.progress)
    if name.startswith(_TFDS):
        return read_tfds(name.removeprefix(_TFDS), options)
    if not _is_path(name):
        plain = name.lower().replace("-", "").replace("_", "")
        near = difflib.get_close_matches(plain, _NAMES, n=1) or difflib.get_close_matches(name.lower(), _NAMES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise WrongUse(f"unknown data '{name}': {hint}expected one of {_KNOWN}, or the path of a folder, .npz or .csv")
    path = Path(os.path.abspath(options.data_dir or os.path.expanduser(name)))
    if path.suffix.lower() in FILES and not path.is_dir() and (path.exists() or path.suffix.lower() == ".npz"):
        return read_arrays_file(path, options)
    if not path.exists():
        raise WrongUse(f"--data {path}: there is nothing of that name; check the path, or give one of {_KNOWN}")
    if published := cifar_at(path):
        return read_cifar(published, path, options.progress)
    if published := idx_at(path):
        return read_idx(published, path, options.progress)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv") and is_pixel_table(path):
        return read_pixels(path, options)
    if path.is_file() and path.suffix.lower() in (*TABLES, *LISTS):
        embedded = path.suffix.lower() == parquet_images.SUFFIX and parquet_images.holds_images(path)
        return parquet_images.read_parquet(path, options) if embedded else read_table(path, options)
    if path.is_file() and not is_tfrecord(path):
        raise WrongUse(
            f"--data {path} is a file: expected a folder of images per class, TFRecords or a folder of them, an .npz, "
            "a table of image files (.csv, .tsv, .parquet), or a folder of .npy files such as x_train.npy, y_train.npy"
            + _INSTEAD.get(path.suffix.lower(), "")
        )
    if path.is_file() or tfrecord_files(path):
        return read_tfrecords(path, options)
    if parquet_images.parquet_files(path):
        return parquet_images.read_parquet(path, options)
    return read_arrays_file(path, options) if array_files(path) else read_folder(path, options)


def absolute(name: str, *, below: Path | None = None) -> str:
    """`name` itself if it is one of the table, else its absolute path, which a config can be read with from anywhere.

    Relative paths start at `below`, by default the current folder.
    """
    return os.path.abspath((below or Path()) / os.path.expanduser(name)) if _is_path(name, below) else name


def _is_path(name: str, below: Path | None = None) -> bool:
    if name in _NAMES or name.startswith(_TFDS) or not name.strip():
        return False
    looks_like_one = name.startswith(("~", ".")) or name.lower().endswith((".npz", *TABLES)) or os.sep in name
    return looks_like_one or os.path.exists((below or Path()) / name)
