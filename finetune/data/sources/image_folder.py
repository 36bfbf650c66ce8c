"""Folders of images: a folder per class, within the splits, or with the splits in it. Images are read when needed."""

import filecmp
import os
import re
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from checkpoints.errors import listed
from finetune.data.dataset import Dataset
from finetune.data.image_files import PhotoFiles, images_below, is_image, is_visible, of_kinds, skipped_files
from finetune.data.sources.assembly import LabelledPhotos, ReadOptions, assemble
from finetune.data.sources.folder_shape import check_classes, copies, folders, holds_images, is_around, roles_in
from finetune.data.sources.image_table import label_across_folders, read_split_tables
from finetune.data.sources.split_annotations import labels_by_table
from finetune.data.sources.split_names import role_of, roles_of, settled, split_word
from finetune.data.sources.table_rows import LISTS, TABLES
from finetune.errors import FinetuneError
from finetune.text import printable

_ANNOTATIONS = re.compile(r"\.(mat|json|xml)$|annotations?|labels?", re.IGNORECASE)
"""Files beside images that may say what is in them."""


@dataclass(frozen=True)
class _Layout:
    """How a folder is read. splits: for each split, a folder for each of the `classes`; some may not exist.

    folders: what holds all images that are read, below the root. remarks: what has to be said about the reading.
    by_table: of further splits, each image and the number of its class.
    """

    classes: list[str]
    splits: dict[str, list[Path]]
    folders: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    by_table: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def read_folder(root: Path, options: ReadOptions) -> Dataset:
    """The photos below `root`, in one of four layouts.

    - One folder of class folders per split, such as `train/` and `val/`. The names are those of `split_names`. Every
      folder with images must bear one, and all splits must have the same classes. Other splits than `train/` may have a
      table instead (`split_annotations`).
    - Split folders in each class folder: `cats/train/`.
    - Class folders alone. Other folders in a class folder belong to it, unless all have the same.
    - Split folders without class folders, with a table of their images in each.

    The only folder in `root`, and in that, is read in its place; a copy of the other folders among them is not read.

    The classes are the names of the training folders, sorted. Links are followed. Hidden files and files that are no
    images are skipped; what else stands beside the splits is named in the remarks. Images are ordered by a hash of
    their paths: in the order of a listing, every batch of an evaluation would be of one class, and batch statistics
    would be worthless. Raises FinetuneError, with the reading that would fit, for folders of another shape, and for
    damaged photos.
    """
    if not root.is_dir():
        raise FinetuneError(f"{root} is no folder: expected one with a folder of images per class")
    if tables := _tables_of_splits(root):
        return read_split_tables(root, tables, options)
    layout = _layout(root)
    photos, labels, ignored = PhotoFiles(root), array("q"), Counter[str]()
    members, same = {}, _SameFiles() if options.multi_label else None
    for split, places in layout.splits.items():
        begin = len(labels)
        for label, folder in enumerate(places):
            for path in images_below(folder, ignored) if folder.is_dir() else ():
                if same is not None and same.seen(split, path, label, len(labels)):
                    continue
                photos.add(path)
                labels.append(label)
        members[split] = photos.mixed(np.arange(begin, len(photos)))
        if begin == len(labels):
            where = root if places[0].parent == root else f"{places[0].parent}"
            raise FinetuneError(f"the class folders in {where} hold no images{of_kinds(ignored)}: check the folder")
    for split, listed_ones in layout.by_table.items():
        begin = len(labels)
        for path, label in listed_ones.items():
            photos.add(path)
            labels.append(label)
        members[split] = photos.mixed(np.arange(begin, len(photos)))
    found: np.ndarray = np.array(labels, np.int64)
    if same is not None:
        found = np.eye(len(layout.classes), dtype=np.uint8)[found]
        found[same.further] = 1
        several = len({number for number, _ in zip(*same.further, strict=True)})
        words = f"an image may have several labels: {several} images lie in several folders (--multi-label)"
        layout = replace(layout, remarks=(*layout.remarks, words))
    return assemble(
        options,
        LabelledPhotos(photos, found, members),
        name=printable(root.name) or "folder",
        class_names=tuple(printable(name) for name in layout.classes),
        source=f"{root}: {', '.join(f'{printable(name)}/' for name in layout.folders) or 'a folder per class'}",
        remarks=(*layout.remarks, *skipped_files(ignored)),
    )


class _SameFiles:
    """Which files are one image: links to one file, or equal bytes under one name.

    further: the numbers of images, and the label that each also has.
    """

    def __init__(self) -> None:
        self.further: tuple[list[int], list[int]] = ([], [])
        self._inodes: dict[tuple[str, int, int], int] = {}
        self._named: dict[tuple[str, str, int], list[tuple[str, int]]] = {}

    def seen(self, split: str, path: str, label: int, number: int) -> bool:
        """Whether the image at `path` came before in its split, and now has one more label; else it has `number`."""
        if not os.path.exists(path):  # a broken link is a damaged image
            return False
        about = os.stat(path)
        alike = self._named.setdefault((split, os.path.basename(path), about.st_size), [])
        before = self._inodes.get((split, about.st_dev, about.st_ino))
        if before is None:
            equal = (other for one, other in alike if filecmp.cmp(one, path, shallow=False))
            before = next(equal, None)
        if before is None:
            self._inodes[split, about.st_dev, about.st_ino] = number
            alike.append((path, number))
            return False
        self.further[0].append(before)
        self.further[1].append(label)
        return True


def _layout(root: Path) -> _Layout:
    """How `root` is read."""
    names = folders(root)
    holding = [name for name in names if holds_images(root / name)]
    if again := copies(root, holding):
        names, holding = ([one for one in some if one not in again] for some in (names, holding))
    roles = roles_of(holding)
    if len(holding) == 1 and None in roles.values():
        within = root / holding[0]
        if "train" in roles_in(within).values() or is_around(root, holding[0]):
            found = _layout(within)
            inner = tuple(f"{holding[0]}/{name}" for name in found.folders) or (holding[0],)
            return replace(found, folders=inner, remarks=(*found.remarks, *_beside(root, holding)))
    bearing = [name for name in holding if roles[name] not in (None, "unlabelled")]
    outside = [name for name in holding if roles[name] is None]
    if bearing and not outside:
        return _split_folders(root, roles)
    several = len(bearing) > 1 and "train" in roles.values()
    # `train/` may be a vehicle and `valid/` a state, but `test/` beside two classes is hardly a third.
    hardly = [name for name in holding if roles[name] in ("test", "unlabelled")] if len(outside) > 1 else []
    if several or hardly or not all(holds_images(root / name, below=False) for name in bearing):
        raise FinetuneError(_two_readings(root, sorted({*bearing, *hardly}), outside))
    if below := _splits_below(root, holding):
        return below
    _check_tables(root, holding)
    check_classes(root, holding, "", _table_hint(root))
    # An empty folder may be a class that lacks its images; one of other files, such as Annotations/, is none.
    classes = [name for name in names if name in holding or not os.listdir(root / name)]
    if len(classes) < 2:
        raise FinetuneError(_too_few(root, classes))
    words = f"{' and '.join(f'{name}/' for name in bearing)}, of a split's name, is read as a class"
    remarks = (*((words,) if bearing else ()), *_beside(root, classes))
    return _Layout(classes, {"train": [root / name for name in classes]}, (), remarks)


def _tables_of_splits(root: Path) -> dict[str, Path]:
    """The table in each split's folder in `root`; none where they hold class folders, or other than one table each."""
    roles = roles_in(root)
    if "train" not in roles.values() or None in roles.values():
        return {}
    folders = {split: root / name for split, name in settled(roles, str(root))[0].items()}
    tables = {split: _tables(folder) for split, folder in folders.items()}
    fits = all(len(tables[split]) == 1 and not roles_in(folder) for split, folder in folders.items())
    return {split: found[0] for split, found in tables.items()} if fits else {}


def _split_folders(root: Path, roles: dict[str, str | None]) -> _Layout:
    """Folders of class folders, each of which bears the name of a split."""
    names, remarks = settled(roles, str(root))
    if "train" not in names:
        raise FinetuneError(
            f"{root} holds {' and '.join(f'{name}/' for name in names.values())}, but no train/ with class folders: "
            "add train/, or give the folder that holds the class folders themselves"
        )
    places = {split: _inside(root / name) for split, name in names.items()}
    train = places["train"]
    classes = folders(train)
    if not classes:
        raise FinetuneError(
            f"{train} holds no class folders: expected two or more, each named after its class and with its images in "
            f"it; or {_table_hint(root, train)}{_named_after_class(train)}; folders that are classes themselves must "
            "not be called as splits are"
        )
    if len(classes) < 2:
        raise FinetuneError(_too_few(train, classes))
    by_folder, by_table, said = _further_splits(places, classes)
    used = tuple(str(place.relative_to(root)) for place in places.values())
    splits = {split: [places[split] / name for name in classes] for split in ("train", *by_folder)}
    remarks = (*remarks, *said, *_beside(root, [*names.values(), *(table.name for table, _ in by_table.values())]))
    return _Layout(classes, splits, used, remarks, {split: found for split, (_, found) in by_table.items()})


def _further_splits(
    places: Mapping[str, Path], classes: list[str]
) -> tuple[list[str], dict[str, tuple[Path, dict[str, int]]], tuple[str, ...]]:
    """(the splits beside `train` with its class folders; those with a table: it, and the class of each image; remarks).

    Test images of which nothing says the classes are left out, if there are validation images.
    """
    by_folder: list[str] = []
    by_table: dict[str, tuple[Path, dict[str, int]]] = {}
    remarks = []
    for split, place in places.items():
        if split == "train":
            continue
        name = printable(place.name)
        if not _check_classes(place, classes, places["train"]):
            by_folder.append(split)
        elif found := labels_by_table(place, classes):
            by_table[split] = found
            remarks.append(f"the classes of the images in {name}/ are read from {printable(found[0].name)}")
        elif by_folder or by_table:
            remarks.append(f"not used: the images in {name}/, whose classes are not known")
        else:
            raise FinetuneError(
                f"{place} holds images without class folders, so their classes are not known: "
                f"{_table_hint(place, place.parent)}, or --data {places['train']}, which holds test images out of the "
                "training images"
            )
    return by_folder, by_table, tuple(remarks)


def _splits_below(root: Path, classes: list[str]) -> _Layout | None:
    """Class folders with split folders in them; None if no class folder has training and other images apart."""
    roles = {name: roles_in(root / name) for name in classes}
    if not any("train" in one.values() and len({*one.values()} - {None, "unlabelled"}) > 1 for one in roles.values()):
        return None
    names: dict[str, dict[str, str]] = {}
    remarks: tuple[str, ...] = ()
    for name, inner in roles.items():
        names[name], remarks = settled(inner, str(root / name))
        loose = holds_images(root / name, below=False)
        if loose or None in inner.values() or names[name].keys() != names[classes[0]].keys():
            has = {
                one: f"{listed([f'{inside}/' for inside in roles[one]]) or 'no folders'}" for one in (classes[0], name)
            }
            raise FinetuneError(
                f"{root / name} holds {has[name]}{' and images beside them' if loose else ''}, {root / classes[0]} "
                f"holds {has[classes[0]]}: expected the same split folders in each, and all images in them"
            )
    check_classes(root, classes, names[classes[0]]["train"], _table_hint(root))
    splits = {split: [root / name / names[name][split] for name in classes] for split in names[classes[0]]}
    used = tuple(f"*/{name}" for name in names[classes[0]].values())
    return _Layout(classes, splits, used, (*remarks, *_beside(root, classes)))


def _inside(folder: Path) -> Path:
    """`folder`, or the folder in it that bears the same name once more: `seg_train/seg_train`, as archives unpack."""
    names = folders(folder)
    if len(names) == 1 and role_of(names[0]) == role_of(folder.name) and not holds_images(folder, below=False):
        return _inside(folder / names[0])
    return folder


def _beside(root: Path, used: list[str]) -> tuple[str, ...]:
    """A sentence that names the folders, images and tables in `root` that are not used; none if there are none."""
    with os.scandir(root) as entries:
        others = sorted(
            f"{entry.name}/" if entry.is_dir() else entry.name
            for entry in entries
            if is_visible(entry.name) and entry.name not in used
            if entry.is_dir() or entry.name.lower().endswith(TABLES) or is_image(entry)
        )
    names = [printable(name) for name in others]
    return (f"not used, beside {printable(used[0])}/: {listed(names, most=5)}",) if names else ()


def _check_classes(folder: Path, classes: list[str], train: Path) -> bool:
    """Whether the images in `folder` lie in no class folders. FinetuneError where these are others than in `train`."""
    own, expected = set(folders(folder)), set(classes)
    more, less = sorted(own - expected), sorted(expected - own)
    if len(own) <= 1 and not own & expected:  # `val/images/` holds no class called images
        return True
    if more or less:
        parts = [f"{folder.name}/ has {printable(listed(more, most=5))}, which {train.name}/ has not"] if more else []
        parts += [f"{folder.name}/ lacks {printable(listed(less, most=5))} of {train.name}/"] if less else []
        raise FinetuneError(
            f"{folder.parent}: {'; '.join(parts)}: expected the same class folders in both; rename, add (an empty one "
            f"will do) or remove them, or give --data {train}, which holds test images out of the training images"
        )
    return False


def _two_readings(root: Path, bearing: list[str], outside: list[str]) -> str:
    """Why folders are read neither as splits nor as classes."""
    splits, others = (printable(listed([f"{name}/" for name in names], most=5)) for names in (bearing, outside))
    return (
        f"{root} holds {splits}, named as splits are, and {others} with images as well: to read the splits, move "
        f"{others} elsewhere; to read a class per folder, rename {splits}; or {_table_hint(root)}"
    )


def _check_tables(root: Path, classes: list[str]) -> None:
    """FinetuneError where a table beside the folders gives images of several of them one class."""
    for table in _tables(root):
        if mixed := label_across_folders(table, classes):
            folders = printable(listed([f"{name}/" for name in classes], most=5))
            raise FinetuneError(
                f"{root}: {table.name} gives images in several of the folders {folders} the class {printable(mixed)}: "
                f"the folders look like parts of one set; give --data {printable(str(table))}; or to read a class per "
                "folder, move the table elsewhere"
            )


def _tables(*places: Path) -> list[Path]:
    """The tables in `places`, the most promising first."""
    there = [place / name for place in places for name in sorted(os.listdir(place)) if name.lower().endswith(TABLES)]
    there = [table for table in there if "submission" not in table.stem.lower()]
    return sorted(there, key=lambda table: (split_word(table.stem) != "train", "label" not in table.stem.lower()))


def _table_hint(*places: Path) -> str:
    """The way on with a table of labels: the one that lies in `places`, if there is one; or what it is made from."""
    if there := _tables(*places):
        return f"give a table of the images and their classes with --data {printable(str(there[0]))}"
    lists = [place / name for place in places for name in sorted(os.listdir(place)) if name.lower().endswith(LISTS)]
    if named := next((path for path in lists if "label" in path.stem.lower() or role_of(path.stem)), None):
        return f"give a list with an image and its class in a line with --data {printable(str(named))}"
    notes = sorted(name for place in places for name in os.listdir(place) if _ANNOTATIONS.search(name))
    source = f", made from {printable(notes[0])}, which is not read" if notes else ""
    return f"give a table of the images and their classes with --data FILE.csv{source}"


def _too_few(place: Path, classes: list[str]) -> str:
    """Why `place` does not hold two classes."""
    if any("-ubyte" in name for name in os.listdir(place)):
        return (
            f"{place} holds the files of MNIST or the like: give --data mnist or fashion_mnist, and --data-dir {place}"
        )
    expected = "expected two or more folders of images, each named after its class"
    if not classes:
        loose = any(images_below(place, Counter()))
        hint = f"; or {_table_hint(place)}{_named_after_class(place)}" if loose or _tables(place) else ""
        return f"{place} holds {'images, but no class folders' if loose else 'no class folders'}: {expected}{hint}"
    inner = folders(place / classes[0])
    hint = f"did you mean --data {place / classes[0]}?" if len(inner) > 1 else _table_hint(place, place / classes[0])
    return f"{place} holds images in one folder only, {printable(classes[0])}: {expected}; or {hint}"


def _named_after_class(place: Path) -> str:
    """A hint where the names of the images begin with their classes: `cat.0.jpg`."""
    stems = [re.match(r"([A-Za-z]+)[._ -]*\d", name) for name in sorted(os.listdir(place)) if is_visible(name)]
    words = sorted({found[1] for found in stems if found})
    if not 2 <= len(words) <= 50 or len(words) * 2 > len(stems):
        return ""
    return (
        f"; the names begin with {printable(listed(words, most=3))}: where these are the classes, make a folder of each"
    )
