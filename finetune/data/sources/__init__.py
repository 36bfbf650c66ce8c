"""The sources of data: one module per kind, and here the table of their names."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from finetune.data.dataset import Dataset
from finetune.data.sources.arrays import read_arrays_file
from finetune.data.sources.assembly import ReadOptions
from finetune.data.sources.cifar import CIFAR, read_cifar
from finetune.data.sources.generated import demo_source, demo_target
from finetune.data.sources.image_folder import read_folder
from finetune.data.sources.tensorflow_datasets import read_tfds
from finetune.data.sources.tfrecord import read_tfrecords, tfrecord_files
from finetune.errors import WrongUse

_GENERATED: dict[str, Callable[[], Dataset]] = {"demo-source": demo_source, "demo-target": demo_target}
_NAMES = (*CIFAR, *_GENERATED)
_TFDS = "tfds:"
_KNOWN = ", ".join((*_NAMES, "tfds:NAME"))


def read_source(name: str, options: ReadOptions) -> Dataset:
    """All the data called `name`: one of the table, `tfds:NAME`, or a path.

    A path is a folder of images per class, a folder of TFRecords, or an `.npz`. Raises WrongUse and FinetuneError as
    `finetune.data.load_data.load_data` says.
    """
    if name in _GENERATED:
        if options.data_dir is not None:
            raise WrongUse(f"{name} is generated, not read from {options.data_dir}: leave --data-dir out")
        return _GENERATED[name]()
    if name in CIFAR:
        return read_cifar(name, options.data_dir, options.progress)
    if name.startswith(_TFDS):
        return read_tfds(name.removeprefix(_TFDS), options)
    if not _is_path(name):
        plain = name.lower().replace("-", "").replace("_", "")
        near = difflib.get_close_matches(plain, _NAMES, n=1) or difflib.get_close_matches(name.lower(), _NAMES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise WrongUse(f"unknown data '{name}': {hint}expected one of {_KNOWN}, or the path of a folder or .npz")
    path = Path(os.path.abspath(options.data_dir or os.path.expanduser(name)))
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return read_arrays_file(path, options)
    if not path.exists():
        raise WrongUse(f"--data {path}: there is nothing of that name; check the path, or give one of {_KNOWN}")
    if path.is_file():
        raise WrongUse(
            f"--data {path} is a file: expected a folder of images per class, a folder of TFRecords, or an .npz"
        )
    return read_tfrecords(path, options) if tfrecord_files(path) else read_folder(path, options)


def absolute(name: str, *, below: Path | None = None) -> str:
    """`name` itself if it is one of the table, else its absolute path, which a config can be read with from anywhere.

    Relative paths start at `below`, by default the current folder.
    """
    return os.path.abspath((below or Path()) / os.path.expanduser(name)) if _is_path(name, below) else name


def _is_path(name: str, below: Path | None = None) -> bool:
    if name in _NAMES or name.startswith(_TFDS) or not name.strip():
        return False
    looks_like_one = name.startswith(("~", ".")) or name.lower().endswith(".npz") or os.sep in name
    return looks_like_one or os.path.exists((below or Path()) / name)
