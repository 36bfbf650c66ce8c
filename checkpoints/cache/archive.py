"""Unpack a published .tar.gz without trusting it."""

import contextlib
import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, cast

from checkpoints.atomic import remove_abandoned, working_folder
from checkpoints.cache.records import cache_dir, read_record, sha256_of
from checkpoints.errors import CheckpointError

MOST_BYTES = 4 << 30
"""More than this unpacked is rejected as a decompression bomb: the largest published archive holds 0.6 GB."""

_WORKING = ".unpacking-"
_MOST_MEMBERS = 100_000
_HEADER_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether a file is gzip-compressed, by its first two bytes."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError:
        return False


def unpack(archive: Path) -> Path:
    """The directory of an archive's content in the cache, named by its hash: unpacked once. Raises CheckpointError."""
    record = read_record(archive)
    sha256 = record.sha256 if record and record.untouched(archive) else sha256_of(archive)
    return extract(archive, cache_dir() / "unpacked" / sha256[:16])


def extract(archive: Path, into: Path, *, most_bytes: int = MOST_BYTES) -> Path:
    """Unpack a .tar.gz as the directory `into`, which appears whole or not at all; return `into`.

    Where `into` exists already, it is returned as it is. Only files and directories below `into` are written:
    absolute names, "..", links, devices, a duplicate name, and more than `most_bytes` unpacked raise
    CheckpointError, as does an archive that is cut off, damaged or not a .tar.gz.
    """

    def fill(content: Path) -> None:
        content.mkdir()
        with gzip.open(archive, "rb") as file:
            _write_members(_Capped(cast(BinaryIO, file), most_bytes), content)

    with _errors(archive, into):
        return made_once(into, fill)


def made_once(into: Path, fill: Callable[[Path], None]) -> Path:
    """`into`, a file or directory that `fill` makes at the path it is given; where it exists already, as it is.

    It appears whole or not at all. Raises OSError.
    """
    if into.exists():
        remove_abandoned(into.parent, _WORKING)  # of a process that was killed after `into` got its name
        return into
    into.parent.mkdir(parents=True, exist_ok=True)
    with working_folder(into.parent, _WORKING) as temporary:
        fill(temporary / into.name)
        try:
            os.rename(temporary / into.name, into)
        except OSError:
            # Another process was first, and unpacked the same.
            if not into.is_dir():
                raise
    return into


def _write_members(file: "_Capped", into: Path) -> None:
    with tarfile.open(fileobj=cast(BinaryIO, file), mode="r:") as tar:
        for count, member in enumerate(tar):
            if count >= _MOST_MEMBERS:
                raise _Unsafe(f"holds more than {_MOST_MEMBERS} members")
            _require_plain(member)
            target = into / member.name
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            file.refuse_beyond(member.size)
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            if source is None:
                raise _Unsafe(f"holds {member.name!r} without content")
            # "x": a second member of the same name must not replace the first.
            with source, target.open("xb") as out:
                shutil.copyfileobj(source, out, _BLOCK_BYTES)
    # The checksum lies at the very end of the gzip stream.
    while file.read(_BLOCK_BYTES):
        pass


def _require_plain(member: tarfile.TarInfo) -> None:
    """Raise _Unsafe for all but plain files and directories below the target directory."""
    if not (member.isreg() or member.isdir()):
        kind = "a link" if member.issym() or member.islnk() else "a device or pipe"
        raise _Unsafe(f"holds {kind}, {member.name!r}")
    if leads_outside(member.name):
        raise _Unsafe(f"holds {member.name!r}, a path outside of it")


def leads_outside(name: str) -> bool:
    """Whether a member's name may lead out of the archive's directory on any system: absolute, or with ".." or "\\"."""
    path = PureWindowsPath(name)
    return bool(path.anchor) or "\\" in name or ".." in path.parts


class _Unsafe(Exception):
    """Why an archive is not unpacked; follows its name in the message."""


class _Capped:
    """The decompressed stream, which ends with an error where a bomb would go on."""

    def __init__(self, file: BinaryIO, most_bytes: int) -> None:
        self._file, self._most_bytes = file, most_bytes

    def read(self, size: int = -1) -> bytes:
        # A pax header or long name is read in one piece, whatever size it claims.
        if size < 0 or size > max(_HEADER_BYTES, _BLOCK_BYTES):
            raise _Unsafe(f"holds a header of {size} bytes")
        self.refuse_beyond(0)
        return self._file.read(size)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET:
            self.refuse_beyond(position - self.tell())
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def refuse_beyond(self, size: int) -> None:
        """Raise _Unsafe where `size` more bytes would pass the limit."""
        if self.tell() + size > self._most_bytes:
            raise _Unsafe(f"unpacks to more than {self._most_bytes} bytes")


@contextlib.contextmanager
def _errors(archive: Path, into: Path) -> Iterator[None]:
    """Translate what gzip, zlib, tarfile and the disk raise."""
    again = "Delete it and fetch it again, or give the unpacked file."
    try:
        yield
    except _Unsafe as error:
        raise CheckpointError(f"{archive} {error}: it is not unpacked. Get it from where it was published.") from error
    except EOFError as error:
        raise CheckpointError(f"{archive} is cut off: expected a whole .tar.gz. {again}") from error
    except (gzip.BadGzipFile, zlib.error, tarfile.TarError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{archive} is damaged or no .tar.gz ({error}). {again}") from error
    except FileExistsError as error:
        raise CheckpointError(f"{archive} holds a member twice: it is not unpacked.") from error
    except OSError as error:
        raise CheckpointError(
            f"cannot unpack {archive} into {into}: {error.strerror or error}. Make room or rights there, or set "
            "FINETUNE_HOME to a directory that can be written."
        ) from error
