"""Which part of an image a network gets when it is evaluated, and how that part comes to the network's size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from finetune.config import ResizeMode, RunConfig


@dataclass(frozen=True)
class Geometry:
    """How an image of any shape becomes one of the network's.

    mode: `crop` takes the largest centre part of the network's aspect ratio; `squash` the whole image, stretched to
    that ratio; `pad` the whole image in its own ratio, black around it. fraction: the share of each side of that part
    that is kept, around its centre, in (0, 1]. sampler: `area` averages over all pixels that a new one covers, in 8
    bits; `slim` and `keras` compute float32 pixels as those do (`resampled`).
    """

    mode: ResizeMode = "crop"
    fraction: float = 1.0
    sampler: Literal["area", "slim", "keras"] = "area"

    @property
    def exact(self) -> bool:
        """Whether pixels are those of another program, float32."""
        return self.sampler != "area"

    def region(self, image: Sequence[int], size: Sequence[int]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the part of an `image` (height, width) that a network of `size` gets."""
        (height, width), (high, wide) = image, size
        if self.mode == "crop":
            # Whole pixels: half a pixel would blur a photo that is not resized at all.
            height, width = min(height, width * high // wide), min(width, height * wide // high)
        down, across = (max(round(side * self.fraction), 1) for side in (height, width))
        return (image[0] - down) // 2, (image[1] - across) // 2, down, across

    def inner(self, part: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
        """(height, width) that a `part` (height, width) takes within `size`; what is left is padded, half on each
        side."""
        (down, across), (high, wide) = part, size
        if self.mode != "pad":
            return high, wide
        scale = min(high / down, wide / across)
        return min(max(round(down * scale), 1), high), min(max(round(across * scale), 1), wide)

    def cut(self, images: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """The part of `images` `[n, height, width, channels]` that becomes `size`, padded but not yet resized."""
        (top, left, down, across), (high, wide) = self.region(images.shape[1:3], size), size
        part = images[:, top : top + down, left : left + across]
        missing = max(across * high // wide - down, 0), max(down * wide // high - across, 0)
        if self.mode != "pad" or not any(missing):
            return part
        return np.pad(part, [(0, 0), *((one // 2, one - one // 2) for one in missing), (0, 0)])


CENTRE = Geometry()
"""The whole centre part, every pixel of it: the default."""


def geometry_of(config: RunConfig) -> Geometry:
    """What `config` asks for; a published recipe must have been looked up (`finetune.runs.request.with_recipe`)."""
    sampler: dict[str, Any] = {"plain": "area", "published": "slim", "keras": "keras"}
    return Geometry(config.resize_mode or "crop", config.crop_fraction or 1.0, sampler[config.eval_recipe])


def resampled(images: Any, geometry: Geometry, size: Sequence[int]) -> Any:
    """Whole images `[batch, height, width, channels]` as another program makes them: float32 of the `size` (height,
    width), in [0, 255].

    Neither averages where an image shrinks: a new pixel is made of two old ones in each direction, whatever the scale,
    so photos look grainy.

    - keras: `keras.utils.image_dataset_from_directory`, whose `crop_to_aspect_ratio` and `pad_to_aspect_ratio` are the
      modes crop and pad.
    - slim, squash: the centre `fraction` of each side, stretched (research/slim/preprocessing/
      inception_preprocessing.py of tensorflow/models). TensorFlow 1 lays the corners of the first pixels upon each
      other, not the centres of the images.
    - slim, crop: the short side is resized to the network's longer side / `fraction`, and the centre is cut out
      (vgg_preprocessing.py beside it).
    """
    import tensorflow as tf  # here, so that the rest is read without it

    def resized(pixels: Any, sides: Sequence[int]) -> Any:
        return tf.raw_ops.ResizeBilinear(images=pixels, size=sides, align_corners=False, half_pixel_centers=False)

    pixels, (high, wide) = tf.cast(images, tf.float32), size
    if geometry.sampler == "keras":
        top, left, down, across = geometry.region(pixels.shape[1:3], size)
        part = pixels[:, top : top + down, left : left + across]
        return tf.image.resize_with_pad(part, *size) if geometry.mode == "pad" else tf.image.resize(part, size)
    if geometry.mode == "squash":
        return resized(tf.image.central_crop(pixels, geometry.fraction), size)
    height, width = slim_sides(pixels.shape[1:3], geometry, size)
    top, left = (height - high) // 2, (width - wide) // 2
    return resized(pixels, (height, width))[:, top : top + high, left : left + wide]


def slim_sides(image: Sequence[int], geometry: Geometry, size: Sequence[int]) -> tuple[int, int]:
    """(height, width) to which slim's vgg_preprocessing resizes an `image` (height, width) before it cuts the centre
    out."""
    shortest = np.float32(round(max(size) / geometry.fraction))
    scale = shortest / np.float32(min(image))  # in float32, as slim computes it
    height, width = (int(np.rint(np.float32(side) * scale)) for side in image)
    return height, width
