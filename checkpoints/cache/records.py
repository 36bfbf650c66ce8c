"""Where fetched files lie, what is recorded about them, and the lock of a file among processes."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from checkpoints.atomic import replacing
from checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from filelock import BaseFileLock


def cache_dir() -> Path:
    """The directory of everything fetched: `$FINETUNE_HOME`, else the user's cache directory. Not created here."""
    home = os.environ.get("FINETUNE_HOME")
    return Path(home).expanduser() if home else Path(platformdirs.user_cache_dir("finetune"))


@dataclass(frozen=True)
class FetchRecord:
    """What a fetched file was: kept beside it as `<file>.json`.

    Where no hash is published, the first fetch is trusted and later ones must equal it. `size` (bytes) and `mtime_ns`
    show without hashing that the file has not changed since.
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
    """The record of a fetched file, or None where none can be read."""
    try:
        return FetchRecord(**json.loads(record_path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def write_record(path: Path, url: str, hashes: tuple[str, str]) -> None:
    """Record a file as it lies now, with its (sha256, md5).

    Silent where the directory cannot be written: it is hashed again next time.
    """
    stat = path.stat()
    record = FetchRecord(url, *hashes, stat.st_size, stat.st_mtime_ns)
    with contextlib.suppress(OSError), replacing(record_path(path), several_writers=True) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def digests(path: Path) -> tuple[str, str]:
    """(sha256, md5) of a file, hexadecimal, in one pass."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    _update(path, sha256, md5)
    return sha256.hexdigest(), md5.hexdigest()


def sha256_of(*paths: Path) -> str:
    """sha256 of the files one after another, hexadecimal. Raises CheckpointError where one cannot be read."""
    digest = hashlib.sha256()
    try:
        for path in paths:
            _update(path, digest)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error
    return digest.hexdigest()


def _update(path: Path, *digests: Any) -> None:
    """Give the bytes of a file to every digest of `hashlib`."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for digest in digests:
                digest.update(block)


def _lock(path: Path, *, wait: bool) -> "BaseFileLock":
    """The lock file of `path`. The system releases it when its process ends, even where that is killed."""
    import filelock  # here, because it imports asyncio

    return filelock.FileLock(path.with_name(f".{path.name}.lock"), blocking=wait, fallback_to_soft=False)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` among the processes of this machine; wait while another holds it.

    The lock file is removed at the end. A process that waited for it notices that and creates a new one.
    """
    with _lock(path, wait=True) as lock:
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)


def remove_abandoned_lock(path: Path) -> bool:
    """Remove the lock file of `path` that a killed process has left; True where there was one. Never waits."""
    lock = _lock(path, wait=False)
    if not Path(lock.lock_file).exists():
        return False
    with contextlib.suppress(OSError), lock:
        Path(lock.lock_file).unlink()
        return True
    return False
