"""Several files and folders that appear together, whole, or not at all."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from checkpoints.cache.working import move_all, remove_abandoned, working_folder
from finetune.errors import WrongUse

_PREFIX = ".tmp.export-"


def check_free(places: Iterable[Path]) -> None:
    """Raise WrongUse where something is at one of `places` already, or a directory could not be made for it.

    What a killed export has left beside them is removed before.
    """
    places = list(places)
    for folder in {place.absolute().parent for place in places}:
        remove_abandoned(folder, _PREFIX)
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
    try:
        with working_folder(folder, _PREFIX) as stage:
            yield stage
            check_free(folder / entry.name for entry in stage.iterdir())
            move_all(stage, folder)
    except BaseException:
        with suppress(OSError):  # where somebody else has put something in it meanwhile
            for parent in made:
                parent.rmdir()
        raise
