"""Batches for training and for evaluation.

Images stay uint8 in the split. Only the images of a batch are resized and converted to float32. A batch is a pure
function of the split and (seed, epoch, batch number), whatever the number of threads.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.data.augmentation import Augmentation
from finetune.data.balance import balanced_order, repeats
from finetune.data.channels import in_channels
from finetune.data.dataset import WHOLE, Share, Split
from finetune.data.geometry import CENTRE, Geometry, resampled
from finetune.data.lazy import random_crops
from finetune.data.preprocessing import AnyPreprocessing, CustomPreprocessing, PerImage, recording
from finetune.errors import FinetuneError, WrongUse
from finetune.process import cores
from finetune.text import ImageSize, shape_of

_AT_ONCE = 2
"""Up to so many evaluation batches are made without a tf.data pipeline, which takes some 20 ms to set up."""
_AHEAD = 2
"""Number of batches that are prepared while the model is busy."""


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Batches in an epoch of training: full batches only, or one if `examples` is less than `batch_size`."""
    return max(examples // batch_size, 1)


def parts_per_step(examples: int, batch_size: int, microbatch: int | None) -> int:
    """Number of parts in which a training batch passes through the network."""
    return -(-min(examples, batch_size) // microbatch) if microbatch else 1


@dataclass(frozen=True)
class Epoch:
    """One epoch of training, from batch number `start_batch` on.

    The order of the images and the random numbers of their augmentation are a function of (seed, number). balanced:
    every class comes equally often, as in `balance.balanced_order`; else every image once.
    """

    seed: int
    number: int
    augmentation: Augmentation
    start_batch: int = 0
    balanced: bool = False

    def order(self, labels: np.ndarray) -> np.ndarray:
        """The numbers of the images with these labels, int64 `[examples]`, in the order of this epoch."""
        if self.balanced:
            return balanced_order(labels, seed=self.seed, epoch=self.number)
        return epoch_order(len(labels), seed=self.seed, epoch=self.number)


def train_batches(
    split: Split,
    epoch: Epoch,
    *,
    batch_size: int,
    image_size: ImageSize,
    preprocessing: AnyPreprocessing,
    geometry: Geometry = CENTRE,
    share: Share = WHOLE,
) -> "Batches":
    """The batches of an epoch: (float32 images of `image_size`, int64 `[batch]`), or uint8 `[batch, labels]`.

    If the augmentation mixes images, the labels are each class's share, float32 `[batch, classes]`.

    Every epoch has its own order (`Epoch.order`). Its `len(split) % batch_size` last images are left out, so that all
    batches have the same size. A smaller split is one batch. A later `start_batch` gives exactly the remaining batches.
    Photos are decoded at `image_size`; other images keep their size until they are in the batch. Random crops are taken
    from the photo, and depend only on (seed, epoch, the image's number in the split, how often it came before). `share`
    is this worker's part of every batch; the parts of all workers together are the batch of a single worker. Raises
    WrongUse if the crop padding is not smaller than the images.
    """
    augmentation, seed = epoch.augmentation, epoch.seed
    split = split.at(image_size, CENTRE if augmentation.resized_crop else geometry)
    check_augmentation(split, augmentation)
    size = min(batch_size, len(split))
    # A data set has training images of every class.
    classes = split.labels.shape[1] if split.labels.ndim == 2 else int(split.labels.max()) + 1
    order = epoch.order(split.labels)
    again = repeats(order)

    def pick(batch: int) -> tuple[np.ndarray, ...]:
        chosen, copies = (share.rows(each[batch * size : (batch + 1) * size]) for each in (order, again))
        draw = batch_draw(seed=seed, epoch=epoch.number, batch=batch)
        if augmentation.resized_crop:
            images = random_crops(
                split.images, chosen, image_size, (seed, epoch.number), copies=copies, flip=augmentation.flip
            )
        else:
            images = split.images[chosen]
        return images, split.labels[chosen], draw

    numbers = range(epoch.start_batch, steps_per_epoch(len(split), batch_size))
    shape = shape_of(image_size) if augmentation.resized_crop else split.images.shape[1:]
    signature = (*_signature(split, shape, size // share.of), tf.TensorSpec([2], tf.int32))
    prepare = _training_batch(augmentation, classes, share, (image_size, preprocessing, geometry), signature)
    return mapped(numbers, pick, signature, prepare, _failures(preprocessing))


@functools.lru_cache(maxsize=8)
def _training_batch(
    augmentation: Augmentation,
    classes: int,
    share: Share,
    form: tuple[ImageSize, AnyPreprocessing, Geometry],
    signature: tuple[tf.TensorSpec, ...],
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Augmentation and preprocessing of a batch, traced once a process.

    Tracing takes 0.1 s, and with RandAugment it may take longer than an epoch.
    """

    def prepare(images: tf.Tensor, labels: tf.Tensor, draw: tf.Tensor) -> tuple[tf.Tensor, ...]:
        images = in_channels(images, shape_of(form[0]).channels)
        images, labels = augmentation.batch(images, labels, draw, classes=classes, share=share)
        return prepared(images, *form), labels

    return tf.function(prepare, input_signature=signature, autograph=False).get_concrete_function()  # type: ignore[no-any-return]


def epoch_order(examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """The numbers of all images, int64 `[examples]`, in the order of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(examples)


def batch_draw(*, seed: int, epoch: int, batch: int) -> np.ndarray:
    """int32 `[2]`: the seed for the augmentation of a batch."""
    return np.random.SeedSequence([seed, epoch, batch]).generate_state(2).astype(np.int32)


def check_augmentation(split: Split, augmentation: Augmentation) -> None:
    """Raise WrongUse if the crop padding is not smaller than the images; for photos, than their decoded size."""
    side = min(split.images.shape[1:3])
    if augmentation.crop_padding >= side:
        raise WrongUse(
            f"--crop-padding {augmentation.crop_padding} is too much for images of {side} px: "
            f"expected 0 to {side - 1}; {side // 8} is usual"
        )


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    image_size: ImageSize,
    preprocessing: AnyPreprocessing,
    geometry: Geometry = CENTRE,
    share: Share = WHOLE,
) -> "Batches":
    """Every image once, in the split's order: (images as in training, int64 labels, bool `[batch]` counted).

    Every batch is full, so that batch statistics are always taken over `batch_size` images. The last batch is filled
    up at its front with the images before it, whose `counted` is False. A smaller split is one batch. `geometry` says
    which part of an image becomes one of `image_size`. `share` selects this worker's batches, each of them whole.
    """
    split = split.at(image_size, geometry)
    size, starts = eval_starts(len(split), batch_size)

    def pick(batch: int) -> tuple[np.ndarray, ...]:
        part = slice(starts[batch], starts[batch] + size)
        return split.images[part], split.labels[part], np.arange(part.start, part.stop) >= batch * size

    def prepare(images: tf.Tensor, labels: tf.Tensor, counted: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return prepared(images, image_size, preprocessing, geometry), labels, counted

    numbers = share.numbers(range(len(starts)))
    if len(numbers) <= _AT_ONCE:

        def made() -> Iterator[tuple[tf.Tensor, ...]]:
            return (prepare(*map(tf.convert_to_tensor, pick(number))) for number in numbers)

        return Batches(len(numbers), made, _failures(preprocessing))
    signature = (*_signature(split, split.images.shape[1:], size), tf.TensorSpec([size], tf.bool))
    return mapped(numbers, pick, signature, prepare, _failures(preprocessing))


def eval_starts(examples: int, batch_size: int) -> tuple[int, np.ndarray]:
    """(size of the batches of an evaluation, number of the first image of each batch)."""
    size = min(batch_size, examples)
    return size, np.minimum(np.arange(0, examples, size), examples - size)


class Batches:
    """Batches that can be iterated repeatedly, in their order: `count` of them each time that `start` is called.

    A damaged image or a custom preprocessing that fails raises FinetuneError.
    """

    def __init__(self, count: int, start: Callable[[], Iterator[Any]], failures: list[FinetuneError]) -> None:
        self._count, self._start, self._failures = count, start, failures

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        self._failures.clear()
        try:
            yield from self._start()
        except tf.errors.OpError:
            # The graph passes an exception on as text only: the exception itself was recorded.
            if self._failures:
                raise self._failures[0] from None
            raise


def mapped(
    numbers: range,
    pick: Callable[[int], tuple[np.ndarray, ...]],
    signature: tuple[tf.TensorSpec, ...],
    prepare: Callable[..., tuple[tf.Tensor, ...]],
    failures: list[FinetuneError] | None = None,
) -> Batches:
    """`prepare(*pick(number))` for each of `numbers`, in their order, on a few threads, ahead of the consumer.

    `pick` runs in NumPy, so that the split is never copied into a graph; it returns arrays as in `signature`.
    failures: receives the exceptions of `pick`, and holds those that `prepare` records.
    """
    failures = [] if failures is None else failures
    picked = recording(lambda number: pick(int(number)), failures)

    def batch(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parts = tf.numpy_function(picked, [number], [spec.dtype for spec in signature])
        return prepare(*(tf.ensure_shape(part, spec.shape) for part, spec in zip(parts, signature, strict=True)))

    options = tf.data.Options()
    # tf.data's own tuning and graph rewriting take 150 ms per epoch and improve nothing here.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    source = tf.data.Dataset.range(numbers.start, numbers.stop, numbers.step)
    as_written = tf.autograph.experimental.do_not_convert(batch)
    ready = source.map(as_written, num_parallel_calls=min(4, cores()), deterministic=True)
    return Batches(len(numbers), ready.prefetch(_AHEAD).with_options(options).__iter__, failures)


def _failures(preprocessing: AnyPreprocessing) -> list[FinetuneError]:
    return preprocessing.failures if isinstance(preprocessing, CustomPreprocessing) else []


def _signature(split: Split, shape: tuple[int, ...], size: int) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    """`shape` is that of an image of `split` in the batch."""
    return tf.TensorSpec([size, *shape], split.images.dtype), label_spec(split.labels, size)


def label_spec(labels: np.ndarray, *shape: int | None) -> tf.TensorSpec:
    """Of a batch of `labels`, with images in that shape."""
    return tf.TensorSpec([*shape, *labels.shape[1:]], labels.dtype)


def prepared(
    images: tf.Tensor, image_size: ImageSize, preprocessing: AnyPreprocessing, geometry: Geometry = CENTRE
) -> tf.Tensor:
    """uint8 `[batch, height, width, channels]` to the network's input, in its channels, resized bilinearly if the size
    differs.

    They are already the part that `geometry` takes. Where that has the pixels of another program, they are still whole;
    photos, which are float32 then, are ready.
    """
    (height, width), shape = images.shape[1:3], shape_of(image_size)
    images, size = in_channels(images, shape.channels), shape[:2]
    if geometry.exact and images.dtype == tf.uint8:
        return preprocessing.apply(resampled(images, geometry, size))
    if (height, width) == size:
        return preprocessing.apply(images)
    shrinking = shape.height < height or shape.width < width
    # The two steps commute except for float rounding, so preprocessing is done where there are fewer pixels. From 32 to
    # 96 px this gives three times the images per second (20,000 images on one core: 16,000 per second against 5,000).
    if height * width < shape.height * shape.width and not isinstance(preprocessing, CustomPreprocessing | PerImage):
        return tf.image.resize(preprocessing.apply(images), size, antialias=shrinking)
    return preprocessing.apply(tf.image.resize(images, size, antialias=shrinking))
