"""Several files and folders that appear together, whole, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune.errors import WrongUse


def check_free(places: Iterable[Path]) -> None:
    """Raise WrongUse where something is at one of `places` already, or a directory could not be made for it."""
    for place in places:
        if place.exists() or place.is_symlink():
            raise WrongUse(f"{place} is already there and is not overwritten: give an --out in a directory of its own")
        there = next(parent for parent in place.absolute().parents if parent.exists())
        if not there.is_dir():
            raise WrongUse(f"cannot write {place}: {there} is a file, not a directory; give another --out")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder beside the entries of `folder`; what is in it is moved to `folder` when the block ends well.

    `folder` is made, with its parents, and goes again where the block fails. Nothing that is in `folder` already is
    replaced: WrongUse.
    """
    folder = folder.absolute()
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    moved: list[Path] = []
    stage = None
    try:
        stage = Path(tempfile.mkdtemp(prefix=".tmp.export-", dir=folder))
        yield stage
        entries = sorted(stage.iterdir())
        check_free(folder / entry.name for entry in entries)
        for entry in entries:
            os.rename(entry, folder / entry.name)
            moved.append(folder / entry.name)
    except BaseException:
        for place in moved:
            _remove(place)
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        with suppress(OSError):  # where somebody else has put something in it meanwhile
            for parent in made:
                parent.rmdir()
        raise
    stage.rmdir()


def _remove(place: Path) -> None:
    with suppress(OSError):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()
