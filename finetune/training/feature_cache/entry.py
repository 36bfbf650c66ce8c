"""One set of features on disk: a row per image, found by a digest of the image, written by any number of processes.

- `rows.bin` holds rows of one size and nothing else (`np.memmap` opens it).
- `index.bin` names the image of each row by 16 bytes, with a checksum over name and row.

A row is written, then flushed to the disk, then named. A row without a name does not count, so a process may be killed
at any time. An entry is never "complete": rows with a name and a right checksum are valid, and the next run computes
the missing ones. A row that has changed since is disowned: its name is overwritten, and the image gets a new row.

Processes that want the same rows share the work. Each locks one byte of `claims` for every image it computes; the
system releases the lock when the process ends, however it ends.
"""

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import FinetuneError

ID = np.dtype("S16")
"""The name of an image: 16 bytes of a digest of its content."""

RECORD = np.dtype([("id", ID), ("sum", "<u4")])
"""A record of `index.bin`: the name of a row, and the CRC-32 of the name followed by the row's bytes."""
DISOWNED = b"\xff" * ID.itemsize
"""The name of damaged rows: no image has it."""

_AT_ONCE = 2**22
"""Bytes read and checked at once."""

_FLAGS = os.O_RDWR | os.O_CREAT
_APPENDING = 2**62
"""The byte of `claims` that is locked while rows are added; images' bytes lie below it."""


class Entry:
    """The rows of one entry, float32 or float16 `shape` each; open until `close`."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.row_bytes = prod(shape) * self.dtype.itemsize
        with ExitStack() as opened:
            self._rows, self._index, self._claims = (
                opened.enter_context(open(os.open(path / name, _FLAGS, 0o644), "r+b", buffering=0)).fileno()
                for name in ("rows.bin", "index.bin", "claims")
            )
            self._files = opened.pop_all()
        self._known = np.empty(0, RECORD)  # as they were when rows were last looked for

    def close(self) -> None:
        """Close the files; rows can no longer be read."""
        self._files.close()

    def __len__(self) -> int:
        """The number of rows now, with those of other processes."""
        return min(os.fstat(self._index).st_size // RECORD.itemsize, os.fstat(self._rows).st_size // self.row_bytes)

    def ids(self, start: int = 0) -> np.ndarray:
        """The names of the rows from number `start` on, in their order."""
        return np.ascontiguousarray(self._records(start)["id"])

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The row of each of `ids`, int64, -1 where there is none."""
        self._known = self._records()
        known = np.ascontiguousarray(self._known["id"])
        return found(ids, known, np.argsort(known, kind="stable"))

    def damaged(self, ids: np.ndarray) -> np.ndarray:
        """int64: the rows of `ids` whose bytes, name or checksum have changed since they were written. Every row is
        read."""
        rows = np.unique(self.find(ids))
        rows = rows[rows >= 0]
        parts = np.array_split(rows, -(-len(rows) * self.row_bytes // _AT_ONCE) or 1)
        return np.concatenate([part[self._wrong(part, self._values(part))] for part in parts])

    def disown(self, rows: np.ndarray) -> None:
        """Overwrite the names of damaged `rows`: from now on they do not count, in any process."""
        with self._appending():
            now = self._records()
            for row in rows.tolist():
                # Else another process has disowned it, or has written another row there.
                if row < len(now) and now[row] == self._known[row]:
                    _write(self._index, memoryview(DISOWNED), row * RECORD.itemsize)
            _flush(self._index)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The values at int `rows`, `[n, *shape]`. Neighbouring rows are read at once.

        The file is not mapped: mapped pages count as this process's memory, and a mapped file that is cut short ends
        the process. FinetuneError where the file has become shorter, or a row differs from what was written under
        its name.
        """
        out = self._values(rows)
        if self._wrong(rows, out).any():
            raise FinetuneError(
                f"{self.path} has changed while it was used: its rows differ from what was written; continue the run, "
                "or repeat it: the damaged rows are then computed again"
            )
        return out

    def _wrong(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """bool per row: whether the checksum of its `values`, just read, differs from the recorded one."""
        if rows.max(initial=-1) >= len(self._known):
            self._known = self._records()
        if rows.max(initial=-1) >= len(self._known):
            raise _shorter(self.path)
        known = self._known[rows]
        return np.asarray(_sums(known["id"], values, self.row_bytes) != known["sum"])

    def _values(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.shape), self.dtype)
        flat = _bytes(out)
        starts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1).tolist()
        for start, end in pairwise([*starts, len(rows)]):
            part = flat[start * self.row_bytes : end * self.row_bytes]
            _read(self._rows, part, int(rows[start]) * self.row_bytes, self.path)
        return out

    def claim(self, ids: np.ndarray) -> np.ndarray:
        """bool per id: whether this process now computes it. False where another process does."""
        return np.array([self._lock(byte) for byte in _bytes_of(ids)], bool)

    def release(self, ids: np.ndarray) -> None:
        """Give up claims: the images are computed, or left to other processes."""
        for byte in _bytes_of(ids):
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, byte)

    def append(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Add a row for each of `ids` that has none yet. OSError where the disk is full: what was there stays."""
        data = np.ascontiguousarray(values, self.dtype)
        records = np.empty(len(ids), RECORD)
        records["id"], records["sum"] = ids, _sums(ids, data, self.row_bytes)
        with self._appending():
            count = len(self)
            # After a kill there may be rows without a name, or half a name: they are overwritten.
            os.ftruncate(self._rows, count * self.row_bytes)
            os.ftruncate(self._index, count * RECORD.itemsize)
            _write(self._rows, _bytes(data), count * self.row_bytes)
            _flush(self._rows)
            _write(self._index, _bytes(records), count * RECORD.itemsize)

    def _records(self, start: int = 0) -> np.ndarray:
        records = np.empty(max(0, len(self) - start), RECORD)
        _read(self._index, _bytes(records), start * RECORD.itemsize, self.path)
        return records

    @contextmanager
    def _appending(self) -> Iterator[None]:
        """Lock the files against changes by other processes, for a short time: nothing is computed inside."""
        fcntl.lockf(self._claims, fcntl.LOCK_EX, 1, _APPENDING)
        try:
            yield
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, _APPENDING)

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True


def found(ids: np.ndarray, names: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Where in `names`, which `order` sorts, each of `ids` is: int64, -1 where it is not; the first of equal names."""
    if not len(names):
        return np.full(len(ids), -1, np.int64)
    places = order[np.minimum(np.searchsorted(names, ids, sorter=order), len(names) - 1)]
    return np.where(names[places] == ids, places, -1)


def _sums(ids: np.ndarray, values: np.ndarray, row_bytes: int) -> np.ndarray:
    """CRC-32 of each name and its row, uint32 `[rows]`. A row under another name has a wrong one as well."""
    content, names, size = _bytes(values), np.ascontiguousarray(ids).tobytes(), ID.itemsize
    return np.array(
        [
            zlib.crc32(content[at * row_bytes : (at + 1) * row_bytes], zlib.crc32(names[at * size : (at + 1) * size]))
            for at in range(len(ids))
        ],
        np.uint32,
    )


def _flush(descriptor: int) -> None:
    os.fdatasync(descriptor) if hasattr(os, "fdatasync") else os.fsync(descriptor)


def _bytes_of(ids: np.ndarray) -> list[int]:
    """The byte of `claims` of each of `ids`."""
    words = np.ascontiguousarray(ids).view("<u8")[::2]
    return (words >> np.uint64(2)).tolist()  # type: ignore[no-any-return]


def _read(descriptor: int, buffer: memoryview, offset: int, path: Path) -> None:
    done = 0
    while done < len(buffer):
        read = os.preadv(descriptor, [buffer[done:]], offset + done)
        if not read:
            raise _shorter(path)
        done += read


def _shorter(path: Path) -> FinetuneError:
    return FinetuneError(
        f"{path} has become shorter while it was read: another program has changed it; remove it with "
        "'finetune cache clear', and continue the run"
    )


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _write(descriptor: int, buffer: memoryview, offset: int) -> None:
    done = 0
    while done < len(buffer):
        done += os.pwrite(descriptor, buffer[done:], offset + done)
