"""Encoded images to pixels: whatever a photo's format, colours and orientation, RGB of the size that is asked for."""

import functools
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from finetune.errors import FinetuneError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is read, as Pillow calls it. Not all that Pillow reads: EPS, for one, is a program that Ghostscript runs."""
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
    )
)
"""Files of these names are meant to be images; in any other file the content decides whether it is one."""
MOST_PIXELS = int(Image.MAX_IMAGE_PIXELS or 89_478_485)
"""Of one image. Pillow's limit, 256 MiB as RGB: beyond it a file is taken for a decompression bomb."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in px of the upright photo."""

_BACKGROUND = 255
"""What shows through transparent pixels: white, as on the pages such images are made for."""
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
    """An image that cannot be used; the message names it and says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}; replace or remove it, or give --skip-bad-images to leave such images out")
        self.name, self.reason = name, reason


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Whatever an image makes Pillow raise becomes a BadImage called `name`."""
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
        raise BadImage(name, "it is no image, or of a kind that is not read") from None
    # A damaged file ends in whatever exception its format's reader happens to raise.
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, EOFError, struct.error) as error:
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        raise BadImage(name, f"it is damaged ({reason})") from None
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise BadImage(name, f"it is damaged ({type(error).__name__})") from None


def opened(file: Path | bytes, name: str) -> Image.Image:
    """The image with its header read and no pixel decoded. The content decides what it is, not the name.

    Raises BadImage where it is none of FORMATS, or has more than MOST_PIXELS.
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
    """FORMATS, but for those this Pillow was built without."""
    Image.init()
    return tuple(one for one in FORMATS if one in Image.OPEN)


@contextmanager
def silent_warnings() -> Iterator[None]:
    """Inside, Pillow keeps what it has to say about odd EXIF, palettes and sizes to itself. Not for worker threads:
    Python's filters belong to the process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in px as the photo is to be looked at."""
    width, height = image.size
    return (height, width) if _orientation(image) in _SWAPPED else (width, height)


def square(image: Image.Image, side: int, *, draft: bool = True) -> np.ndarray:
    """The centre square, as large as the photo has one, at `side` px: uint8 `[side, side, 3]`; `draft` as in `part`."""
    return centre(image, (side, side), draft=draft)


def centre(image: Image.Image, size: tuple[int, int], *, draft: bool = True) -> np.ndarray:
    """The largest centre part of the shape of `size` (height, width), at that size: uint8 `[height, width, 3]`."""
    high, wide = size
    width, height = upright_size(image)
    # Whole pixels: half of one would blur a photo that is not resized at all.
    across, down = max(min(width, height * wide // high), 1), max(min(height, width * high // wide), 1)
    left, top = (width - across) // 2, (height - down) // 2
    return _resized(image, (left, top, left + across, top + down), size, draft=draft)


def part(image: Image.Image, box: Box, side: int) -> np.ndarray:
    """What lies in `box`, resized to uint8 `[side, side, 3]` as `square` does it."""
    return _resized(image, box, (side, side), draft=True)


def _resized(image: Image.Image, box: Box, size: tuple[int, int], *, draft: bool) -> np.ndarray:
    """What lies in `box`, resized to uint8 `[height, width, 3]`.

    Bilinear, over all pixels that a new one covers where the image shrinks. A JPEG of twice the size needed or more
    is decoded at a half, a quarter or an eighth, which costs a fraction; what is asked for is never enlarged for it.
    Without `draft` it is decoded in full.
    """
    width, height = upright_size(image)
    spare = int(min((box[2] - box[0]) / size[1], (box[3] - box[1]) / size[0]))
    if draft and spare >= 2 and image.format in ("JPEG", "MPO"):
        image.draft("RGB", (image.width // spare, image.height // spare))
    rgb = to_rgb(_upright(image))
    across, down = rgb.width / width, rgb.height / height
    left, top, right, bottom = box
    # Rounding must not put an edge a hair outside.
    scaled = (left * across, top * down, min(right * across, rgb.width), min(bottom * down, rgb.height))
    return np.asarray(rgb.resize(size[::-1], Image.Resampling.BILINEAR, box=scaled))


def whole(image: Image.Image) -> np.ndarray:
    """All of it, upright and decoded in full: uint8 `[height, width, 3]`."""
    return np.asarray(to_rgb(_upright(image)))


def check(image: Image.Image) -> None:
    """Decode all of it, as cheaply as its format allows; raises what a damaged file makes Pillow raise."""
    if image.format in ("JPEG", "MPO"):
        image.draft("RGB", (1, 1))
    to_rgb(_upright(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: grey three times, palettes looked up, CMYK converted, 16 bits as their upper 8, alpha over white.

    The first frame of an animation. Raises ValueError for pixels without a range, as floats in a TIFF.
    """
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose range nobody knows; expected 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (_BACKGROUND,) * 3)
        return Image.alpha_composite(ground, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, which Pillow would clip at 255."""
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ValueError("its pixels have 32 bits; expected 8 or 16")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    # Pillow turns a TIFF itself; and it decodes all of a PNG to look for EXIF behind the pixels.
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    # EXIF is an appendix that many programs write wrongly: a photo is not refused for it.
    except Exception:
        return 1


def _upright(image: Image.Image) -> Image.Image:
    """The photo decoded and turned. Not ImageOps.exif_transpose, which also writes the EXIF anew and may fail at it."""
    turn = _TURNS.get(_orientation(image))
    image.load()
    return image if turn is None else image.transpose(turn)
