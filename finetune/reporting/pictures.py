"""Images inside a page."""

import base64
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from finetune.data import decoding

SIDE = 128
"""Largest side of a shown photo, in px. Images in memory are shown at their own size."""


def photo_of(pixels: np.ndarray) -> Image.Image:
    """uint8 `[height, width, 1, 3 or 4]` as an RGB image."""
    return decoding.converted(Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)))


def data_uri(pixels: np.ndarray, *, photo: bool) -> str:
    """Of uint8 `[height, width, 3]`: PNG, which is exact, for small images, JPEG for photos."""
    image = photo_of(pixels)
    if photo or max(pixels.shape) > SIDE:
        image.thumbnail((SIDE, SIDE))
        return jpeg_uri(image)
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return _uri("png", out)


def jpeg_uri(image: Image.Image) -> str:
    """An image of its own size."""
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=85)
    return _uri("jpeg", out)


def _uri(kind: str, content: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def as_seen(fed: Mapping[str, np.ndarray], expected: str) -> dict[str, list[str]]:
    """The pictures of images as a network gets them under several preprocessings, each by its name.

    fed: name -> float `[images, height, width, channels]`. Black and white are the range that the preprocessing
    `expected` gives these images, so that pixels on another scale show as too dark, too bright or without contrast.
    A fourth channel is not shown: prepared, it is no opacity any more.
    """
    fed = {name: images[..., :3] for name, images in fed.items()}
    low, high = (float(value) for value in np.percentile(fed[expected], (0.5, 99.5)))
    pictures = {}
    for name, images in fed.items():
        scaled = np.clip((images - low) / max(high - low, 1e-9), 0, 1) * 255
        pictures[name] = [data_uri(one.round().astype(np.uint8), photo=False) for one in np.nan_to_num(scaled)]
    return pictures
