"""Encoded images to pixels: photos of any format, colours and orientation become RGB of a given size."""

import functools
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from finetune.data import bit_depth
from finetune.data.geometry import CENTRE, Geometry, resampled
from finetune.errors import FinetuneError
from finetune.text import first_line

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are read, by Pillow's names. Pillow reads more; an EPS file, for one, is a program for Ghostscript."""
_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .apng .gif .webp .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k .avif"
SUFFIXES = frozenset(_SUFFIXES.split())
"""Files with these suffixes count as images. For any other file, the content decides."""
MOST_PIXELS = int(Image.MAX_IMAGE_PIXELS or 89_478_485)
"""The most pixels of one image. This is Pillow's limit, 256 MiB as RGB; a larger file may be a decompression bomb."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in px of the upright photo."""

_BACKGROUND = 255
"""The background of transparent pixels: white, as on the web pages that such images are made for."""
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_ORIENTATION = 0x0112
_SWAPPED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(FinetuneError):
    """An image that cannot be used; the message has its name and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}; replace or remove it, or give --skip-bad-images to leave such images out")
        self.name, self.reason = name, reason


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turns every exception that Pillow raises for an image into a BadImage called `name`."""
    try:
        yield
    except FinetuneError:
        raise
    except FileNotFoundError:
        raise BadImage(name, "there is no such file (any more), or it is a link to nowhere") from None
    except PermissionError:
        raise BadImage(name, "no permission to read it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(name, f"it claims more than {MOST_PIXELS / 1e6:.0f} million pixels") from None
    except UnidentifiedImageError:
        raise BadImage(name, "it is no image, or of a format that is not read") from None
    # A damaged file may end in any exception of its format's reader.
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, EOFError, struct.error) as error:
        raise BadImage(name, f"it is damaged ({first_line(error, 120)})") from None
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise BadImage(name, f"it is damaged ({type(error).__name__})") from None


def opened(file: Path | bytes, name: str) -> Image.Image:
    """The image with its header read and no pixel decoded. The format follows from the content, not from the name.

    Raises BadImage if the format is not one of FORMATS, or the image has more than MOST_PIXELS.
    """
    with naming(name):
        if not (len(file) if isinstance(file, bytes) else file.stat().st_size):
            raise BadImage(name, "it is empty")
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_formats())
        if image.width * image.height > MOST_PIXELS:
            image.close()
            raise BadImage(
                name, f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS / 1e6:.0f} million"
            )
        return image


@functools.cache
def _formats() -> tuple[str, ...]:
    """The FORMATS that this build of Pillow has."""
    Image.init()
    return tuple(one for one in FORMATS if one in Image.OPEN)


def channels_of(image: Image.Image) -> int:
    """1, 3 or 4: whether an opened image is grey, has colours, or is transparent in parts. A palette has colours."""
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        return 4
    return 1 if image.mode in ("1", "L") or image.mode.startswith("I") else 3


@contextmanager
def silent_warnings() -> Iterator[None]:
    """Inside, Pillow's warnings about unusual EXIF, palettes and sizes are not shown.

    Not for use in worker threads: Python's warning filters belong to the process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in px of the upright photo."""
    width, height = image.size
    return (height, width) if _orientation(image) in _SWAPPED else (width, height)


def centre(image: Image.Image, size: tuple[int, ...], geometry: Geometry = CENTRE, *, draft: bool = True) -> np.ndarray:
    """The part of the image that `geometry` takes, resized to `size` (height, width), or padded.

    The result and `draft` are as in `part`; float32 for a `geometry` with the pixels of another program.
    """
    if geometry.exact:
        pixels = decoded(image, (*size, 3)[2], geometry)
        framed: np.ndarray = np.asarray(resampled(pixels.reshape(1, *pixels.shape[:2], -1), geometry, size[:2]))[0]
        return framed
    top, left, down, across = geometry.region(upright_size(image)[::-1], size[:2])
    inner = geometry.inner((down, across), size[:2])
    pixels = part(image, (left, top, left + across, top + down), (*inner, *size[2:]), draft=draft)
    spare = [(full - used, (full - used) // 2) for full, used in zip(size[:2], inner, strict=True)]
    if not any(rest for rest, _ in spare):
        return pixels
    return np.pad(pixels, [*((before, rest - before) for rest, before in spare), (0, 0)])


def part(image: Image.Image, box: Box, size: tuple[int, ...], *, draft: bool = True) -> np.ndarray:
    """The part of the image in `box`, resized to `size`, (height, width) or (height, width, channels): uint8 of that
    shape, RGB if it does not name the channels.

    Bilinear; where the image shrinks, over all pixels that a new one covers. Each of four channels is resized by
    itself: Pillow would weigh the colours with the fourth, which need not be opacity.

    A JPEG of at least twice the size needed is decoded at a half, a quarter or an eighth of its size, which costs a
    fraction and never enlarges the result. Without `draft` it is decoded in full.
    """
    width, height = upright_size(image)
    spare = int(min((box[2] - box[0]) / size[1], (box[3] - box[1]) / size[0]))
    if draft and spare >= 2 and image.format in ("JPEG", "MPO"):
        image.draft("RGB", (image.width // spare, image.height // spare))
    high, wide, channels = (*size, 3)[:3]
    pixels = converted(_upright(image), channels)
    across, down = pixels.width / width, pixels.height / height
    left, top, right, bottom = box
    # Rounding must not put an edge outside the image.
    scaled = (left * across, top * down, min(right * across, pixels.width), min(bottom * down, pixels.height))
    bands = pixels.split() if channels == 4 else (pixels,)
    resized = [np.asarray(one.resize((wide, high), Image.Resampling.BILINEAR, box=scaled)) for one in bands]
    return np.stack(resized, axis=-1).reshape(high, wide, channels)


def whole(image: Image.Image, channels: int = 3) -> np.ndarray:
    """The whole image, upright and decoded in full: uint8 `[height, width, channels]`, of RGB or RGBA."""
    return np.asarray(converted(_upright(image), channels))


def decoded(image: Image.Image, channels: int, geometry: Geometry) -> np.ndarray:
    """As `whole`, by the decoder that goes with `geometry`: TensorFlow's own default for JPEG, a fast transform, gives
    other pixels than Pillow's accurate one."""
    file = getattr(image, "fp", None)
    if not geometry.exact or image.format != "JPEG" or image.mode != "RGB" or channels != 3 or file is None:
        return whole(image, channels)
    import tensorflow as tf  # here, so that images are read without it

    file.seek(0)
    turn = _TURNS.get(_orientation(image))
    try:
        upright = Image.fromarray(tf.io.decode_jpeg(file.read(), channels=3).numpy())
    except tf.errors.InvalidArgumentError as error:
        raise OSError(first_line(error, 120)) from None
    return np.asarray(upright if turn is None else upright.transpose(turn))


def check(image: Image.Image) -> None:
    """Decode the whole image, as cheaply as its format allows. Raises Pillow's exceptions if the file is damaged."""
    if image.format in ("JPEG", "MPO"):
        image.draft("RGB", (1, 1))
    converted(_upright(image))


def converted(image: Image.Image, channels: int = 3) -> Image.Image:
    """8-bit RGB: grey repeated, palettes looked up, CMYK converted, 16 bits scaled to 8, alpha over white.

    Of 1 channel, Pillow's grey of that (mode L). Of 4 channels, RGBA, opaque where the image has no alpha.

    Of an animation, the first frame. Raises ValueError for pixels without a known range, such as floats in a TIFF.
    """
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "F":
        raise ValueError("its pixels are floats of an unknown range; expected 8 or 16 bits")
    if channels_of(image) == 4:
        image = image.convert("RGBA")
        if channels == 4:
            return image
        image = Image.alpha_composite(Image.new("RGBA", image.size, (_BACKGROUND,) * 3), image)
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image if channels == 3 else image.convert("L" if channels == 1 else "RGBA")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits to 8 bits, white being 65535; Pillow itself would clip the values at 255."""
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ValueError("its pixels have 32 bits; expected 8 or 16")
    return Image.fromarray(bit_depth.eight_bits(values, bit_depth.WIDEST))


def _orientation(image: Image.Image) -> int:
    # Pillow turns a TIFF itself. In a PNG, it would decode all pixels to look for EXIF after them.
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    # Many programs write wrong EXIF data: a photo is not rejected for that.
    except Exception:
        return 1


def _upright(image: Image.Image) -> Image.Image:
    """The photo decoded and turned, in 8 bits by `image.info["white"]` if it is a PNG or TIFF of more.

    ImageOps.exif_transpose would also write the EXIF data again, which may fail.
    """
    turn = _TURNS.get(_orientation(image))
    if bit_depth.is_wide(image):
        white = image.info.get("white")  # may also be a text in the file
        image = bit_depth.narrowed(image, white if isinstance(white, int) else bit_depth.WIDEST)
    else:
        image.load()
    return image if turn is None else image.transpose(turn)
