"""One set of features on disk: a row per image, found by what the image is, written by any number of processes.

`rows.bin` holds rows of one size and nothing else (`np.memmap` opens it); `index.bin` names the image of each row by 16
bytes. A row is written, then flushed to the disk, then named: a row without a name is none, whoever was killed when.
So there is nothing that is "complete", and nothing to rename: what is named is right, and the next run computes the
rest.

Processes that want the same rows share the work: each takes the images it is about to compute under a lock on one
byte of `claims`, which the system lets go of when its process ends, however it ends.
"""

import fcntl
import os
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import FinetuneError

ID = np.dtype("S16")
"""What names an image: 16 bytes of a digest of its content."""

_APPENDING = 2**62
"""The byte of `claims` that is locked while rows are added; images' bytes lie below it."""


class Entry:
    """The rows of one entry, float32 or float16 `shape` each; open until `close`."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.row_bytes = prod(shape) * self.dtype.itemsize
        opened: list[int] = []
        try:
            for name in ("rows.bin", "index.bin", "claims"):
                opened.append(os.open(path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        self._rows, self._index, self._claims = self._descriptors = tuple(opened)

    def close(self) -> None:
        """Let go of the files; rows can no longer be read."""
        for descriptor in self._descriptors:
            with suppress(OSError):
                os.close(descriptor)

    def __len__(self) -> int:
        """How many rows there are now, those of other processes included."""
        return min(os.fstat(self._index).st_size // ID.itemsize, os.fstat(self._rows).st_size // self.row_bytes)

    def ids(self, start: int = 0) -> np.ndarray:
        """The names of the rows from number `start` on, in their order."""
        count = len(self) - start
        return np.frombuffer(_read(self._index, count * ID.itemsize, start * ID.itemsize, self.path), ID)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The row of each of `ids`, int64, -1 where there is none."""
        known = self.ids()
        if not len(known):
            return np.full(len(ids), -1, np.int64)
        order = np.argsort(known, kind="stable")
        places = np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)
        rows = order[places]
        return np.where(known[rows] == ids, rows, -1)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The values at int `rows`, `[n, *shape]`. Neighbouring rows are read at once.

        Read, not mapped: pages of a mapped file count as this process's memory, and one that somebody cuts short ends
        the process. FinetuneError where the file has become shorter.
        """
        out = np.empty((len(rows), *self.shape), self.dtype)
        order = np.argsort(rows, kind="stable")
        in_place = bool(np.all(order[1:] > order[:-1]))
        target = out if in_place else np.empty_like(out)
        flat = _bytes(target)
        ordered = rows[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 2) != 1).tolist()
        for start, end in zip(starts, [*starts, len(rows)][1:], strict=True):
            part = flat[start * self.row_bytes : end * self.row_bytes]
            _read_into(self._rows, part, int(ordered[start]) * self.row_bytes, self.path)
        if not in_place:
            out[order] = target
        return out

    def claim(self, ids: np.ndarray) -> np.ndarray:
        """bool per id: whether it is now this process's to compute. False where another process is at it."""
        return np.array([self._lock(byte) for byte in _bytes_of(ids)], bool)

    def release(self, ids: np.ndarray) -> None:
        """What was claimed is computed, or left to others."""
        for byte in _bytes_of(ids):
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, byte)

    def append(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Add a row for each of `ids` that has none yet. OSError where the disk is full: what was there stays."""
        # Short: nobody computes in here.
        fcntl.lockf(self._claims, fcntl.LOCK_EX, 1, _APPENDING)
        try:
            count = len(self)
            data = np.ascontiguousarray(values, self.dtype)
            # After a kill there may be rows without a name, or half a name: they are written over.
            os.ftruncate(self._rows, count * self.row_bytes)
            os.ftruncate(self._index, count * ID.itemsize)
            _write(self._rows, _bytes(data), count * self.row_bytes)
            os.fdatasync(self._rows) if hasattr(os, "fdatasync") else os.fsync(self._rows)
            _write(self._index, memoryview(ids.tobytes()), count * ID.itemsize)
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, _APPENDING)

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True


def _bytes_of(ids: np.ndarray) -> list[int]:
    words = np.frombuffer(np.ascontiguousarray(ids).tobytes(), "<u8").reshape(-1, 2)[:, 0]
    return [int(word) >> 2 for word in words]


def _read(descriptor: int, count: int, offset: int, path: Path) -> bytearray:
    buffer = bytearray(count)
    _read_into(descriptor, memoryview(buffer), offset, path)
    return buffer


def _read_into(descriptor: int, buffer: memoryview, offset: int, path: Path) -> None:
    done = 0
    while done < len(buffer):
        read = os.preadv(descriptor, [buffer[done:]], offset + done)
        if not read:
            raise FinetuneError(
                f"{path} has become shorter while it was read: somebody has changed it; remove it with 'finetune cache "
                "clear', and continue the run"
            )
        done += read


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _write(descriptor: int, buffer: memoryview, offset: int) -> None:
    done = 0
    while done < len(buffer):
        done += os.pwrite(descriptor, buffer[done:], offset + done)
