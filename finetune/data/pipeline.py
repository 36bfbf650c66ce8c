"""Batches for training and for evaluation.

Images stay uint8 in the split until they are in a batch; only the batch is enlarged and made float32. A batch is a
pure function of the split and (seed, epoch, batch number), whatever the number of threads.
"""

import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from finetune.data.augmentation import Augmentation
from finetune.data.dataset import Split
from finetune.data.preprocessing import Preprocessing
from finetune.errors import WrongUse

_AHEAD = 2
"""Batches made ready while the model is busy."""


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Batches of an epoch of training: whole ones only, but one where `examples` is less than `batch_size`."""
    return max(examples // batch_size, 1)


def train_batches(
    split: Split,
    *,
    batch_size: int,
    image_size: int,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    start_batch: int = 0,
) -> tf.data.Dataset:
    """One epoch from batch number `start_batch` on: (float32 `[batch, image_size, image_size, 3]`, int64 `[batch]`).

    Every epoch has its own order; its `len(split) % batch_size` last images are left out, so that all batches are of
    one size. A split smaller than that is one batch. Starting later gives exactly the batches that were left.
    Raises WrongUse where the crop padding is not smaller than the images.
    """
    side = min(split.images.shape[1:3])
    if augmentation.crop_padding >= side:
        raise WrongUse(
            f"--crop-padding {augmentation.crop_padding} is too much for images of {side} px: "
            f"expected 0 to {side - 1}; {side // 8} is usual"
        )
    size = min(batch_size, len(split))
    order = np.random.default_rng([seed, epoch]).permutation(len(split))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for batch in range(start_batch, steps_per_epoch(len(split), batch_size)):
            chosen = order[batch * size : (batch + 1) * size]
            draw = np.random.SeedSequence([seed, epoch, batch]).generate_state(2).astype(np.int32)
            yield split.images[chosen], split.labels[chosen], draw

    def prepare(images: tf.Tensor, labels: tf.Tensor, draw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _prepared(augmentation.augment(images, draw), image_size, preprocessing), labels

    source = tf.data.Dataset.from_generator(
        batches, output_signature=(*_signature(split, size), tf.TensorSpec([2], tf.int32))
    )
    return _ahead(source, prepare)


def eval_batches(
    split: Split, *, batch_size: int, image_size: int, preprocessing: Preprocessing
) -> tf.data.Dataset:
    """Every image once, in the split's order: (images as in training, int64 labels, bool `[batch]` counted).

    Every batch is full, so that batch statistics are always taken over `batch_size` images: the last one is filled
    up at its front with the images before it, whose `counted` is False. A split smaller than a batch is one batch.
    """
    size = min(batch_size, len(split))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for start in range(0, len(split), size):
            begin = min(start, len(split) - size)
            images, labels = split.images[begin : begin + size], split.labels[begin : begin + size]
            yield images, labels, np.arange(begin, begin + size) >= start

    def prepare(images: tf.Tensor, labels: tf.Tensor, counted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return _prepared(images, image_size, preprocessing), labels, counted

    source = tf.data.Dataset.from_generator(
        batches, output_signature=(*_signature(split, size), tf.TensorSpec([size], tf.bool))
    )
    return _ahead(source, prepare)


def _signature(split: Split, size: int) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    return tf.TensorSpec([size, *split.images.shape[1:]], tf.uint8), tf.TensorSpec([size], tf.int64)


def _prepared(images: tf.Tensor, image_size: int, preprocessing: Preprocessing) -> tf.Tensor:
    """uint8 `[batch, height, width, 3]` to the network's input, resized bilinearly where the size differs."""
    height, width = images.shape[1:3]
    if (height, width) == (image_size, image_size):
        return preprocessing.apply(images)
    size, shrinking = (image_size, image_size), image_size < max(height, width)
    # The two steps commute but for float rounding, so the cheap one goes where there are fewer pixels: three times
    # the images a second from 32 to 96 px (benchmark of 20,000 images on one core, 16,000 against 5,000).
    if height * width < image_size * image_size:
        return tf.image.resize(preprocessing.apply(images), size, antialias=shrinking)
    return preprocessing.apply(tf.image.resize(images, size, antialias=shrinking))


def _ahead(source: tf.data.Dataset, prepare: object) -> tf.data.Dataset:
    """`prepare` over `source`, in its order, on a few threads, ahead of whoever asks."""
    options = tf.data.Options()
    # tf.data's own tuning and graph rewriting take 150 ms an epoch and have nothing to choose here.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    threads = min(4, os.cpu_count() or 1)
    return source.map(prepare, num_parallel_calls=threads, deterministic=True).prefetch(_AHEAD).with_options(options)
