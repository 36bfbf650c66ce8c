"""Images and labels in arrays: an `.npz` as Keras, MedMNIST and others write it, HDF5, or a folder of such files."""

import math
import re
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path

import numpy as np

from finetune.data.bit_depth import WIDEST, eight_bits, white_of
from finetune.data.dataset import Dataset, Split
from finetune.data.sources.array_files import Stored, stored_arrays
from finetune.data.sources.array_labels import classes
from finetune.data.sources.assembly import ReadOptions, assemble
from finetune.data.sources.split_names import WORDS, role_of, settled, split_word
from finetune.errors import FinetuneError, WrongUse
from finetune.text import did_you_mean, printable

_SHORT = {"tr": "train", "te": "test"}
"""Words for splits that only arrays have: `X_tr`."""
_SPLIT = "|".join((WORDS, *_SHORT))
_KEY = re.compile(
    rf"(?:(?P<before>{_SPLIT})[_-]?(?:set[_-]?)?)?(?:(?P<images>x|images?|imgs?|data|pixels|features?|inputs?)|"
    r"(?P<labels>y|labels?|targets?|outputs?))"
    rf"(?:[_-]?(?P<after>{_SPLIT}))?",
    re.IGNORECASE,
)
_NAMES = re.compile("(class|label|target)_?names|(list_)?classes|categories", re.IGNORECASE)
_GIVEN = {
    f"{role}_{short}": (split, role)
    for split, short in (("train", "train"), ("validation", "val"), ("test", "test"))
    for role in "xy"
}
_POSITION = re.compile(r"arr_\d+")
_EXPECTED = (
    "x_train and y_train (or train_images and train_labels, X and y, images and labels, arr_0 and arr_1), and where "
    "there are any x_test, y_test, x_val, y_val and class_names"
)
_AT_ONCE = 1024
_SLIGHTLY = 0.01
"""By so much, computed floats may exceed their range."""
_CLEARLY = 0.8
"""Rows of RGB pixels are in the order in which neighbours differ by less than this share of their difference in the
other order. On CIFAR-10, whose rows are plane by plane, the share is below a half."""


def read_arrays_file(path: Path, options: ReadOptions) -> Dataset:
    """The arrays of `path`: images `[n, height, width, 3]`, `[n, height, width]` or rows of pixels, and labels: `[n]`,
    or 0/1 `[n, labels]` where an image may have several.

    Which is which follows from the names, or from `options.npz_keys`. uint8 images in an uncompressed file
    (`np.savez`) are mapped, not loaded. Floats in [0, 1] or [0, 255] and whole numbers are converted to uint8, which
    `remarks` report, as they do channels that come first.
    Nothing is unpickled but text and numbers. Raises FinetuneError for a damaged file, and for arrays that do not fit.
    """
    stored = stored_arrays(path)
    chosen, names = _chosen(path, stored, options.npz_keys)
    arrays = {split: (stored[x](), stored[y]()) for split, (x, y) in chosen.items()}
    x_train, pixels = chosen["train"][0], arrays["train"][0]
    for split, (images, labels) in arrays.items():
        x, y = chosen[split]
        _check(path, x, images, y, labels)
        if images.shape[1:] != pixels.shape[1:]:
            found = f"{list(images.shape[1:])} in {x}, {list(pixels.shape[1:])} in {x_train}"
            raise FinetuneError(f"{path}: the images have {found}: expected one size; resize them")
        if (images.dtype.kind == "f") != (pixels.dtype.kind == "f"):
            raise FinetuneError(f"{path}: {x} is {images.dtype}, {x_train} is {pixels.dtype}: expected the same")
    layout, remarks = _layout(path, x_train, pixels)
    deep = pixels.dtype.kind in "iu" and pixels.dtype != np.uint8
    white = options.white if deep and options.white else _white(path, x_train, pixels)
    named = {split: (chosen[split][1], labels) for split, (_, labels) in arrays.items()}
    numbered, class_names, said = classes(path, named, stored[names]() if names else None, several=options.multi_label)
    splits = {}
    for split, (images, _) in arrays.items():
        laid = _bytes(path, chosen[split][0], layout(images), white)
        splits[split] = Split(laid, numbered[split])
    if pixels.dtype != np.uint8:
        remarks = (*remarks, f"{pixels.dtype} images are converted to uint8, white being {white}")
    return assemble(
        options,
        splits,
        name=path.stem,
        class_names=class_names,
        source=f"{path}: {', '.join(printable(chosen[split][0]) for split in splits)}",
        remarks=(*remarks, *said),
        background="background" if said and numbered["train"].ndim == 1 else None,
        white=white if deep and white > 255 else None,
    )


def _chosen(path: Path, stored: Stored, given: Mapping[str, str]) -> tuple[dict[str, tuple[str, str]], str | None]:
    """(the names of the images and the labels of each split, the name of the class names)."""
    there = ", ".join(printable(name) for name in list(stored)[:12]) or "nothing"
    names = [name for name in stored if _NAMES.fullmatch(name.rpartition("/")[2])]
    if given:
        found, class_names = _as_given(path, stored, given)
    else:
        found, class_names = _by_name(path, stored), names[0] if names else None
        for file in {name.rpartition("/")[0] for name in stored}:
            found = found or {}
            for split, pair in _by_position(stored, file).items():
                found.setdefault((split, "x"), []).append(pair[0])
                found.setdefault((split, "y"), []).append(pair[1])
    advice = "or say which is which with --npz-keys x_train=NAME,y_train=NAME,x_test=NAME,y_test=NAME"
    for (split, role), several in found.items():
        if len(several) > 1:
            both = " and ".join(printable(one) for one in several[:3])
            raise FinetuneError(
                f"{path} holds {both}, which both may be {role}_{split}: expected one of them; leave out the "
                f"other, {advice}"
            )
        other = "y" if role == "x" else "x"
        if split != "train" and (split, other) not in found:
            raise FinetuneError(f"{path} holds {printable(several[0])} without its {other}: add it, {advice}")
    if not {("train", "x"), ("train", "y")} <= found.keys():
        raise FinetuneError(f"{path} holds {there}: expected {_EXPECTED}; name them so, {advice}{_by_class(stored)}")
    splits = ("train", "validation", "test")
    return {
        split: (found[split, "x"][0], found[split, "y"][0]) for split in splits if (split, "x") in found
    }, class_names


def _by_class(stored: Stored) -> str:
    """The way on where each array holds the images of a class, as QuickDraw's files do; "" otherwise."""
    names = [name for name in stored if name.isidentifier()][:3]
    shapes = {stored[name]().shape[1:] for name in names}
    if len(names) < 2 or len(shapes) != 1 or not next(iter(shapes)):
        return ""
    x, y = ", ".join(names), ", ".join(f"'{name}'" for name in names)
    counts = ", ".join(f"len({name})" for name in names)
    return (
        f"; of an array for each class make one file: np.savez('data.npz', x=np.concatenate([{x}]), "
        f"y=np.repeat([{y}], [{counts}]))"
    )


def _as_given(
    path: Path, stored: Stored, given: Mapping[str, str]
) -> tuple[dict[tuple[str, str], list[str]], str | None]:
    """As `--npz-keys` says."""
    for key, name in given.items():
        if name not in stored:
            there = ", ".join(printable(one) for one in list(stored)[:12]) or "nothing"
            raise WrongUse(
                f"--npz-keys {key}={printable(name)}: {path} holds no such array: {did_you_mean(name, stored)}expected "
                f"some of {there}"
            )
    return {place: [given[key]] for key, place in _GIVEN.items() if key in given}, given.get("class_names")


def _by_name(path: Path, stored: Stored) -> dict[tuple[str, str], list[str]]:
    """The arrays by split and role ("x", "y"), as their names and those of their files say."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, key in _without_prefix(list(stored)).items():
        file = name.rpartition("/")[0]
        if match := _KEY.fullmatch(key):
            word = (match["before"] or match["after"] or "").lower()
            word = _SHORT.get(word) or split_word(word or file)
            found.setdefault((word, "x" if match["images"] else "y"), []).append(name)
    splits = settled({word: role_of(word) for word, _ in found if word}, str(path))[0]
    meant = {"": "", **{word: split for split, word in splits.items()}}
    found = {(meant[word], role): names for (word, role), names in found.items() if word in meant}
    # An array that names no split is for training, unless others are.
    plain = {role: found.pop(("", role), None) for role in "xy"}
    return found | {("train", role): names for role, names in plain.items() if names and ("train", role) not in found}


def _without_prefix(names: list[str]) -> dict[str, str]:
    """Each name without that of its file, and without what all names begin with: `cifar10.1_v6_data` gives `data`."""
    keys = {name: name.rpartition("/")[2] for name in names}
    if len(names) < 2 or all(map(_KEY.fullmatch, keys.values())):
        return keys
    parts = [re.split(r"(?<=[_.-])", key) for key in keys.values()]
    shared = sum(1 for _ in takewhile(lambda column: len({*column}) == 1, zip(*parts, strict=False)))
    return {name: "".join(one[shared:]) for name, one in zip(names, parts, strict=True)}


def _by_position(stored: Stored, file: str) -> dict[str, tuple[str, str]]:
    """The pairs of `np.savez(file, x, y)`, or of two or three such pairs: the k-th images belong to the k-th labels."""
    names = [
        name for name in stored if name.rpartition("/")[0] == file and _POSITION.fullmatch(name.rpartition("/")[2])
    ]
    if len(names) not in (2, 4, 6):
        return {}
    names.sort(key=lambda name: int(name.rpartition("_")[2]))
    images = [name for name in names if stored[name]().ndim >= 3] or names[::2]
    labels = [name for name in names if name not in images]
    role = role_of(split_word(file))
    alone = "test" if role == "evaluation" else role or "train"
    splits = {2: (alone,), 4: ("train", "test"), 6: ("train", "validation", "test")}[len(names)]
    return dict(zip(splits, zip(images, labels, strict=False), strict=False))


def _check(path: Path, x: str, images: np.ndarray, y: str, labels: np.ndarray) -> None:
    if images.dtype.kind not in "biuf":
        raise FinetuneError(
            f"{path}: {x} is {images.dtype} {list(images.shape)}: expected uint8 images, or floats in [0, 1] or "
            "[0, 255]"
        )
    if not images.size:
        raise FinetuneError(f"{path}: {x} holds no image: expected some, or leave it out")
    if labels.shape[:1] != images.shape[:1]:
        last = f"; the images lie along the last axis: {x} = np.moveaxis({x}, -1, 0)" * (
            images.shape[-1:] == labels.shape[:1]
        )
        count = labels.shape[0] if labels.ndim else "no"
        raise FinetuneError(f"{path}: {y} has {count} labels for {len(images)} images: expected one each{last}")


def _layout(path: Path, name: str, images: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[str, ...]]:
    """(what gives such an array the shape `[n, height, width, channels]`, remarks)."""
    shape = images.shape
    if images.ndim == 4 and shape[3] in (1, 3, 4):
        return lambda array: array, ()
    if images.ndim == 3:
        return lambda array: array[..., np.newaxis], ()
    if images.ndim == 4 and shape[1] in (1, 3, 4):
        return lambda array: array.transpose(0, 2, 3, 1), (
            f"the channels of {list(shape)} come first: moved to the end",
        )
    if images.ndim == 2:
        for channels in (1, 3):
            side = math.isqrt(shape[1] // channels)
            if channels * side**2 == shape[1] and side > 1:
                return _rows(path, name, images, side, channels)
    raise FinetuneError(
        f"{path}: {name} has the shape {list(shape)}: expected [n, height, width, 3], grey without the 3, or rows of "
        f"square images; give {name}.reshape(len({name}), height, width, channels)"
    )


def _rows(
    path: Path, name: str, images: np.ndarray, side: int, channels: int
) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[str, ...]]:
    """`_layout` of rows. For RGB, neighbouring pixels show whether a row is pixel by pixel or plane by plane."""

    def by_pixel(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, side, side, channels)

    def by_plane(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, channels, side, side).transpose(0, 2, 3, 1)

    words = f"rows of {images.shape[1]} are images of {side} x {side} px"
    if channels == 1:
        return by_pixel, (words,)
    pixel, plane = (
        sum(float(np.abs(np.diff(one(images[:_AT_ONCE]).astype(np.float64), axis=axis)).mean()) for axis in (1, 2))
        for one in (by_pixel, by_plane)
    )
    if pixel < _CLEARLY * plane:
        return by_pixel, (f"{words}, pixel by pixel",)
    if plane < _CLEARLY * pixel:
        return by_plane, (f"{words}, plane by plane as CIFAR's",)
    raise FinetuneError(
        f"{path}: {name} has rows of {images.shape[1]}: they may be pixel by pixel or plane by plane; give "
        f"{name}.reshape(-1, {side}, {side}, 3), or as CIFAR's {name}.reshape(-1, 3, {side}, {side})"
        ".transpose(0, 2, 3, 1)"
    )


def _white(path: Path, name: str, images: np.ndarray) -> int:
    """The value of white, from the training images: 1, 255, or that of whole numbers of more bits."""
    if images.dtype == np.uint8:
        return 255
    least, most = float(images.min()), float(images.max())
    whole = images.dtype.kind in "iu"
    if least >= -_SLIGHTLY and most <= 1 + _SLIGHTLY:
        return 1
    if least >= -_SLIGHTLY and most <= 255 + _SLIGHTLY:
        return 255
    if whole and least >= 0 and most <= WIDEST:
        return white_of(int(most))
    if whole and least >= -128 and most <= 127:
        undo = f"({name}.astype(np.int16) + 128).astype(np.uint8)"
    elif least >= -0.5 - _SLIGHTLY and most <= 0.5 + _SLIGHTLY:
        undo = f"np.rint(({name} + 0.5) * 255).astype(np.uint8)"
    elif least >= -1 - _SLIGHTLY and most <= 1 + _SLIGHTLY:
        undo = f"np.rint(({name} + 1) * 127.5).astype(np.uint8)"
    elif least < 0:
        undo = (
            f"np.clip(np.rint(({name} * std + mean) * 255), 0, 255).astype(np.uint8), with the mean and std that they "
            "were standardised with (torchvision's: mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225])"
        )
    else:
        undo = f"np.rint({name} * (255 / {name}.max())).astype(np.uint8), if 0 is black and the largest is white"
    raise FinetuneError(
        f"{path}: {name} has pixels from {least:g} to {most:g}: expected [0, 1] or [0, 255], before any normalisation, "
        f"which --preprocess does; undo it in every array of images: {name} = {undo}"
    )


def as_images(path: Path, name: str, images: np.ndarray, white: int | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(rows of pixels as uint8 `[n, height, width, channels]`, remarks), as of arrays in a file. `white`: as known."""
    layout, remarks = _layout(path, name, images)
    return _bytes(path, name, layout(images), white or _white(path, name, images)), remarks


def _bytes(path: Path, name: str, images: np.ndarray, white: int) -> np.ndarray:
    """uint8; no copy if it is that already."""
    if images.dtype == np.uint8:
        return images
    out = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        block = images[start : start + _AT_ONCE]
        least, most = float(block.min()), float(block.max())
        # Written so that NaN is rejected as well. Of more than 8 bits, other images may exceed the white of training.
        if not (least >= -_SLIGHTLY and most <= (WIDEST if white > 255 else white + _SLIGHTLY)):
            raise FinetuneError(
                f"{path}: {name} has pixels from {least:g} to {most:g}, and those of the training images are in "
                f"[0, {white}]: expected the same range in all arrays"
            )
        exact = np.clip(np.rint(block.astype(np.float64) * (255 / white)), 0, 255)
        out[start : start + _AT_ONCE] = eight_bits(block, white) if white > 255 else exact
    return out
