"""Temporary folders that do not outlive whoever works in them, even one that was killed."""

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_MOVING = ".moving.json"


@contextmanager
def working_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder `parent/PREFIX...`, removed with all that is in it when the block ends.

    It is locked while its process lives, and what killed processes left in `parent` under the same prefix is removed
    before. An OSError from inside that names nothing, or something in the folder, names `parent`.
    """
    remove_abandoned(parent, prefix)
    try:
        folder, lock = _made(parent, prefix)
    except OSError as error:
        error.filename = str(parent)
        raise
    try:
        yield folder
    except OSError as error:
        inside = None if error.filename is None else Path(os.fsdecode(error.filename))
        if inside is None or folder in (inside, *inside.parents):
            error.filename, error.filename2 = str(parent), None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders of processes that are no more, and whatever of a half done `move_all` has been moved."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        for folder in [path for path in parent.iterdir() if path.name.startswith(prefix)]:
            with suppress(OSError):
                _remove_if_abandoned(folder)


def move_all(folder: Path, into: Path) -> None:
    """Move every entry of a working folder to `into`, where none of these names is taken: all, or none.

    A kill in between leaves a note by which `remove_abandoned` takes back what has been moved.
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
    # From here on what has been moved stays.
    (folder / _MOVING).unlink(missing_ok=True)


def _made(parent: Path, prefix: str) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        if sys.platform == "win32":
            return folder, None
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another process has taken it for abandoned, between the two lines above
        with suppress(OSError):  # some network file systems lock no folders: then none is taken for abandoned either
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
