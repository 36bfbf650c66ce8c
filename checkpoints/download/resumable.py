"""Fetch a published file into the cache: resumed, verified, and complete or absent."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import tenacity

from checkpoints.cache import records
from checkpoints.download import transport
from checkpoints.download.address import Progress, file_name
from checkpoints.download.transport import Interrupted, Refused
from checkpoints.errors import CheckpointError

GIVE_CHECKPOINT = "give it with --checkpoint PATH"

_KINDS = ("sha256", "md5")
_Hashes = tuple[str | None, str | None]
"""As published, of these kinds; None for what is not published."""


def fetch(
    url: str,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    into: Path | None = None,
    progress: Progress | None = None,
    instead: str = GIVE_CHECKPOINT,
    attempts: int = 4,
    first_wait: float = 0.5,
) -> Path:
    """The file at `url`, from the cache or fetched into it.

    into: the directory it is kept in; default `cache_dir()/files`. The name is the last part of the URL.
    md5, sha256: the published hash, hexadecimal. Where there is none, the hash of the first fetch is recorded
        beside the file and every later fetch must equal it (trust on first use).
    instead: what else the user can do, for the end of the message "cannot fetch ...".
    attempts, first_wait: tries in all, and seconds before the second; the wait doubles each time. Broken
        connections, cut bodies, 408, 425, 429 and 5xx are tried again and continue the partial file.

    `$FINETUNE_MIRROR` (`http://host:port/prefix`) stands in for scheme and host of every download.
    Raises CheckpointError: refused (404, 403, a redirect loop, a web page), offline, wrong hash, disk.
    """
    path = (into or records.cache_dir() / "files") / file_name(url)
    published = (sha256 and sha256.lower(), md5 and md5.lower())
    with _disk_errors(path):
        # A cache filled by someone else may be read-only: no lock where nothing is to be written.
        if path.is_file():
            if records.remove_abandoned_lock(path):  # killed after the file got its name
                with contextlib.suppress(OSError):
                    transport.discard(path.with_name(path.name + ".part"))
            return _verified(path, url, published)
        path.parent.mkdir(parents=True, exist_ok=True)
        with records.locked(path):
            if path.is_file():
                return _verified(path, url, published)
            try:
                _download(url, path, published, progress, attempts, first_wait)
            except (Refused, Interrupted) as error:
                raise CheckpointError(
                    f"cannot fetch {transport.mirrored(url)}: {error}. Put the file at {path}, or {instead}."
                ) from error
    return path


def _download(
    url: str, path: Path, published: _Hashes, progress: Progress | None, attempts: int, first_wait: float
) -> None:
    part = path.with_name(path.name + ".part")

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome and state.outcome.exception()
        asked = error.wait if isinstance(error, Interrupted) else 0.0
        return max(asked, first_wait * 2.0 ** (state.attempt_number - 1))

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts),
        retry=tenacity.retry_if_exception_type(Interrupted),
        wait=wait,
        reraise=True,
    )

    def attempt() -> None:
        continued = transport.receive(client, url, part, hash_known=any(published), progress=progress)
        found = records.digests(part)
        if wrong := _difference(path, url, found, published):
            transport.discard(part)
            # Bytes of two versions may have met: once more from the beginning tells.
            raise Interrupted(wrong) if continued else Refused(wrong)
        os.replace(part, path)
        transport.discard(part)
        records.write_record(path, url, found)

    with transport.session() as client:
        retrying(attempt)


def _difference(path: Path, url: str, found: tuple[str, str], published: _Hashes) -> str | None:
    """What is wrong with the digests (sha256, md5) of a file just fetched, or None."""
    for kind, is_, expected in zip(_KINDS, found, published, strict=True):
        if expected and is_ != expected:
            return f"its {kind} is {is_}, published is {expected}; nothing was kept"
    record = records.read_record(path)
    if not any(published) and record and record.url == url and found[0] != record.sha256:
        return (
            f"it changed since it was first fetched (sha256 {found[0]}, recorded {record.sha256}); nothing was "
            f"kept. To trust the new file, delete {records.record_path(path)}"
        )
    return None


def _verified(path: Path, url: str, published: _Hashes) -> Path:
    """A file that lies in the cache, once it is known to be the one that was published or first fetched."""
    record = records.read_record(path)
    known = record if record and record.url == url and record.untouched(path) else None
    found = (known.sha256, known.md5) if known else records.digests(path)
    for kind, is_, expected in zip(_KINDS, found, published, strict=True):
        if expected and is_ != expected:
            raise CheckpointError(
                f"{path} has {kind} {is_}, but {expected} is published for {url}: it is damaged or another file. "
                "Delete it to fetch it again."
            )
    if record and not any(published):
        if record.url != url:
            raise CheckpointError(
                f"{path} was fetched from {record.url}, not from {url}. Delete it to fetch it from there."
            )
        if found[0] != record.sha256:
            raise CheckpointError(
                f"{path} has sha256 {found[0]}, but {record.sha256} was recorded when it was fetched: it was changed. "
                f"Delete it to fetch it again, or delete {records.record_path(path)} to trust it as it is."
            )
    if known is None:
        records.write_record(path, url, found)
    return path


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot keep {error.filename or path}: {error.strerror or error}. Make room or rights there, or set "
            "FINETUNE_HOME to a directory that can be written."
        ) from error
