"""Files and folders that are written whole or not at all, and leave nothing behind, even where a process is killed."""

import errno
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".tmp."
"""The name of a file begins with this while it is being written."""

_MOVING = ".moving.json"
_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.ESTALE),
)
"""What the system says where it refuses a file; the first that is in a message counts."""


@contextmanager
def replacing(path: Path, *, several_writers: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` with the same ending; renamed to `path` when the block succeeds.

    A reader of `path` sees the old file or the new one, whole. The temporary file is removed where the block fails. A
    killed process leaves it; the next writer of the same file replaces it. An OSError from inside names `path`,
    whether writing, closing or renaming has failed.

    several_writers: processes may write `path` at the same time, without a lock. Each has a temporary file of its own.
        The first to finish removes those of the others, who get a FileNotFoundError: use it only for files that a
        process can do without.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}.{path.name}" if several_writers else TEMPORARY + path.name)
    try:
        with naming(path, instead_of=temporary):
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        if several_writers:
            for leftover in path.parent.glob(f"{TEMPORARY}[0-9]*.{glob.escape(path.name)}"):
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, *, instead_of: Path) -> Iterator[None]:
    """Let an OSError from inside name `path` where it names nothing, `instead_of`, or something in that folder."""
    try:
        yield
    except OSError as error:
        named = error.filename
        if named is None or instead_of in (Path(os.fsdecode(named)), *Path(os.fsdecode(named)).parents):
            error.filename, error.filename2 = str(path), None
        raise


def refusal(words: str) -> int | None:
    """The errno whose text is in the message of a TensorFlow error; None where the system refused nothing.

    The class of such an error is not enough: a full disk is a `ResourceExhaustedError`, and so is a lack of memory.
    """
    return next((number for number in _REFUSALS if os.strerror(number) in words), None)


@contextmanager
def written_by_tensorflow(path: Path) -> Iterator[None]:
    """Raise an OSError naming `path` where the system refuses TensorFlow a file, as Python would."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        number = refusal(str(error.message))
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


@contextmanager
def working_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder `parent/PREFIX...`, removed with its content when the block ends.

    It is locked while its process lives. Folders of the same prefix that killed processes left in `parent` are removed
    first. An OSError from inside that names nothing, or something in the folder, names `parent`.
    """
    remove_abandoned(parent, prefix)
    try:
        folder, lock = _made(parent, prefix)
    except OSError as error:
        error.filename = str(parent)
        raise
    try:
        with naming(parent, instead_of=folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders of processes that have ended, and what their interrupted `move_all` has moved."""
    with suppress(OSError):
        for folder in [path for path in parent.iterdir() if path.name.startswith(prefix)]:
            with suppress(OSError):
                _remove_if_abandoned(folder)


def move_all(folder: Path, into: Path) -> None:
    """Move all entries of a working folder to `into`, or none. None of their names may exist there.

    Where the process is killed in between, a note in the folder lets `remove_abandoned` remove what was moved.
    """
    entries = sorted(folder.iterdir())
    if len(entries) > 1:
        identities = {entry.name: [entry.lstat().st_dev, entry.lstat().st_ino] for entry in entries}
        (folder / _MOVING).write_text(json.dumps(identities), encoding="utf-8")
    moved: list[Path] = []
    try:
        for entry in entries:
            os.rename(entry, into / entry.name)
            moved.append(into / entry.name)
    except BaseException:
        for place in moved:
            _remove(place)
        raise
    # Without the note, what was moved stays.
    (folder / _MOVING).unlink(missing_ok=True)


def _made(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another process removed it as abandoned, between the two calls above
        with suppress(OSError):  # some network file systems cannot lock folders; none is removed as abandoned there
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _remove_if_abandoned(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name, identity in _moving(folder).items():
            place = folder.parent / name
            with suppress(FileNotFoundError):
                if [place.lstat().st_dev, place.lstat().st_ino] == identity:
                    _remove(place)
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def _moving(folder: Path) -> dict[str, list[int]]:
    try:
        found = json.loads((folder / _MOVING).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    plain = isinstance(found, dict) and all(Path(name).name == name and name not in ("", "..") for name in found)
    return found if plain else {}


def _remove(place: Path) -> None:
    try:
        place.unlink()
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            return
        shutil.rmtree(place, ignore_errors=True)
