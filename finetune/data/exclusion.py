"""A list of images to leave out: what an image is called in it, how it is read, and the data without them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finetune.data.dataset import Dataset, Split
from finetune.data.lazy import LazyImages
from finetune.errors import FinetuneError, WrongUse
from finetune.text import first_line

_COMMENT = "# "
_MADE_BY = "'finetune data check --out' writes one"


@dataclass(frozen=True)
class Exclusion:
    """names: the images to leave out, each with the digest of its pixels where the list has one, else "".

    path: of the file, for messages.
    """

    path: str
    names: Mapping[str, str]

    def digest(self) -> str:
        """SHA-256, in hex, of the names, whatever their order."""
        return hashlib.sha256("\n".join(sorted(self.names)).encode()).hexdigest()


def image_name(split: str, images: Split, position: int) -> str:
    """The path of an image file below its data, a record's or row's file and number; of images in memory, the split and
    the position in it: `train/17`."""
    if isinstance(images.images, LazyImages):
        return images.images.photos.name(int(images.images.chosen[position]))
    return f"{split}/{position}"


def pixel_digest(pixels: np.ndarray) -> bytes:
    """16 bytes: BLAKE2b of the shape and the pixels, uint8 `[height, width, channels]`. Grey pixels and the same as RGB
    have one digest."""
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def read_exclusion(path: Path) -> Exclusion:
    """The list in a text file: in each line the name of an image, after a tab anything, after another tab the digest of
    its pixels.

    Empty lines and those that begin with `# ` are skipped. Raises FinetuneError for what is no such file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise WrongUse(f"--exclude {path}: there is no such file; {_MADE_BY}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise FinetuneError(
            f"--exclude {path} cannot be read ({reason}): expected a text file with the name of an image in each line; "
            f"{_MADE_BY}"
        ) from None
    names: dict[str, str] = {}
    for line in lines:
        if line.strip() and not line.startswith(_COMMENT) and line != _COMMENT.strip():
            name, _, rest = line.partition("\t")
            names[name.removeprefix("./")] = rest.partition("\t")[2].strip()
    return Exclusion(str(path), names)


def written(lines: Iterable[tuple[str, str, str, bool]]) -> str:
    """The text that `read_exclusion` reads, of (name, finding, digest of the pixels, whether it is left out)."""
    text = []
    for name, finding, digest, leaves_out in lines:
        name = f"./{name}" if name.startswith(_COMMENT.strip()) else name
        text.append(("" if leaves_out else _COMMENT) + "\t".join(filter(None, (name, finding, digest))) + "\n")
    return "".join(text)


def without(dataset: Dataset, exclusion: Exclusion) -> Dataset:
    """`dataset` without the listed images. The others stay in their split, in their order.

    Raises FinetuneError where the list is of other data: none of its names is known, or pixels are not those it was
    made for; and where a class or split would have no image left.
    """
    splits: dict[str, Split | None] = {}
    found = 0
    for name in ("train", "validation", "test"):
        split: Split | None = getattr(dataset, name)
        if split is not None:
            listed = _listed(name, split, exclusion)
            found += int(listed.sum())
            split = split.take(np.flatnonzero(~listed)) if listed.any() else split
        splits[name] = split
    damaged = _damaged(dataset, exclusion)
    if exclusion.names and not found and not damaged:
        first = next(iter(exclusion.names))
        raise FinetuneError(
            f"--exclude {exclusion.path}: none of its {len(exclusion.names)} images is in {dataset.source}, such as "
            f"{first}: it is the list of other data; make one with 'finetune data check'"
        )
    count = sum(len(split) for split in (dataset.train, dataset.validation, dataset.test) if split is not None)
    remark = f"{found + damaged:,} of {count + damaged:,} images are left out (--exclude {exclusion.path})"
    missing = len(exclusion.names) - found - damaged
    if missing > 0:
        remark += f"; {missing:,} more are listed, but not in the data"
    try:
        remarks = (*dataset.remarks, *((remark,) if exclusion.names else ()))
        return replace(dataset, remarks=remarks, excluded=exclusion.digest(), **splits)  # type: ignore[arg-type]
    except FinetuneError as error:
        raise FinetuneError(f"without the images of --exclude {exclusion.path}: {error}") from None


def _listed(name: str, split: Split, exclusion: Exclusion) -> np.ndarray:
    """bool `[n]`: which images of a split are listed. FinetuneError where the pixels of one are others."""
    if isinstance(split.images, LazyImages):
        photos = split.images.photos
        return np.array([photos.name(int(one)) in exclusion.names for one in split.images.chosen], bool)
    listed = np.zeros(len(split), bool)
    for one, digest in exclusion.names.items():
        part, _, number = one.rpartition("/")
        if part != name or not number.isdecimal():
            continue
        position = int(number)
        same = position < len(split) and digest in ("", pixel_digest(split.images[position]).hex())
        if not same:
            what = "another image than it was" if position < len(split) else f"not there: {len(split)} images are"
            raise FinetuneError(
                f"--exclude {exclusion.path}: {one} is {what}: the list was made for other data, or with another "
                "--seed or --test, which draw the test images; make it again with 'finetune data check'"
            )
        listed[position] = True
    return listed


def _damaged(dataset: Dataset, exclusion: Exclusion) -> int:
    """How many of the listed images cannot be read, and are in no split for that reason."""
    images = dataset.train.images
    if not isinstance(images, LazyImages):
        return 0
    kept = np.zeros(len(images.photos), bool)
    for split in (dataset.train, dataset.validation, dataset.test):
        if split is not None and isinstance(split.images, LazyImages):
            kept[split.images.chosen] = True
    return sum(images.photos.name(int(one)) in exclusion.names for one in np.flatnonzero(~kept))
