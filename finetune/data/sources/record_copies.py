"""Uncompressed copies of compressed TFRecords, made once in the cache: only they have random access."""

import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from checkpoints.cache.archive import made_once
from checkpoints.store import cache_dir
from finetune.errors import FinetuneError
from finetune.files import to_json

_ABOUT, _DATA = "about.json", "data.tfrecord"
_REMOVING = ".unpacking-removed-"
"""Where the process is killed, `made_once` removes what is left."""
_BLOCK, _END = 1 << 22, 1 << 20
_BOMB_BYTES, _MOST_EXPANSION = 256 << 20, 100


@dataclass(frozen=True)
class Copy:
    """A copy on the disk. source: the compressed file; size in bytes; used: seconds since 1970."""

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


def unpacked(path: Path) -> tuple[Path, int]:
    """(the uncompressed copy of `path`, a file descriptor: until it is closed, nobody removes the copy).

    The copy is found by the size, the time and both ends of `path`: gzip ends with a checksum of everything. Raises
    FinetuneError if the file is damaged, or the cache cannot be written.
    """
    place = copies_folder() / _key(path)
    try:
        while True:
            made_once(place, lambda folder: _fill(path, folder))
            with suppress(FileNotFoundError):  # removed meanwhile
                handle = os.open(place / _ABOUT, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(handle, fcntl.LOCK_SH)
                if place.exists():
                    with suppress(OSError):
                        os.utime(place / _ABOUT)
                    return place / _DATA, handle
                os.close(handle)
    except OSError as error:
        raise FinetuneError(
            f"{path} is compressed, and its uncompressed copy cannot be written to {place.parent} ({error.strerror}): "
            "make room, set FINETUNE_HOME to another folder, or write the file without compression"
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
        size = (place / _DATA).stat().st_size
        return Copy(place, str(about["source"]), size, (place / _ABOUT).stat().st_mtime)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _key(path: Path) -> str:
    stat = path.stat()
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns} ".encode())
    with path.open("rb") as file:
        digest.update(file.read(_END))
        file.seek(max(stat.st_size - _END, 0))
        digest.update(file.read(_END))
    return digest.hexdigest()[:32]


def _fill(path: Path, folder: Path) -> None:
    folder.mkdir()
    try:
        with path.open("rb") as packed, open(folder / _DATA, "xb") as out:
            for block in _blocks(packed, path.stat().st_size):
                out.write(block)
    except (zlib.error, EOFError) as error:
        raise FinetuneError(f"{path} is damaged or cut off ({error}): download or write it again") from None
    (folder / _ABOUT).write_text(to_json({"source": str(path)}) + "\n", "utf-8")


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
