"""Heat maps over images: pictures as files, and small ones for a page."""

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from checkpoints.atomic import working_folder
from finetune.errors import FinetuneError, WrongUse
from finetune.files import read_arrays, room_for, write_arrays
from finetune.reporting.pictures import SIDE, jpeg_uri, photo_of
from finetune.text import printable

KEPT = "heat_maps.npz"
"""A run's heat maps of its most confident mistakes, made for a report."""
_COLOURS = "inferno"
"""Dark to bright in equal perceived steps, also for the colour-blind and in print; black where there is nothing."""
_OPAQUE = 0.75
"""How much of the photo the hottest place hides."""
_SMALLEST, _LARGEST = 224, 448
"""Sides of a picture's photo, in px: smaller ones are enlarged by a whole number, larger ones shrunk."""
_GAP, _LINE = 6, 19
_QUALITY = 90


def overlaid(photo: Image.Image, heat: np.ndarray) -> Image.Image:
    """`photo` in grey with a heat map over it, the larger the value, the brighter and the more opaque the colour.

    heat: float `[height, width]`, 0 or more, of any size; its largest value is the brightest colour. It is enlarged
    bicubically. Grey, because the colours of a photo are easily taken for those of the map.
    """
    grey = np.asarray(photo.convert("L"), np.float32)[..., None]
    peak = float(heat.max())
    scaled = np.asarray(heat, np.float32) / peak if peak > 0 else np.zeros_like(heat, np.float32)
    smooth = Image.fromarray(scaled).resize(photo.size, Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(smooth, np.float32), 0, 1)
    opacity = _OPAQUE * np.sqrt(share)[..., None]
    colours = 255 * colormaps[_COLOURS](share)[..., :3]
    return Image.fromarray((grey * (1 - opacity) + colours * opacity).round().astype(np.uint8))


def picture(pixels: np.ndarray, heat: np.ndarray, lines: tuple[str, ...]) -> Image.Image:
    """The photo, beside it the photo under its heat map, and `lines` of text below."""
    photo = photo_of(pixels)
    longest = max(photo.size)
    if longest > _LARGEST:
        photo.thumbnail((_LARGEST, _LARGEST))
    elif longest < _SMALLEST:
        times = -(-_SMALLEST // longest)
        photo = photo.resize((photo.width * times, photo.height * times), Image.Resampling.NEAREST)
    page = Image.new("RGB", (2 * photo.width + _GAP, photo.height + _LINE * len(lines) + _GAP // 2), "white")
    page.paste(photo, (0, 0))
    page.paste(overlaid(photo, heat), (photo.width + _GAP, 0))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for number, line in enumerate(lines):
        text = printable(line)
        while len(text) > 1 and pen.textlength(text, font=font) > page.width - 4:
            text = text[:-2] + "…"
        pen.text((2, photo.height + 2 + number * _LINE), text, fill="black", font=font)
    return page


def data_uri_of(pixels: np.ndarray, heat: np.ndarray) -> str:
    """The photo under its heat map as a small JPEG inside a page."""
    photo = photo_of(pixels)
    times = max(SIDE // max(photo.size), 1)
    photo = photo.resize((photo.width * times, photo.height * times), Image.Resampling.NEAREST)
    photo.thumbnail((SIDE, SIDE))
    return jpeg_uri(overlaid(photo, heat))


@dataclass(frozen=True, eq=False)
class HeatMaps:
    """Heat maps of some test images of a run. images: their positions, int64 `[n]`; classes: which class each map is
    of, int64 `[n]`; maps: float32 `[n, height, width]` of the size of `layer`."""

    images: np.ndarray
    classes: np.ndarray
    layer: str
    maps: np.ndarray


def save_heat_maps(run: Path, found: HeatMaps) -> None:
    """Keep them in the run's directory, where it can be written."""
    arrays = {"images": found.images, "classes": found.classes, "layer": np.array(found.layer), "maps": found.maps}
    try:
        write_arrays(run / KEPT, arrays)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def read_heat_maps(run: Path, images: np.ndarray, classes: np.ndarray) -> HeatMaps | None:
    """The kept heat maps of these test images and classes; None where one of them is not there, or the file is
    damaged: they are then made again."""
    try:
        kept = read_arrays(run / KEPT, advice="delete it")
        pairs = zip(kept["images"].tolist(), kept["classes"].tolist(), strict=True)
        place = {pair: row for row, pair in enumerate(pairs)}
        rows = [place[pair] for pair in zip(images.tolist(), classes.tolist(), strict=True)]
        layer, maps = str(kept["layer"]), np.asarray(kept["maps"][rows], np.float32)
    except (FileNotFoundError, FinetuneError, KeyError, ValueError, IndexError, TypeError):
        return None
    return HeatMaps(images, classes, layer, maps) if maps.ndim == 3 and np.isfinite(maps).all() else None


def check_folder(folder: Path, option: str) -> None:
    """WrongUse where there is already something at `folder`. Call it before the images are classified."""
    if folder.exists() or folder.is_symlink():
        raise WrongUse(f"{option} {folder} is already there and nothing is overwritten: give the name of a new folder")


class Shown(Protocol):
    """What a picture shows."""

    @property
    def image(self) -> str:
        """What the picture is named after."""

    @property
    def pixels(self) -> np.ndarray:
        """uint8 `[height, width, channels]`."""

    @property
    def heat(self) -> np.ndarray:
        """float `[height, width]`, 0 or more."""

    @property
    def lines(self) -> tuple[str, ...]:
        """Text below it."""


def write_pictures(folder: Path, shown: Iterable[Shown]) -> tuple[Path, ...]:
    """Write a JPEG for each into a new `folder`; the files in their order.

    A file is named after its image, with a number where several have the same name. The folder appears when all of them
    are written.
    """
    names: list[str] = []
    used: set[str] = set()
    with room_for(folder), working_folder(folder.absolute().parent, f".{folder.name}.tmp.") as stage:
        made = stage / "pictures"
        made.mkdir()
        for one in shown:
            stem = printable(Path(one.image).stem).replace("/", "_").replace("\\", "_").lstrip(".")[:100] or "image"
            free, number = stem, 1
            while free.lower() in used:
                number += 1
                free = f"{stem}-{number}"
            used.add(free.lower())
            names.append(f"{free}.jpg")
            picture(one.pixels, one.heat, one.lines).save(made / names[-1], format="JPEG", quality=_QUALITY)
        made.rename(folder)
    return tuple(folder / name for name in names)
