"""HDF5 files opened without trusting them: plain arrays of numbers in the file itself, and nothing else."""

import contextlib
import functools
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from checkpoints.errors import CheckpointError

_MOST_OBJECTS = 200_000
# A file may declare an array of any size and store nothing of it: HDF5 then makes it up in memory when it is read.
_BOMB_BYTES, _MOST_EXPANSION = 64 << 20, 1000
_TRIAL = Path(__file__).with_name("hdf5_trial.py")
_MOST_MEMORY = 1 << 30


@dataclass(frozen=True)
class Hdf5:
    """Where an HDF5 file lies: the whole file `path`, or `size` bytes of it from `offset` (a member of a zip)."""

    path: Path
    offset: int = 0
    size: int | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """The open `h5py.File`. What h5py raises for damaged files becomes CheckpointError, and so does what would
        make it hang or end the process."""
        self.require_harmless()
        with _errors(self.path):
            if self.size is None:
                with h5py.File(self.path, "r") as file:
                    yield file
            else:
                with (
                    self.path.open("rb", buffering=0) as raw,
                    _Window(raw, self.offset, self.size) as window,
                    h5py.File(window, "r") as file,
                ):
                    yield file

    def read(self, where: str) -> np.ndarray:
        """The array of numbers at `where`. Raises CheckpointError as `numeric` does."""
        with self.opened() as file:
            return np.asarray(numeric(file, where, self.path)[()])

    def require_harmless(self) -> None:
        """Raise CheckpointError where the HDF5 library hangs or crashes over the file; tried once, in a process."""
        state = self.path.stat()
        _try(self.path, self.offset, self.size or 0, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=64)
def _try(path: Path, offset: int, size: int, _changed: int, whole: int) -> None:
    # Processor time: the load of the machine must not decide. 2 s, and 1 s for 20 MB, are ten times what is needed.
    seconds = 2 + whole // 20_000_000
    done = subprocess.run(
        [sys.executable, "-I", *map(str, (_TRIAL, seconds, _MOST_MEMORY + 2 * whole, path, offset, size))],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        how = f"signal {-done.returncode}" if done.returncode < 0 else "out of memory"
        raise CheckpointError(
            f"{path} is damaged or hostile: the HDF5 library hangs or crashes over it ({how}, tried in a process of "
            "its own); copy or fetch it again"
        )


def numeric(file: Any, where: str, path: Path) -> Any:
    """The dataset of numbers at `where`, whose bytes lie in this file. Raises CheckpointError for any other."""
    place = file
    for part in where.strip("/").split("/"):
        # A soft link may lead through an external one: neither is followed. Keras writes none.
        if isinstance(place.get(part, getlink=True), h5py.ExternalLink | h5py.SoftLink):
            raise CheckpointError(
                f"{path} holds a link at {where}, perhaps into another file: expected all arrays in one file"
            )
        place = place[part]
    return _plain(place, where, path)


def all_datasets(file: Any, path: Path) -> dict[str, Any]:
    """Every dataset of the file by its path without the leading "/". Raises CheckpointError for links and loops."""
    found: dict[str, Any] = {}
    seen = set()
    groups: list[tuple[str, Any]] = [("", file)]
    while groups:
        prefix, group = groups.pop()
        for name in group:
            where = f"{prefix}{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise CheckpointError(
                    f"{path} holds a link at {where}, perhaps into another file: expected all arrays in one file"
                )
            place = group[name]
            address = h5py.h5o.get_info(place.id).addr
            if address in seen:
                raise CheckpointError(f"{path} holds {where} twice: expected every array once")
            seen.add(address)
            if len(seen) > _MOST_OBJECTS:
                raise CheckpointError(f"{path} holds more than {_MOST_OBJECTS} objects: expected fewer")
            if isinstance(place, h5py.Group):
                groups.append((f"{where}/", place))
            else:
                found[where] = place
    return found


def _plain(place: Any, where: str, path: Path) -> Any:
    if not isinstance(place, h5py.Dataset):
        raise CheckpointError(f"{path} holds no array at {where}: the file is damaged or of another layout")
    if place.external or place.is_virtual:
        raise CheckpointError(f"{path} keeps {where} in another file: expected all arrays in one file")
    if place.dtype.kind not in "fiub":
        raise CheckpointError(f"{path} holds {place.dtype} at {where}: expected numbers")
    if place.shape is None:
        raise CheckpointError(f"{path} holds an empty array at {where}: expected numbers")
    if place.nbytes > max(_BOMB_BYTES, _MOST_EXPANSION * place.id.get_storage_size()):
        raise CheckpointError(
            f"{path} declares {place.nbytes} bytes at {where} and stores {place.id.get_storage_size()}: it is not read"
        )
    return place


class _Window(io.RawIOBase):
    """Some bytes of an open file, read as a file of its own."""

    def __init__(self, file: io.FileIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(start + position, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(min(len(view), self._size - self._position), 0)]
        self._file.seek(self._offset + self._position)
        count = self._file.readinto(view) if len(view) else 0
        self._position += count
        return count


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Translate what h5py raises for damaged files."""
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or was cut off ({reason}): copy or fetch it again") from error
