"""What the shape of folders says about their meaning: a folder around the data, a copy, parts of one set."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from checkpoints.errors import listed
from finetune.data.image_files import images_below, is_image, is_visible
from finetune.data.sources.split_names import roles_of, split_word
from finetune.data.sources.table_rows import TABLES
from finetune.errors import FinetuneError
from finetune.text import printable

_PART = re.compile(r".*(part|batch|chunk|shard|fold|volume|disc)s?[\W_]*\d+", re.IGNORECASE)
_COMPARED = 5
"""Images of each folder that must be found again for it to be a copy."""


def folders(place: Path) -> list[str]:
    """The names of the visible folders in `place`, sorted; none if it is no folder."""
    if not place.is_dir():
        return []
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if is_visible(entry.name) and entry.is_dir())


def holds_images(folder: Path, *, below: bool = True) -> bool:
    """Whether there is an image in `folder`; with `below`, also in the folders in it."""
    if below:
        return any(images_below(folder, Counter()))
    with os.scandir(folder) as entries:
        return any(is_visible(entry.name) and not entry.is_dir() and is_image(entry) for entry in entries)


def roles_in(folder: Path) -> dict[str, str | None]:
    """What the names of the folders in `folder` that hold images mean."""
    return roles_of([name for name in folders(folder) if holds_images(folder / name)])


def is_around(root: Path, name: str) -> bool:
    """Whether the folder `name`, the only one in `root` with images, is one around the data: it holds folders of images
    and no images itself. A table beside it may say otherwise."""
    inside = root / name
    loose = holds_images(root, below=False) or holds_images(inside, below=False)
    tables = any(one.lower().endswith(TABLES) for one in os.listdir(root))
    held = [] if loose or tables else list(roles_in(inside))
    return len(held) > 1 or (len(held) == 1 and is_around(inside, held[0]))


def copies(root: Path, holding: Sequence[str]) -> list[str]:
    """Those of the folders with images that hold the others once more, as Kaggle's archives have it: `data/data/`."""
    found = []
    for name in holding:
        others = [one for one in holding if one != name]
        if len(others) > 1 and list(roles_in(root / name)) == others and _same(root / name, root, others):
            found.append(name)
    return found


def _same(copy: Path, original: Path, names: Sequence[str]) -> bool:
    """Whether the first images of each folder in `copy` are in `original`, of the same size."""
    for name in names:
        for path in islice(images_below(copy / name, Counter()), _COMPARED):
            other = original / os.path.relpath(path, copy)
            if not other.is_file() or other.stat().st_size != os.path.getsize(path):
                return False
    return True


def check_classes(root: Path, classes: Sequence[str], below: str, way_on: str) -> None:
    """FinetuneError where the folders `classes` in `root` cannot be told to be classes. The images of each lie in its
    folder `below`, "" for the folder itself. `way_on`: what to do instead, for the messages.

    - All hold the same two or more folders of images, and no other images: which of the two levels are the classes is
      not certain (`color/`, `segmented/` with classes in them; classes with `masks/`; `fold1/train/`).
    - One of them holds folders of images, and all others are called as more images of the set (`testset/`).
    - All are numbered parts (`images_part_1/`), which are no classes.
    """
    places = [root / name / below for name in classes]
    inner = [list(roles_in(place)) for place in places]
    loose = [holds_images(place, below=False) for place in places]
    outer = printable(listed([f"{name}/" for name in classes], most=4))
    if len(places) > 1 and len(inner[0]) > 1 and all(one == inner[0] for one in inner) and not any(loose):
        names = printable(listed([f"{name}/" for name in inner[0]], most=4))
        within = f" in {printable(below)}/" if below else ""
        raise FinetuneError(
            f"{root} holds {outer}, each with {names} in it{within}: where {names} are the classes, give --data "
            f"{printable(str(root / classes[0]))}; where {outer} are, put the images directly into them, or {way_on}"
        )
    nested = [name for name, held, own in zip(classes, inner, loose, strict=True) if len(held) > 1 and not own]
    others = [name for name in classes if name not in nested]
    if len(nested) == 1 and others and all(map(split_word, others)):
        held = inner[classes.index(nested[0])]
        one, names, more = (printable(listed([f"{name}/" for name in some], most=3)) for some in (nested, held, others))
        raise FinetuneError(
            f"{root} holds {one} with {names} in it, and {more} with images only, named as more images of the set are: "
            f"where {names} are the classes, give --data {printable(str(root / nested[0]))}; or {way_on}"
        )
    if len(classes) > 1 and all(map(_PART.fullmatch, classes)):
        raise FinetuneError(
            f"{root} holds {outer}, named as parts of a set are and not as classes: {way_on}; where they are classes, "
            "rename them"
        )
