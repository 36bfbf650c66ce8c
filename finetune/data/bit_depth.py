"""Pixels of more than 8 bits to 8 bits: which value is white, and the one way to scale by it."""

import io
from typing import Any

import numpy as np
from PIL import Image

from finetune._version import install_line
from finetune.errors import FinetuneError
from finetune.text import first_line

WIDEST = 0xFFFF
"""White, where nothing is known of files whose samples take 16 bits."""
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281
_NO_TIFFFILE = (
    "a TIFF with several channels of more than 8 bits is read by tifffile and imagecodecs: "
    f"{install_line('tiff')}, or convert the images to PNG"
)
_PNG_HEADER = 33
"""Bytes of a PNG before its second chunk."""


def white_of(most: int) -> int:
    """The white of pixels whose largest value is `most`: `most` rounded up to 2^n - 1, at least 255.

    A camera of 12 bits writes 0 to 4095 into files of 16 bits: 3900 gives 4095.
    """
    return max((1 << int(most).bit_length()) - 1, 255)


def eight_bits(values: np.ndarray, white: int) -> np.ndarray:
    """Whole numbers in [0, 65535] as uint8 of the same shape: `white` becomes 255, what lies above it as well."""
    scaled = (np.minimum(values, white).astype(np.uint32) * 255 + white // 2) // white
    return np.asarray(scaled, np.uint8)


def is_wide(image: Any) -> bool:
    """Whether an image that is opened, but not decoded, is a PNG or TIFF whose samples take 9 to 16 bits."""
    if image.format == "PNG":
        return bool(image.tile) and "16" in str(image.tile[0][3])
    return image.format == "TIFF" and 8 < _largest_tag(image, _BITS_PER_SAMPLE) <= 16


def declared_white(image: Image.Image) -> int | None:
    """White by the tags of a TIFF: its MaxSampleValue, or its BitsPerSample if these are 9 to 15; None without."""
    if image.format != "TIFF":
        return None
    bits, most = _largest_tag(image, _BITS_PER_SAMPLE), _largest_tag(image, _MAX_SAMPLE_VALUE)
    return most if 0xFF < most < WIDEST else (1 << bits) - 1 if bits < 16 else None


def largest_value(image: Image.Image) -> int:
    """The largest colour value of an image that `is_wide`, or white by its PNG's sBIT chunk.

    A PNG of n significant bits should be stretched to 16 bits, and many are not: white is 2^n - 1 where no value lies
    above it, and 65535 otherwise. Decodes the image.
    """
    bits = _significant_bits(image) if image.format == "PNG" else 0
    values = wide_values(image)
    most = int(colours(values).max(initial=0))
    return most if not bits else WIDEST if most >> bits else (1 << bits) - 1


def narrowed(image: Image.Image, white: int) -> Image.Image:
    """An image that `is_wide` in 8 bits (mode L, LA, RGB or RGBA), `white` unless it declares its own; not turned."""
    white = declared_white(image) or white
    values = wide_values(image)
    scaled = eight_bits(colours(values), white)
    if values.ndim == 3 and values.shape[2] in (2, 4):  # opacity is no light
        scaled = np.concatenate([scaled, eight_bits(values[..., -1:], WIDEST)], axis=2)
    return Image.fromarray(scaled[..., 0] if scaled.ndim == 3 and scaled.shape[2] == 1 else scaled)


def colours(values: np.ndarray) -> np.ndarray:
    """`values` `[height, width]` or `[height, width, channels]` without the opacity of 2 or 4 channels."""
    return values[..., :-1] if values.ndim == 3 and values.shape[2] in (2, 4) else values


def wide_values(image: Any) -> np.ndarray:
    """uint16 `[height, width]`, or `[height, width, channels]`: Pillow would read several channels as 8 bits."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    image.fp.seek(0)
    content = image.fp.read()
    if image.format == "PNG":
        import tensorflow as tf

        try:
            return np.asarray(tf.io.decode_png(content, dtype=tf.uint16))
        except tf.errors.OpError as error:
            raise ValueError(first_line(error)) from None
    try:
        import tifffile
    except ImportError:
        raise FinetuneError(_NO_TIFFFILE) from None
    try:
        values = np.asarray(tifffile.imread(io.BytesIO(content), key=0))
    except ValueError as error:
        if "imagecodecs" in str(error):  # the compression is one that tifffile leaves to it
            raise FinetuneError(_NO_TIFFFILE) from None
        raise
    if values.ndim == 3 and values.shape[1:] == (image.height, image.width):
        values = values.transpose(1, 2, 0)
    if values.shape[:2] != (image.height, image.width) or values.dtype != np.uint16:
        raise ValueError(f"its pixels are {values.dtype} {list(values.shape)}")
    return values


def _largest_tag(image: Any, tag: int) -> int:
    value = image.tag_v2.get(tag, 0)
    return int(max(value)) if isinstance(value, tuple) and value else int(value or 0)


def _significant_bits(image: Any) -> int:
    """The most bits in the sBIT chunk of a PNG; 0 without one."""
    file = image.fp
    place = file.tell()
    file.seek(_PNG_HEADER)
    bits = 0
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"sBIT" and 0 < length <= 4:
            bits = max(file.read(length))
            break
        file.seek(length + 4, io.SEEK_CUR)
    file.seek(place)
    return bits if bits <= 16 else 0
