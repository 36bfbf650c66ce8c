"""Small photos, written for the tests: each one colour by its class, with a darker left half to tell its sides."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("lion", "newt", "wasp")
COLOURS = ((220, 30, 30), (30, 200, 30), (40, 60, 230))


def photo(label: int, width: int = 48, height: int = 36, seed: int = 0) -> Image.Image:
    pixels = np.empty((height, width, 3), np.int64)
    pixels[:] = COLOURS[label]
    pixels[:, : width // 2] //= 2
    pixels += np.random.default_rng(seed).integers(-15, 16, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_class_folders(place: Path, each: int = 4, classes=CLASSES, seed: int = 0) -> Path:
    for label, name in enumerate(classes):
        (place / name).mkdir(parents=True)
        for number in range(each):
            image = photo(label, 40 + 4 * (number % 4), 36, seed=seed + 100 * label + number)
            (place / name / f"{number:03d}.jpg").write_bytes(encoded(image))
    return place


def write_splits(place: Path, **each: int) -> Path:
    for seed, (split, count) in enumerate(each.items()):
        write_class_folders(place / split, count, seed=1_000 * seed)
    return place
