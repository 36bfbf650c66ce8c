"""Images in TFRecords that are no encoded files: raw bytes, lists of numbers, serialised tensors."""

import math
from dataclasses import replace

import numpy as np
from PIL import Image

from finetune.data.sources.tfrecord_example import Example, Keys, tensor_of

_LEAST_SIDE = 8
_CHANNELS = (1, 3, 4)


def found_pixels(example: Example, keys: Keys, key: str) -> Keys | None:
    """`keys` for the feature `key` as an image of pixels, of the first record `example`; None where it is none.

    The height and width are those that features say. Without them the image is a square, grey or RGB, or a tensor.
    Raises Malformed.
    """
    keys = replace(keys, image=key, side=0, pixels="", unit=False)
    kind, content = example.kind(key), example.first_bytes(key)
    if kind == "bytes" and is_raw(example, keys, content):
        return keys
    if kind == "bytes":
        tensor = tensor_of(content)
        if tensor is not None and (_image_shape(tensor.shape) or _said_shape(example, keys, tensor.size)):
            return replace(keys, pixels="tensor", unit=_in_unit(tensor))
        if _said_shape(example, keys, len(content) // 4, known_depth=True) and not len(content) % 4:
            return replace(keys, pixels="float32", unit=_in_unit(np.frombuffer(content, "<f4")))
        side = square_side(len(content))
        return replace(keys, side=side) if side else None
    values = example.values(key) if kind else np.zeros(0)
    side = 0 if _said_shape(example, keys, values.size) else square_side(values.size)
    if side or _said_shape(example, keys, values.size):
        return replace(keys, side=side, pixels="list", unit=_in_unit(values))
    return None


def is_raw(example: Example, keys: Keys, pixels: bytes) -> bool:
    """Whether `pixels` has a byte for each value of an image whose height and width the record says."""
    return _said_shape(example, keys, len(pixels)) is not None


def square_side(size: int) -> int:
    """The side in px, 8 or more, of a square image, grey or RGB, of `size` values; 0 if there is none.

    No number of values is both: three times a square is no square.
    """
    for channels in (1, 3):
        side = math.isqrt(size // channels)
        if side >= _LEAST_SIDE and channels * side**2 == size:
            return side
    return 0


def image_of(example: Example, keys: Keys) -> Image.Image:
    """The image of pixels in a record. ValueError where they are none; Malformed."""
    values = _values(example, keys)
    shape = _image_shape(values.shape) if values.ndim > 1 else _said_shape(example, keys, values.size)
    if shape is None:
        sides = [keys.side or example.first_int(key) or 0 for key in (keys.width, keys.height)]
        size = "x".join(map(str, values.shape)) if values.ndim > 1 else f"{sides[0]} x {sides[1]} pixels"
        raise ValueError(f"{values.size} {'values' if keys.pixels else 'raw bytes'} are no image of {size}")
    pixels = values.reshape(shape)
    if shape[2] not in _CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    pixels = _eight_bits(pixels, unit=keys.unit)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _values(example: Example, keys: Keys) -> np.ndarray:
    """The numbers of a record's image, as they are kept. ValueError where they are none."""
    if keys.pixels == "list":
        return example.values(keys.image)
    content = example.first_bytes(keys.image)
    values = tensor_of(content) if keys.pixels == "tensor" else None
    if (keys.pixels == "tensor" and values is None) or (keys.pixels == "float32" and len(content) % 4):
        raise ValueError(f"{len(content)} bytes are no {keys.pixels} of numbers")
    return np.frombuffer(content, "<f4" if keys.pixels else np.uint8) if values is None else values


def _said_shape(example: Example, keys: Keys, size: int, *, known_depth: bool = False) -> tuple[int, int, int] | None:
    """The shape of an image of `size` values by the record's other features, or by `keys.side`; None if they say none.

    Four channels, and with `known_depth` one, only where the record says their number: four bytes a pixel are either.
    """
    if keys.shape and (said := _image_shape(tuple(int(one) for one in example.values(keys.shape)))):
        return said if math.prod(said) == size else None
    height, width = (keys.side or example.first_int(key) or 0 for key in (keys.height, keys.width))
    if height <= 0 or width <= 0 or size <= 0 or size % (height * width):
        return None
    channels, depth = size // (height * width), example.first_int(keys.depth) if keys.depth else None
    allowed = (depth,) if depth in _CHANNELS else (3,) if known_depth else (1, 3)
    return (height, width, channels) if channels in allowed else None


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Three sizes of one image, its channels last or first, for those of an array; None where it is no image."""
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    shape = (*shape, 1) if len(shape) == 2 else shape
    if len(shape) != 3 or min(shape) < 1 or not {shape[0], shape[2]} & set(_CHANNELS):
        return None
    return shape[0], shape[1], shape[2]


def _in_unit(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" and bool(values.size) and bool(values.max() <= 1)


def _eight_bits(pixels: np.ndarray, *, unit: bool) -> np.ndarray:
    """uint8 of what is in [0, 255], with `unit` in [0, 1]. ValueError for anything else."""
    if pixels.dtype == np.uint8:
        return pixels
    most = 1 if unit else 255
    if not (pixels.min() >= 0 and pixels.max() <= most):
        raise ValueError(f"pixels from {pixels.min():g} to {pixels.max():g}: expected 0 to {most}")
    if pixels.dtype.kind == "f":
        pixels = np.rint(pixels.astype(np.float64) * (255 / most))
    return pixels.astype(np.uint8)
