"""Test-time augmentation: the views of an image whose probabilities are averaged."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from finetune.batchnorm.subject import Runnable
from finetune.config import TTA
from finetune.data.batches import EvalSet
from finetune.data.preprocessing import find_preprocessing
from finetune.evaluation.evaluator import Averaged, mirrored
from finetune.text import ImageShape, shape_of

SHARE = 224 / 256
"""Share of each side that a crop has of the image, as in Krizhevsky et al. 2012: 224 px of 256 px."""


def with_views(subject: Runnable, images: EvalSet, kind: str) -> tuple[Averaged, EvalSet]:
    """What scores `images` with the test-time augmentation `kind` of `config.TTA`, and what it is to be given.

    flip: the image and its mirror image. five-crop: the centre and the four corners of a larger image, each of the
    network's size. ten-crop: these and their mirror images (Krizhevsky et al. 2012, section 4.1). The larger image is
    the part that evaluation takes without `--crop-fraction`, its sides those of the network / `--crop-fraction`, or
    / 0.875 where that is 1. Crops are cut out before the preprocessing.
    """
    if kind == "flip":
        return Averaged(subject, mirrored), images
    if kind not in TTA:
        raise ValueError(f"no such test-time augmentation: {kind!r}")
    size = shape_of(images.image_size)
    share = images.geometry.fraction if images.geometry.fraction < 1 else SHARE
    larger = size._replace(height=round(size.height / share), width=round(size.width / share))

    def views(pixels: Any) -> Sequence[Any]:
        try:
            prepared = [images.preprocessing.apply(one) for one in crops(pixels, size)]
        except tf.errors.OpError:
            # The exception of a custom preprocessing is passed on as text only: the exception itself was recorded.
            if failures := getattr(images.preprocessing, "failures", ()):
                raise failures[0] from None
            raise
        return prepared if kind == "five-crop" else [each for one in prepared for each in mirrored(one)]

    whole = replace(images.geometry, fraction=1.0)
    raw = find_preprocessing("raw")
    return Averaged(subject, views), replace(images, image_size=larger.setting, preprocessing=raw, geometry=whole)


def crops(images: Any, size: ImageShape) -> list[Any]:
    """Centre, top left, top right, bottom left and bottom right of `images` `[batch, height, width, channels]`, each of
    the height and width of `size`. The centre begins at half of what is left over, rounded down."""
    down, across = images.shape[1] - size.height, images.shape[2] - size.width
    corners = [(top, left) for top in (0, down) for left in (0, across)]
    return [
        images[:, top : top + size.height, left : left + size.width]
        for top, left in ((down // 2, across // 2), *corners)
    ]
