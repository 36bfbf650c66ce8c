"""Copies of compressed TFRecords and of the images in Parquet files, made once in the cache: they have random access.

Without its copy a file cannot be read, so a copy is made whenever the disk has room. To keep all copies within a
quarter of the disk, those that were not used for the longest time are removed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from checkpoints.cache.archive import made_once
from checkpoints.store import cache_dir
from finetune.errors import FinetuneError
from finetune.files import to_json

_ABOUT, DATA = "about.json", "data.tfrecord"
_REMOVING = ".unpacking-removed-"
"""Where the process is killed, `made_once` removes what is left."""
_BLOCK, _END = 1 << 22, 1 << 20
_BOMB_BYTES, _MOST_EXPANSION = 256 << 20, 100

Fill = Callable[[Path, Path], None]
"""Writes the copy of a file as DATA into a folder. FinetuneError for a damaged file."""


@dataclass(frozen=True)
class Copy:
    """A copy on the disk. source: the file; size in bytes; used: seconds since 1970."""

    path: Path
    source: str
    size: int
    used: float

    @property
    def key(self) -> str:
        """The name of its directory."""
        return self.path.name


def copies_folder() -> Path:
    """The directory of the copies, with a directory for each. Not created here."""
    return cache_dir() / "records"


def budget() -> int:
    """Bytes that all copies may take: a quarter of what would be free on the disk without them."""
    root = copies_folder()
    there = next(parent for parent in (root, *root.parents) if parent.exists())
    return (shutil.disk_usage(there).free + sum(one.size for one in entries())) // 4


def copied(path: Path, fill: "Fill | None" = None, what: str = "") -> tuple[Path, int]:
    """(the folder of the copy of `path`, a file descriptor: until it is closed, nobody removes the copy).

    fill: by default, decompresses. what: of the file it copies, where that is a part. The copy is found by the size,
    the time and both ends of `path`: gzip ends with a checksum of everything, Parquet with the places of all parts.
    Raises FinetuneError if the file is damaged, or the cache cannot be written.
    """
    place = copies_folder() / _key(path, what)

    def make(folder: Path) -> None:
        _remove_least_used(path.stat().st_size)
        folder.mkdir()
        (fill or _decompress)(path, folder)
        (folder / _ABOUT).write_text(to_json({"source": str(path)}) + "\n", "utf-8")

    try:
        while True:
            new = not place.exists()
            made_once(place, make)
            with suppress(FileNotFoundError):  # removed meanwhile
                handle = os.open(place / _ABOUT, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(handle, fcntl.LOCK_SH)
                if place.exists():
                    with suppress(OSError):
                        os.utime(place / _ABOUT)
                    if new:  # it is held now, so it stays
                        _remove_least_used(0)
                    return place, handle
                os.close(handle)
    except OSError as error:
        raise FinetuneError(
            f"{path} has no random access, and its copy that has cannot be written to {place.parent} "
            f"({error.strerror}): make room, or set FINETUNE_HOME to another folder"
        ) from None


def entries() -> list[Copy]:
    """All copies, the least recently used first."""
    root = copies_folder()
    paths = [path for path in root.iterdir() if path.name[0] != "."] if root.is_dir() else []
    return sorted(filter(None, map(_listed, paths)), key=lambda one: (one.used, one.key))


def clear(names: tuple[str, ...] = ()) -> tuple[list[Copy], list[Copy]]:
    """Remove the copies whose key begins with one of `names`, or all without names: (removed, held by a process)."""
    chosen = [one for one in entries() if not names or one.key.startswith(names)]
    removed = [one for one in chosen if _remove(one.path)]
    return removed, [one for one in chosen if one not in removed]


def _remove_least_used(more: int) -> None:
    """Remove copies that no process holds until those that stay and `more` bytes are within the budget."""
    most, there = budget(), entries()
    excess = sum(one.size for one in there) + more - most
    for one in there:
        if excess <= 0:
            return
        if _remove(one.path):
            excess -= one.size


def _remove(place: Path) -> bool:
    try:
        with open(place / _ABOUT, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = place.with_name(_REMOVING + place.name)
            os.rename(place, gone)
            shutil.rmtree(gone, ignore_errors=True)
    except OSError:
        return False
    return True


def _listed(place: Path) -> Copy | None:
    try:
        about = json.loads((place / _ABOUT).read_text("utf-8"))
        size = (place / DATA).stat().st_size
        return Copy(place, str(about["source"]), size, (place / _ABOUT).stat().st_mtime)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _key(path: Path, what: str) -> str:
    stat = path.stat()
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns} {what}".encode())
    with path.open("rb") as file:
        digest.update(file.read(_END))
        file.seek(max(stat.st_size - _END, 0))
        digest.update(file.read(_END))
    return digest.hexdigest()[:32]


def _decompress(path: Path, folder: Path) -> None:
    try:
        with path.open("rb") as packed, open(folder / DATA, "xb") as out:
            for block in _blocks(packed, path.stat().st_size):
                out.write(block)
    except (zlib.error, EOFError) as error:
        raise FinetuneError(f"{path} is damaged or cut off ({error}): download or write it again") from None


def _blocks(packed: IO[bytes], size: int) -> Iterator[bytes]:
    """The content of a gzip or zlib file, which may be several in a row. EOFError if it is cut off, or a bomb."""
    stream, pending, written = zlib.decompressobj(47), b"", 0
    while pending := pending or packed.read(_BLOCK):
        if stream.eof:
            stream = zlib.decompressobj(47)
        block = stream.decompress(pending, _BLOCK)
        pending = stream.unused_data if stream.eof else stream.unconsumed_tail
        written += len(block)
        if written > _BOMB_BYTES and written > _MOST_EXPANSION * size:
            raise EOFError(f"{size} bytes that unpack to more than {written}")
        yield block
    if not stream.eof:
        raise EOFError("it ends before its end is marked")
