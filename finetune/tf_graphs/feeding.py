"""Images laid as a graph takes them, in batches of the size it takes."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from finetune.errors import FinetuneError
from finetune.tf_graphs.program.roles import Input

_Measured = TypeVar("_Measured")
_SIZES = (32, 64, 96, 224, 299)
"""Pixels to try a network with that takes images of any size."""
_COUNT = 8


class Feeding:
    """What goes into a graph called `name` and what comes out of it, for batches of any size."""

    def __init__(self, name: str, images: Input) -> None:
        self._name, self._images = name, images
        self._dtype = tf.as_dtype(images.dtype)

    @property
    def batch_size(self) -> int | None:
        """The number of images the graph takes at once, None where it takes any."""
        return self._images.batch_size

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels, None where the graph takes any."""
        return self._images.size

    @property
    def pixels(self) -> bool:
        """Whether it takes whole numbers."""
        return bool(self._dtype.is_integer)

    def example(self, run: Callable[[np.ndarray], Any]) -> np.ndarray:
        """Noise that `run` takes, float32 `[batch, height, width, 3]`. FinetuneError where it takes none."""
        sizes = [self.size] if self.size else [(side, side) for side in _SIZES]
        for size in sizes:
            noise = np.random.default_rng(0).normal(size=(self.batch_size or _COUNT, *size, 3))
            images = (np.clip(noise * 60 + 120, 0, 255) if self._dtype.is_integer else noise).astype(np.float32)
            try:
                run(self.laid(images))
            except FinetuneError:
                if size == sizes[-1]:
                    raise
            else:
                break
        return images

    def require_whole(self, count: int) -> None:
        """FinetuneError where a batch of `count` images would have to be filled up."""
        if self.batch_size and count % self.batch_size:
            raise FinetuneError(
                f"{self._name} takes exactly {self.batch_size} images at once, and statistics of a batch filled up "
                f"would be wrong: it was given {count}; give at least {self.batch_size} images, in batches of that size"
            )

    def in_parts(
        self, images: Any, run: Callable[[np.ndarray], tuple[np.ndarray, _Measured]]
    ) -> tuple[np.ndarray, list[_Measured]]:
        """Run batches of the size the graph takes; what fills up the last one is left out of the logits."""
        images = np.asarray(images)
        size = self.batch_size or len(images)
        logits, moments = [], []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            filled = part if len(part) == size else part[np.arange(size) % len(part)]
            values, measured = run(self.laid(filled))
            logits.append(self._two_axes(values, size)[: len(part)])
            moments.append(measured)
        return np.concatenate(logits), moments

    def _two_axes(self, logits: np.ndarray, count: int) -> np.ndarray:
        """Logits `[batch, outputs]`, where a network of convolutions gives `[batch, 1, 1, outputs]` as well."""
        if logits.ndim > 2 and logits.size == count * logits.shape[-1]:
            logits = logits.reshape(count, -1)
        if logits.ndim != 2 or len(logits) != count:
            raise FinetuneError(
                f"the logits of {self._name} have the shape {list(logits.shape)} for {count} images: expected "
                "[batch, classes]; name others by --logits"
            )
        return logits

    def laid(self, images: np.ndarray) -> np.ndarray:
        """`[batch, height, width, 3]` as the graph takes them."""
        size, layout = self.size, self._images.layout
        if size is not None and images.shape[1:3] != size:
            raise FinetuneError(
                f"{self._name} takes images of {size[0]} x {size[1]} px, but was given {images.shape[1]} x "
                f"{images.shape[2]} px: resize them with --image-size {size[0]}"
            )
        if layout.endswith("nchw"):
            images = np.transpose(images, (0, 3, 1, 2))
        if layout.startswith("flat"):
            images = images.reshape(len(images), -1)
        dtype = self._dtype
        if dtype.is_integer:
            images = np.rint(images)
            low, high = float(images.min()), float(images.max())
            if low < dtype.min or high > dtype.max:
                raise FinetuneError(
                    f"{self._name} takes {dtype.name} pixels, but was given values from {low:g} to {high:g}: it "
                    "prepares images itself, so give --preprocess raw"
                )
        return np.ascontiguousarray(images, dtype.as_numpy_dtype)
