"""Which features of a TFRecord are the image and the label, where they have other names than slim's."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.data import decoding
from finetune.data.sources.tfrecord_example import Example, Keys
from finetune.data.sources.tfrecord_pixels import found_pixels, image_of
from finetune.errors import FinetuneError, WrongUse
from finetune.text import did_you_mean, printable

_IMAGES = ("encoded", "image", "image_raw", "img", "jpeg", "png", "image_bytes", "pixels", "data", "x")
_LABELS = ("label", "class", "target", "labels", "category", "class_id", "label_id", "y")
_TEXTS = (*_LABELS, "text", "class_name", "label_name")
_ONE_HOT = ("one_hot", "onehot", "one_hot_class", "label_one_hot", *_LABELS)
_SIDES = {
    "height": ("height", "rows", "h"),
    "width": ("width", "cols", "columns", "w"),
    "depth": ("depth", "channels", "c"),
    "shape": ("shape", "image_shape", "size"),
}
_OTHER = ("id", "image_id", *(name for names in _SIDES.values() for name in names))
"""Whole numbers that are no labels."""
_OBJECTS = "image/object/class/label"


def find_keys(place: str, example: Example, given: Mapping[str, str]) -> Keys:
    """The keys of a file whose first record is `example`: those that are `given`, slim's where it has them, else found.

    place: of the record, for messages. Raises WrongUse if a given one is not there, FinetuneError if one is not
    found, Malformed.
    """
    _check_given(place, example, given)
    kinds = {key: example.kind(key) for key in example.features}
    slim = Keys()
    sides = {side: _one(example, names, kinds, "int64") or getattr(slim, side) for side, names in _SIDES.items()}
    chosen: dict[str, Any] = {**sides, **given}
    keys = replace(slim, **chosen)
    if "image" not in given and keys.image not in kinds:
        keys = replace(keys, image=_image(example, kinds, keys))
    if keys.image and not _is_image(example.first_bytes(keys.image)):
        keys = _of_pixels(place, example, found_pixels(example, keys, keys.image) or keys)
    if "text" in given and "label" not in given:
        keys = replace(keys, label="")
    elif "label" not in given and keys.label not in kinds:
        keys = _with_label(example, kinds, keys)
    if keys.image and (keys.label or keys.text):
        return keys
    has = ", ".join(f"{printable(key)} ({kind})" for key, kind in sorted(kinds.items())) or "no features"
    if _OBJECTS in kinds and keys.image:
        raise FinetuneError(
            f"{place} names the class of each object in the image ({_OBJECTS}), and not one class for the image: "
            f"expected {slim.label}; to take the class of the first object give --tfrecord-keys label={_OBJECTS}, with "
            "--multi-label the classes of all objects"
        )
    missing = " and ".join(what for what, key in (("image", keys.image), ("label", keys.label or keys.text)) if not key)
    raise FinetuneError(
        f"{place} has {has}: which is the {missing} is not obvious; expected {slim.image} and {slim.label}, or say "
        f"which with --tfrecord-keys image=NAME,label=NAME{_prepared(place)}"
        + ("" if keys.image else _numbers(example, kinds))
    )


def _of_pixels(place: str, example: Example, keys: Keys) -> Keys:
    """`keys` where the image is one of numbers. FinetuneError where these are no pixels from 0 on."""
    if keys.pixels:
        try:
            image_of(example, keys)
        except ValueError as error:
            raise FinetuneError(
                f"{place}: {printable(keys.image)} holds {error}; write tf.io.encode_png(image) of uint8 pixels instead"
            ) from None
    return keys


def _numbers(example: Example, kinds: dict[str, str]) -> str:
    """The way on where an image is there, but as a list of numbers or as a serialised tensor."""
    for key, kind in sorted(kinds.items()):
        content = example.first_bytes(key) if kind == "bytes" else b""
        if _last(key) in _IMAGES and (kind != "bytes" or not _is_image(content)):
            what = "bytes that are no image" if kind == "bytes" else f"a list of numbers ({kind})"
            return f"; {printable(key)} is {what}: write tf.io.encode_png(image) of uint8 pixels instead"
    return ""


def _prepared(place: str) -> str:
    there = (Path(place.rpartition(" record ")[0]).parent / "dataset_info.json").is_file()
    return "; tensorflow_datasets prepared it: give --data tfds:NAME and its root as --data-dir" if there else ""


def _check_given(place: str, example: Example, given: Mapping[str, str]) -> None:
    for key, name in given.items():
        if key in ("image", "label", "text") and name not in example.features:
            there = ", ".join(printable(one) for one in sorted(example.features)) or "no features"
            raise WrongUse(
                f"--tfrecord-keys {key}={printable(name)}: {place} has no such feature: "
                f"{did_you_mean(name, example.features)}expected some of {there}"
            )


def _image(example: Example, kinds: dict[str, str], keys: Keys) -> str:
    """The feature that is an encoded image; without one, that has as many values as the image has pixels, or whose
    name is that of an image and which has as many as a square."""
    encoded = [key for key, kind in kinds.items() if kind == "bytes" and _is_image(example.first_bytes(key))]
    of_pixels = {} if encoded else {key: one for key in kinds if (one := found_pixels(example, keys, key))}
    raw = [key for key, one in of_pixels.items() if not one.side]
    found = encoded or raw or [key for key in of_pixels if _last(key) in _IMAGES]
    return found[0] if len(found) == 1 else next((key for name in _IMAGES for key in found if _last(key) == name), "")


def _with_label(example: Example, kinds: dict[str, str], keys: Keys) -> Keys:
    numbers = {
        key: example.values(key).size for key, kind in kinds.items() if kind in ("int64", "float") and key != keys.image
    }
    single = [key for key, count in numbers.items() if count == 1 and not _of_object(key)]
    for name in _LABELS:
        if named := [key for key in single if _last(key) == name]:
            return replace(keys, label=named[0])
    for name in _ONE_HOT:
        rows = [key for key, count in numbers.items() if count > 1 and _last(key) == name and not _of_object(key)]
        if rows:
            return replace(keys, label=rows[0])
    if text := _one(example, _TEXTS, {key: kind for key, kind in kinds.items() if key != keys.image}, "bytes"):
        return replace(keys, label="", text=text)
    left = [key for key in single if _last(key) not in _OTHER and kinds[key] == "int64"]
    return replace(keys, label=left[0] if len(left) == 1 and _OBJECTS not in kinds else "")


def _one(example: Example, names: tuple[str, ...], kinds: dict[str, str], kind: str) -> str:
    """The feature of that kind whose last part is the first of `names` that there is; "" if there is none."""
    for name in names:
        for key, found in sorted(kinds.items()):
            if found == kind and _last(key) == name and not _of_object(key):
                return key
    return ""


def _of_object(key: str) -> bool:
    return key.startswith("image/object/")


def _last(key: str) -> str:
    return key.rpartition("/")[2].lower()


def _is_image(content: bytes) -> bool:
    try:
        decoding.opened(content, "").close()
    except decoding.BadImage:
        return False
    return True
