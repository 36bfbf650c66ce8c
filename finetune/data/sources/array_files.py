"""The arrays in a file, or in the files of a folder, each read when it is asked for.

NumPy's `.npz` and `.npy`, HDF5, MATLAB's `.mat`, and pickled dicts.
"""

import functools
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import h5py
import numpy as np

from checkpoints.formats.hdf5 import Hdf5, all_datasets, numeric
from finetune.data.image_files import is_visible
from finetune.data.sources.restricted_pickle import LARGEST, read_bytes, read_objects, read_pickle
from finetune.errors import FinetuneError
from finetune.text import first_line, printable

HDF5, PICKLES, MATLAB = (".h5", ".hdf5"), (".pkl", ".pickle", ".p"), ".mat"
FILES = (".npz", *HDF5, *PICKLES, MATLAB)
"""The suffixes of files that may hold images and labels."""
_LOCAL_HEADER = 30
_TEXT_BYTES = 64 << 20
_BOMB_BYTES, _MOST_EXPANSION = 256 << 20, 100
_DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error)
"""The exceptions that `zipfile` raises for a damaged archive."""

Stored = dict[str, Callable[[], np.ndarray]]
"""The reader of each array by its name, in the order of the files."""


def array_files(folder: Path) -> list[Path]:
    """The files of arrays in `folder`, sorted, of one kind; none if it holds folders, which are those of a data set."""
    visible = [path for path in sorted(folder.iterdir()) if is_visible(path.name)]
    if any(path.is_dir() for path in visible):
        return []
    for kind in ((".npz", ".npy"), HDF5, (MATLAB,), PICKLES):
        if found := [path for path in visible if path.suffix.lower() in kind]:
            return found
    return []


def stored_arrays(path: Path) -> Stored:
    """The arrays of a file, or of the files of a folder: `x_train`, or `FILE/x_train` where the folder holds an `.npz`.

    Uncompressed arrays are mapped, not loaded. Text and numbers in arrays of Python objects are read by a restricted
    reader. Readers raise FinetuneError for what is damaged, and so does this function.
    """
    if not path.is_dir():
        return _arrays(path)
    found: Stored = {}
    for file in array_files(path):
        if file.suffix.lower() != ".npy":
            found |= {f"{file.stem}/{name}": read for name, read in _arrays(file).items()}
        else:
            found[file.stem] = functools.partial(_file, file)
    return found


def _arrays(path: Path) -> Stored:
    """The arrays of one file that may hold several."""
    suffix = path.suffix.lower()
    if suffix == MATLAB:
        return _matlab(path)
    if suffix in HDF5:
        return _hdf5(path)
    return _pickled(path) if suffix in PICKLES else _members(path)


def _hdf5(path: Path) -> Stored:
    """The data sets of an HDF5 file by their paths: `train/images`."""
    with Hdf5(path).opened() as file:
        if {"model_config", "layer_names"} & {*file.attrs} or "model_weights" in file:
            raise FinetuneError(f"{path} holds a Keras model, not images: --backbone takes it; expected arrays")
        names = sorted(all_datasets(file, path))
    return {name: functools.partial(_data_set, path, name) for name in names}


def _data_set(path: Path, name: str) -> np.ndarray:
    """An array of numbers or of text, such as the names of classes."""
    with Hdf5(path).opened() as file:
        one = file[name]
        if h5py.check_string_dtype(one.dtype) is None:
            return np.asarray(numeric(file, name, path)[()])
        if one.external or one.is_virtual or one.nbytes > _TEXT_BYTES:
            raise FinetuneError(f"{path}: {printable(name)} is text in another file, or more than 64 MiB: leave it out")
        return np.asarray(one.asstr()[()]).astype(str)


def _matlab(path: Path) -> Stored:
    """The variables of a `.mat` file. MATLAB has the images of an array along its last axis: they come first here."""
    from scipy.io import loadmat  # imported for such files only: it takes a fraction of a second

    try:
        found = loadmat(path)
    except NotImplementedError:  # MATLAB 7.3: HDF5, whose axes are in the other order
        stored = _hdf5(path)
        found = {name: read().T for name, read in stored.items() if not name.startswith("#")}
    except Exception as error:  # scipy ends in any exception for a damaged file
        raise FinetuneError(f"{path} is no .mat file, or damaged ({first_line(error)}): write it again") from None
    arrays = {name: one for name, one in found.items() if isinstance(one, np.ndarray) and one.dtype.kind in "biufU"}
    first = {name: np.moveaxis(one, -1, 0) if one.ndim == 4 else one for name, one in arrays.items()}
    return {name: functools.partial(_itself, one) for name, one in first.items()}


def _pickled(path: Path) -> Stored:
    """The arrays in a pickled dict, and its lists of numbers or of text; nothing else is unpickled."""
    if path.is_file() and path.stat().st_size > LARGEST:
        raise FinetuneError(
            f"{path} has {path.stat().st_size / 2**20:.0f} MiB, and a pickle may have {LARGEST / 2**20:.0f}: write its "
            "arrays to an .npz with np.savez"
        )
    found = read_pickle(read_bytes(path), str(path), "write its arrays to an .npz with np.savez")
    plain = {name: one for name, one in found.items() if isinstance(one, np.ndarray)}
    for name, one in found.items():
        if isinstance(one, list) and one and all(isinstance(each, type(one[0])) for each in one):
            texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in one]
            if isinstance(texts[0], str | int | float):
                plain[name] = np.array(texts)
    return {name: functools.partial(_itself, one) for name, one in plain.items()}


def _itself(array: np.ndarray) -> np.ndarray:
    return array


def _members(path: Path) -> Stored:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
    except FileNotFoundError:
        raise FinetuneError(f"{path} is missing: check the path") from None
    except _DAMAGED as error:
        raise _damaged_file(path, error) from None
    return {name.removesuffix(".npy"): functools.partial(_member, path, name) for name in names}


def _member(path: Path, member: str) -> np.ndarray:
    """One array of an `.npz`."""
    name = printable(member.removesuffix(".npy"))
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(member)
            if info.file_size > _BOMB_BYTES and info.file_size > _MOST_EXPANSION * info.compress_size:
                raise ValueError(f"{info.compress_size} bytes that claim to unpack to {info.file_size}")
            begin = None
            if info.compress_type == zipfile.ZIP_STORED:
                with path.open("rb") as file:
                    file.seek(info.header_offset)
                    local = file.read(_LOCAL_HEADER)
                begin = info.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", local[26:30]))
            with archive.open(info) as content:
                return _parsed(path, name, content, info.file_size, begin)
    except (ValueError, tokenize.TokenError) as error:  # the latter for a header that is cut off
        raise FinetuneError(f"{path}: {name} is damaged ({error}): write it again with np.savez") from None
    except _DAMAGED as error:
        raise _damaged_file(path, error) from None


def _file(path: Path) -> np.ndarray:
    """The array of an `.npy`."""
    try:
        with path.open("rb") as content:
            return _parsed(path, path.stem, content, path.stat().st_size, 0)
    except (OSError, ValueError, EOFError, tokenize.TokenError) as error:
        raise FinetuneError(f"{path} is no .npy, or damaged ({error}): write it again with np.save") from None


def _parsed(path: Path, name: str, content: "IO[bytes]", size: int, begin: int | None) -> np.ndarray:
    """The array in `size` bytes of `content`, which lie in the file at `begin` if they are not compressed."""
    version = np.lib.format.read_magic(content)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(content)
    start = content.tell()
    if dtype.hasobject:
        if dtype.names is not None or size > LARGEST:
            raise FinetuneError(
                f"{path}: {name} is of {dtype}, {size / 2**20:.0f} MiB of Python objects: write it as an array of "
                "numbers or of fixed-length text, one array a key"
            )
        return read_objects(content.read(), f"{path}: {name}")
    length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size != start + length:
        raise ValueError(f"it has {size - start} bytes of {length}")
    if begin is not None and length:
        return np.memmap(path, dtype, "r", begin + start, shape, "F" if fortran else "C")
    array = np.frombuffer(content.read(), dtype).reshape(shape, order="F" if fortran else "C")
    if array.size * dtype.itemsize != length:
        raise ValueError("it is cut off")
    return array


def _damaged_file(path: Path, error: Exception) -> FinetuneError:
    return FinetuneError(f"{path} is no .npz, or damaged ({error}): write it again with np.savez")
