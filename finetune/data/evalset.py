"""Labelled images and the form in which a network takes them. Every measurement takes its batches from here."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.data import pipeline
from finetune.data.dataset import Split


@dataclass(frozen=True, eq=False)
class EvalSet:
    """A split with a batch size, an image size in px and a preprocessing (anything with `name` and `apply`)."""

    split: Split
    batch_size: int
    image_size: int
    preprocessing: Any

    def __len__(self) -> int:
        return len(self.split)

    def batches(self) -> pipeline.Batches:
        """(preprocessed images, labels, counted) in the split's order; every image counts once, every batch is full."""
        return pipeline.eval_batches(
            self.split, batch_size=self.batch_size, image_size=self.image_size, preprocessing=self.preprocessing
        )

    def through(self, preprocessing: Any) -> "EvalSet":
        """The same images with another preprocessing."""
        return replace(self, preprocessing=preprocessing)

    def at(self, batch_size: int) -> "EvalSet":
        """The same images in batches of another size."""
        return replace(self, batch_size=batch_size)

    def some(self, images: int) -> "EvalSet":
        """At most `images` of them, evenly spread over the split and in its order."""
        if images >= len(self):
            return self
        chosen = np.linspace(0, len(self) - 1, images).round().astype(np.int64)
        return replace(self, split=self.split.take(chosen))

    def shuffled(self, seed: int = 0) -> "EvalSet":
        """The same images in random order."""
        return replace(self, split=self.split.take(np.random.default_rng(seed).permutation(len(self))))

    def grouped(self) -> "EvalSet":
        """The same images sorted by class."""
        return replace(self, split=self.split.take(np.argsort(self.split.labels, kind="stable")))
