"""Where fetched files lie, what was recorded about them, and the lock two processes share."""

import contextlib
import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from checkpoints.errors import CheckpointError

if sys.platform != "win32":
    import fcntl


def cache_dir() -> Path:
    """The directory of everything fetched: `$FINETUNE_HOME`, else the user's cache directory. Not created here."""
    home = os.environ.get("FINETUNE_HOME")
    return Path(home).expanduser() if home else Path(platformdirs.user_cache_dir("finetune"))


@dataclass(frozen=True)
class FetchRecord:
    """What a fetched file was: kept beside it as `<file>.json`.

    It is the only witness where no hash is published: the first fetch is trusted, and later ones must equal it.
    `size` (bytes) and `mtime_ns` tell without hashing that the file was not touched since.
    """

    url: str
    sha256: str
    md5: str
    size: int
    mtime_ns: int

    def untouched(self, path: Path) -> bool:
        """Whether the file still has the size and the time of modification of the record."""
        stat = path.stat()
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


def record_path(path: Path) -> Path:
    """`<file>.json`."""
    return path.with_name(path.name + ".json")


def read_record(path: Path) -> FetchRecord | None:
    """The record of a fetched file, or None where there is none that can be read."""
    try:
        return FetchRecord(**json.loads(record_path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def write_record(path: Path, url: str, sha256: str, md5: str) -> None:
    """Record a file as it lies now. Silent where the directory cannot be written: it is hashed again next time."""
    stat = path.stat()
    record = FetchRecord(url=url, sha256=sha256, md5=md5, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    with contextlib.suppress(OSError):
        write_atomically(record_path(path), json.dumps(asdict(record), indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new, never a part.

    What killed processes left of theirs goes. So would what another process is writing at this moment, which then gets
    a FileNotFoundError: files that two may write at once can be done without (`write_record`), or are locked.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        for left in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*"):
            with contextlib.suppress(OSError):
                left.unlink()


def digests(path: Path) -> tuple[str, str]:
    """(sha256, md5) of a file, hexadecimal, in one pass."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            md5.update(block)
    return sha256.hexdigest(), md5.hexdigest()


def sha256_of(*paths: Path) -> str:
    """sha256 of the files one after another, hexadecimal. Raises CheckpointError where one cannot be read."""
    digest = hashlib.sha256()
    try:
        for path in paths:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error
    return digest.hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` among the processes of this machine; wait where another holds it.

    The lock file is gone afterwards. On Windows there is no lock: two fetches then cost twice, and the atomic
    rename at the end still leaves one whole file.
    """
    if sys.platform == "win32":
        yield
        return
    name = path.with_name(f".{path.name}.lock")
    while True:
        descriptor = os.open(name, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Who held it before removed the file: a lock on a removed file locks nobody out.
            if _is(descriptor, name):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        name.unlink(missing_ok=True)
        os.close(descriptor)


def remove_abandoned_lock(path: Path) -> bool:
    """Remove the lock file of `path` that a killed process has left; True where there was one. Never waits."""
    name = path.with_name(f".{path.name}.lock")
    if sys.platform == "win32" or not name.exists():
        return False
    with contextlib.suppress(OSError):
        descriptor = os.open(name, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(descriptor, name):
                name.unlink()
                return True
        finally:
            os.close(descriptor)
    return False


def _is(descriptor: int, name: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except FileNotFoundError:
        return False
