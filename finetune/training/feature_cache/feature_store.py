"""The entries of the feature cache: listing them, adding within the budget, removing the least recently used."""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.atomic import naming
from checkpoints.store import cache_dir
from finetune.errors import FinetuneError, WrongUse
from finetune.files import to_json, write_text
from finetune.text import size_in_words
from finetune.training.feature_cache.entry import DISOWNED, RECORD, Entry

_ABOUT = "about.json"
_SPARE = 2**28
"""Bytes of the disk that stay free whatever the budget: runs need space too."""


class OverBudget(FinetuneError):
    """An entry does not fit. The message says why."""


@dataclass(frozen=True)
class Listed:
    """An entry on the disk. size: bytes; used: seconds since 1970; about: what its features belong to."""

    path: Path
    about: dict[str, Any]
    size: int
    used: float
    busy: bool

    @property
    def key(self) -> str:
        """The name of its directory."""
        return self.path.name

    @property
    def images(self) -> int:
        """The number of rows, without damaged ones."""
        row: int = int(np.prod(self.about["shape"])) * np.dtype(self.about["dtype"]).itemsize
        count = min(_size(self.path / "index.bin") // RECORD.itemsize, _size(self.path / "rows.bin") // row)
        try:
            return int(np.count_nonzero(np.fromfile(self.path / "index.bin", RECORD, count)["id"] != DISOWNED))
        except OSError:
            return 0  # being removed

    @property
    def held(self) -> int:
        """Bytes it may take: a process that holds it may still write all that it planned."""
        return max(self.size, int(self.about["planned"])) if self.busy else self.size


def cache_folder() -> Path:
    """The directory of the cache, with a directory for each entry. Not created here."""
    return cache_dir() / "features"


def entries() -> list[Listed]:
    """All entries, the least recently used first."""
    root = cache_folder()
    paths = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "."] if root.is_dir() else []
    return sorted(filter(None, map(_listed, paths)), key=lambda one: (one.used, one.key))


def default_budget() -> int:
    """Bytes: a quarter of what would be free on the disk without the cache."""
    root = cache_folder()
    there = next(parent for parent in (root, *root.parents) if parent.exists())
    return (shutil.disk_usage(there).free + sum(one.size for one in entries())) // 4


@contextmanager
def opened(key: str, about: dict[str, Any], ids: np.ndarray, *, budget: int | None) -> Iterator[Entry]:
    """The entry `key`, created if needed, with space for rows of `ids`; held while the block lasts.

    about: `shape` and `dtype` of a row, and a description for people. To stay within the budget (bytes, None for the
    default), the least recently used entries that no process holds are removed. Raises OverBudget where the entry does
    not fit, OSError where the folder cannot be written.
    """
    path = cache_folder() / key
    with ExitStack() as held:
        with _locked():
            known = path.is_dir()
            path.mkdir(exist_ok=True)
            try:
                holding = held.enter_context(open(path / "lock", "a+b"))
                fcntl.flock(holding, fcntl.LOCK_SH)  # a process that removes entries holds the lock of the folder
                entry = Entry(path, tuple(about["shape"]), np.dtype(about["dtype"]))
                held.callback(entry.close)
                rows = len(entry) + len(np.unique(ids[entry.find(ids) < 0]))
                needed = rows * (entry.row_bytes + RECORD.itemsize)
                _make_room(path, needed, budget)
                about = {**about, "planned": needed, "record": RECORD.itemsize}
                write_text(path / _ABOUT, to_json(about, indent=1) + "\n")
            except BaseException:
                if not known:
                    shutil.rmtree(path, ignore_errors=True)
                raise
        _used_now(path)
        yield entry
        _used_now(path)


def _used_now(path: Path) -> None:
    """Mark as used after every other entry, even where the clock has gone back since."""
    with suppress(OSError):
        latest = max((one.used for one in entries() if one.path != path), default=0.0)
        now = max(time.time(), latest + 1e-3)
        os.utime(path / _ABOUT, (now, now))


def clear(names: tuple[str, ...] = ()) -> tuple[list[Listed], list[Listed]]:
    """Remove the entries whose key begins with one of `names`, or all without names: (removed, held by a process).

    WrongUse where no entry has a name.
    """
    found = entries()
    for name in names:
        if not name or not any(one.key.startswith(name) for one in found):
            known = ", ".join(one.key[:12] for one in found) or "nothing"
            raise WrongUse(f"no entry '{name}' in the cache: expected the beginning of a key; there is {known}")
    if not cache_folder().is_dir():
        return [], []
    with _locked():
        _remove_leftovers()
        chosen = [one for one in entries() if not names or one.key.startswith(names)]
        removed = [one for one in chosen if _remove(one.path)]
    return removed, [one for one in chosen if one not in removed]


def _make_room(path: Path, needed: int, chosen: int | None) -> None:
    """Remove other entries so that `path` may grow to `needed` bytes. Raises OverBudget before anything is removed."""
    _remove_leftovers()
    budget = default_budget() if chosen is None else chosen
    all_others = [one for one in entries() if one.path != path]
    held, more = sum(one.held for one in all_others), needed - _size_of(path) + _SPARE
    free = shutil.disk_usage(cache_folder()).free
    movable = [one for one in all_others if not one.busy]
    can_free = sum(one.size for one in movable)
    words = f"{'a quarter of the free disk' if chosen is None else '--cache-budget'} ({size_in_words(budget)})"
    for too_much, why in (
        (needed > budget, f"more than {words}"),
        (held - can_free + needed > budget, f"and other runs are using {size_in_words(held - can_free)} of {words}"),
        (more > free + can_free, f"and {cache_folder()} has {size_in_words(free)} free"),
    ):
        if too_much:
            raise OverBudget(f"they would take {size_in_words(needed)}, {why}")
    for one in movable:
        if held + needed <= budget and more <= free:
            break
        if _remove(one.path):
            held, free = held - one.size, free + one.size


def _listed(path: Path) -> Listed | None:
    about = path / _ABOUT
    try:
        value = json.loads(about.read_text(encoding="utf-8"))
        if int(np.prod(value["shape"])) * np.dtype(value["dtype"]).itemsize < 1 or int(value["planned"]) < 0:
            return None
        used = about.stat().st_mtime
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None  # being created or removed
    return Listed(path, value, _size_of(path), used, _is_held(path))


def _is_held(path: Path) -> bool:
    try:
        with open(path / "lock", "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def _remove(path: Path) -> bool:
    """Remove an entry unless a process holds it. The caller holds the folder's lock, so no process opens it now."""
    if _is_held(path):
        return False
    gone = path.with_name(f".removed.{path.name}")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(path, gone)
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _remove_leftovers() -> None:
    """Remove entries that a killed process was removing or creating."""
    for path in cache_folder().iterdir():
        unreadable = path.is_dir() and not path.name.startswith(".") and _listed(path) is None
        if path.name.startswith(".removed.") or (unreadable and not _is_held(path)):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked() -> Iterator[None]:
    """Lock the folder: one process at a time opens and removes entries."""
    root = cache_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root)) from None
    with open(root / ".lock", "a+b") as lock:
        with naming(root, instead_of=root):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _size_of(path: Path) -> int:
    return sum(_size(path / name) for name in ("rows.bin", "index.bin"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
