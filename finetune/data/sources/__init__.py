"""Where data comes from: one file a kind, and this table of names and paths."""

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from finetune.data.dataset import Dataset, Split, few_shot, hold_out, stratified_subset
from finetune.data.sources.arrays import read_arrays_file
from finetune.data.sources.assembly import TEST_SHARE, Progress, ReadOptions
from finetune.data.sources.cifar import read_cifar10, read_cifar100, read_cifar100_coarse
from finetune.data.sources.generated import demo_source, demo_target
from finetune.data.sources.image_folder import read_folder
from finetune.data.sources.tensorflow_datasets import read_tfds
from finetune.data.sources.tfrecord import read_tfrecords, tfrecord_files
from finetune.errors import WrongUse

_FILES: dict[str, Callable[[Path | None, Progress | None], Dataset]] = {
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "cifar100-coarse": read_cifar100_coarse,
}
_GENERATED: dict[str, Callable[[], Dataset]] = {"demo-source": demo_source, "demo-target": demo_target}
_TFDS = "tfds:"


def load_dataset(
    name: str,
    *,
    data_dir: Path | None,
    examples: int | None,
    validation: float,
    seed: int,
    shots: int | None = None,
    test: float = TEST_SHARE,
    skip_bad_images: bool = False,
    progress: Progress | None = None,
    on_scan: Progress | None = None,
) -> Dataset:
    """The data called `name`, of it `examples` training images (None: all), of them `validation` held out.

    `name` is one of the table, `tfds:NAME`, or a path: a folder of images per class, a folder of TFRecords, an `.npz`.
    Of a path, `data_dir` is where it lies now. `examples` is the whole budget of labels: the validation images, a
    fraction in [0, 1), are taken out of it, unless the data has its own, which are then used (but for 0). Both are
    drawn by `seed`, stratified; the test images never change, but where the data has none, and the fraction `test`
    is drawn by the seed as well. `shots` instead of `examples` are that many training images of every class, all of
    which train: the validation images are a fraction of that number, but others. `skip_bad_images` leaves damaged
    photos out. `progress` hears of downloads in bytes, `on_scan` how many photos have been looked through.

    Raises WrongUse for an unknown name (with the nearest), for a `data_dir` that would not be read, and for an
    impossible number; FinetuneError for files.
    """
    request = ReadOptions(os.fspath(data_dir) if data_dir else None, test, seed, skip_bad_images, progress, on_scan)
    dataset = _read(name, data_dir, request)
    train, held_out = dataset.train, dataset.validation if validation else None
    if shots is not None:
        train, others = few_shot(train, shots, seed, dataset.class_names)
        if validation and held_out is None:
            held_out = _beside(others, round(validation * len(train)), seed)
        return replace(dataset, train=train, validation=held_out)
    if examples is not None:
        train = stratified_subset(train, examples, seed)
    if validation and held_out is None:
        train, held_out = hold_out(train, validation, seed)
    return replace(dataset, train=train, validation=held_out)


def _beside(others: Split, count: int, seed: int) -> Split:
    """`count` validation images, at least one, of the images that few shots leave over."""
    count = max(count, 1)
    if len(others) <= count:
        raise WrongUse(
            f"--few-shot leaves {len(others)} other images, of which {count} would be held out for validation: lower "
            "--few-shot, or give --validation 0"
        )
    return hold_out(others, count / len(others), seed)[1]


def absolute(name: str, *, below: Path | None = None) -> str:
    """`name` itself where it is one of the table, else the absolute path: what a config keeps, to be read again from
    anywhere. Relative paths start at `below`, or where the process is."""
    return os.path.abspath((below or Path()) / os.path.expanduser(name)) if _is_path(name, below) else name


def _read(name: str, data_dir: Path | None, request: ReadOptions) -> Dataset:
    if name in _GENERATED:
        if data_dir is not None:
            raise WrongUse(f"{name} is generated, not read from {data_dir}: leave --data-dir out")
        return _GENERATED[name]()
    if name in _FILES:
        return _FILES[name](data_dir, request.progress)
    if name.startswith(_TFDS):
        return read_tfds(name.removeprefix(_TFDS), request)
    if not _is_path(name):
        raise _unknown(name)
    path = Path(os.path.abspath(data_dir or os.path.expanduser(name)))
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return read_arrays_file(path, request)
    if not path.exists():
        raise WrongUse(f"--data {path}: there is nothing of that name; check the path, or give one of {_known()}")
    if path.is_file():
        raise WrongUse(
            f"--data {path} is a file: expected a folder of images per class, a folder of TFRecords, or an .npz"
        )
    return read_tfrecords(path, request) if tfrecord_files(path) else read_folder(path, request)


def _is_path(name: str, below: Path | None = None) -> bool:
    if name in _FILES or name in _GENERATED or name.startswith(_TFDS) or not name.strip():
        return False
    separators = tuple(filter(None, (os.sep, os.altsep)))
    written_so = name.startswith(("~", ".")) or name.lower().endswith(".npz") or any(one in name for one in separators)
    return written_so or os.path.exists((below or Path()) / name)


def _known() -> str:
    return ", ".join([*_FILES, *_GENERATED, "tfds:NAME"])


def _unknown(name: str) -> WrongUse:
    known = [*_FILES, *_GENERATED]
    near = difflib.get_close_matches(name.lower().replace("-", "").replace("_", ""), known, n=1)
    near = near or difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return WrongUse(f"unknown data '{name}': {hint}expected one of {_known()}, or the path of a folder or .npz")
