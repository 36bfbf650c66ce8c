"""A sheet of labelled images: one PNG, or a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from finetune.data import decoding
from finetune.files import write_text
from finetune.reporting.pictures import data_uri
from finetune.reporting.rendering import render
from finetune.text import printable

_COLUMNS = 8
_LARGEST, _SMALLEST = 224, 64
"""px. Larger images are brought to the first side; smaller ones are enlarged by a whole number."""
_CAPTION = 14
"""px below an image, for its label."""


def write_sheet(path: Path, images: np.ndarray, labels: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Write uint8 images `[n, height, width, channels]` to `path`, a `.png` or an `.html` page with the `facts`.

    The file is written whole or not at all.
    """
    if path.suffix.lower() == ".html":
        pictures = [data_uri(one, photo=False) for one in images]
        write_text(path, render("preview.html", pictures=pictures, labels=list(map(printable, labels)), facts=facts))
        return
    from checkpoints.atomic import replacing

    with replacing(path) as temporary:
        sheet(images, labels).save(temporary, format="PNG", optimize=True)


def sheet(images: np.ndarray, labels: Sequence[str]) -> Image.Image:
    """The images in rows of eight, each with its label below it, cut off where it is too long."""
    tiles = [_tile(one) for one in images]
    width, height = tiles[0].size
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * (width + 4), rows * (height + _CAPTION + 4)), "white")
    pen = ImageDraw.Draw(page)
    for at, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        left, top = at % columns * (width + 4), at // columns * (height + _CAPTION + 4)
        text = printable(label)
        while len(text) > 1 and pen.textlength(text) > width:
            text = text[:-1]
        pen.text((left, top + height), text, fill="black")
        page.paste(tile, (left, top))
    return page


def _tile(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    image = decoding.converted(image)
    longest = max(image.size)
    if longest > _LARGEST:
        scale = _LARGEST / longest
        return image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    times = max(_SMALLEST // longest, 1)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
