"""Images and labels that a caller has in memory or draws from an iterator, as Keras's `fit` takes them.

An iterator is drawn from once: a `tf.data` set may give another order each time, and every measurement must see the
same images. What is drawn is kept in memory, and beyond a limit in a temporary file.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.data import pipeline
from finetune.data.batches import EvalSet
from finetune.data.dataset import Split
from finetune.data.preprocessing import PREPROCESSINGS, CustomPreprocessing, Preprocessing, find_preprocessing
from finetune.errors import FinetuneError
from finetune.text import ImageShape

BATCH_SIZE = 64
"""Images at once where the data does not say."""
_IN_MEMORY = 2**30
"""Bytes of drawn images that are kept in memory."""
_LOOKED_AT = 32
"""Images by which the preprocessing is recognised."""
_WHOLE = 0.02
"""How far a pixel may be from a whole number, of 255, after a known preprocessing is undone in float32."""


@dataclass(frozen=True, eq=False)
class AsGiven:
    """The preprocessing that the caller has done: images go to the network as they are, in float32."""

    name: str

    def apply(self, images: Any) -> Any:
        """`images` as float32."""
        return tf.cast(images, tf.float32)


@dataclass(frozen=True, eq=False)
class GivenSplit:
    """Images of any shape as the network takes them, and their labels, as in `Split`.

    prepared: how they were made from pixels from 0 to 255, None where no known preprocessing explains them.
    """

    images: np.ndarray
    labels: np.ndarray
    prepared: Preprocessing | None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> "GivenSplit":
        """The images at int `indices`, in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def with_images(self, images: np.ndarray) -> "GivenSplit":
        """The same labels with the images in another layout."""
        return replace(self, images=images, prepared=recognised(images))

    def at(self, size: Any, geometry: Any = None) -> Split:
        """The pixels, which have the model's size. ValueError where they are not known."""
        if self.prepared is None:
            raise ValueError("no known preprocessing explains the images")
        return Split(pixels_of(self.images, self.prepared).round().astype(np.uint8), self.labels)


@dataclass(frozen=True, eq=False)
class GivenSet(EvalSet):
    """An `EvalSet` of a `GivenSplit`, with `AsGiven`, or with another preprocessing of the pixels."""

    split: Any

    @property
    def has_pixels(self) -> bool:
        """Whether another preprocessing can be tried."""
        return self.split.prepared is not None

    @property
    def of_pixels(self) -> Any:
        """The one that made the images as they are, where that is known."""
        given = isinstance(self.preprocessing, AsGiven) and self.has_pixels
        return self.split.prepared if given else self.preprocessing

    def batches(self) -> pipeline.Batches:
        """As those of `EvalSet`: every batch is full, the last one filled up with the images before it."""
        size, starts = pipeline.eval_starts(len(self), self.batch_size)

        def made() -> Iterator[tuple[Any, ...]]:
            for number, start in enumerate(starts):
                part = np.arange(start, start + size)
                chosen = self.split.take(part)
                as_they_are = isinstance(self.preprocessing, AsGiven) or self.split.prepared == PREPROCESSINGS["raw"]
                images = chosen.images if as_they_are else chosen.at(self.image_size).images
                yield self.preprocessing.apply(tf.convert_to_tensor(images)), chosen.labels, part >= number * size

        return pipeline.Batches(len(starts), made, [])


def given_set(split: GivenSplit, batch_size: int, preprocess: str | Callable[[Any], Any] | None) -> GivenSet:
    """The images of `split`, as they are, or pixels that go to the network through `preprocess`, a name or a function
    as `--preprocess` names it."""
    shape = split.images.shape[1:]
    size = ImageShape(*shape).setting if len(shape) == 3 else 0
    if preprocess is None:
        return GivenSet(split, batch_size, size, AsGiven(split.prepared.name if split.prepared else "as given"))
    way = find_preprocessing(preprocess) if isinstance(preprocess, str) else _of_function(preprocess)
    return GivenSet(replace(split, prepared=PREPROCESSINGS["raw"]), batch_size, size, way)


def _of_function(function: Callable[[Any], Any]) -> CustomPreprocessing:
    return CustomPreprocessing(str(getattr(function, "__name__", "preprocess")), function)


def pixels_of(images: np.ndarray, prepared: Preprocessing) -> np.ndarray:
    """The pixels, float64, that `prepared` made `images` `[n, height, width, channels]` from."""
    channels = images.shape[-1]
    mean, std = (np.array(prepared.of_channels(one, channels)) for one in (prepared.mean, prepared.std))
    pixels: np.ndarray = (images.astype(np.float64) * std + mean) / prepared.scale
    return pixels[..., ::-1] if prepared.channels == "bgr" and channels == 3 else pixels


def recognised(images: np.ndarray) -> Preprocessing | None:
    """The known preprocessing that made `images` of whole pixels from 0 to 255, None where none did."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        return None
    some = np.asarray(images[np.linspace(0, len(images) - 1, min(_LOOKED_AT, len(images))).astype(int)])
    for name in ("raw", *(name for name in PREPROCESSINGS if name != "raw")):
        pixels = pixels_of(some, PREPROCESSINGS[name])
        in_range = pixels.min() > -_WHOLE and pixels.max() < 255 + _WHOLE
        # The darkest images of `unit` lie in the range of `raw`, but they are no whole numbers there.
        if in_range and np.abs(pixels - pixels.round()).max() < _WHOLE and (name != "raw" or pixels.max() > 1):
            return PREPROCESSINGS[name]
    return None


def given_split(data: Any, *, what: str, outputs: int, most: int, whole: bool) -> tuple[GivenSplit, int]:
    """(images with labels, images at once) of what Keras's `fit` takes, for a network of so many classes.

    data: a pair of arrays, a batched `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch `DataLoader` or any iterable
    of batches (images, labels). most: how many images are enough, unless the set is to be read `whole`, which is only
    done if its length is known. `what` is what messages call the set.

    Raises FinetuneError for a set that repeats without end, is not batched, or has other labels than classes.
    """
    if _is_pair(data):
        pixels, labels, at_once = _array(data[0]), _array(data[1]), BATCH_SIZE
    else:
        pixels, labels, at_once = _drawn(data, what, None if whole and _has_length(data) else most)
    if len(pixels) != len(labels) or not len(pixels):
        raise FinetuneError(
            f"{what}: {len(pixels)} images and {len(labels)} labels: expected one label for each, and at least one"
        )
    return GivenSplit(pixels, class_numbers(labels, outputs, what), recognised(pixels)), at_once


def folder_set(folder: Path, shape: tuple[int, int, int]) -> tf.data.Dataset:
    """The images below `folder`, a folder for each class in the order of the names, as Keras reads them: pixels from 0
    to 255, resized to `shape`, `(height, width, channels)`. FinetuneError where there are none."""
    height, width, channels = shape
    try:
        return keras.utils.image_dataset_from_directory(
            folder,
            label_mode="int",
            color_mode={1: "grayscale", 3: "rgb", 4: "rgba"}[channels],
            batch_size=BATCH_SIZE,
            image_size=(height, width),
            shuffle=False,
            verbose=False,
        )
    except (ValueError, OSError) as error:
        raise FinetuneError(f"{folder}: {error}: expected a folder of images for each class") from None


def first_images(data: Any, what: str) -> np.ndarray:
    """Up to a batch of images of the same set, by which a model is tried. An iterator loses its first batch."""
    return _array(data[0][:BATCH_SIZE]) if _is_pair(data) else _checked(next(iter(_batches(data, what)), None), what)[0]


def class_numbers(labels: np.ndarray, outputs: int, what: str) -> np.ndarray:
    """int64 `[n]` of labels `[n]`, `[n, 1]` or one-hot `[n, classes]`, whole or floating; uint8 0/1 `[n, classes]`
    where rows of 0 and 1 mark several labels of an image, or none.

    FinetuneError where they are no classes of a network of so many.
    """
    found = labels.reshape(len(labels), -1)
    if found.dtype.kind not in "iufb":
        raise FinetuneError(f"{what}: labels are {labels.dtype}: expected numbers of classes, 0 to {outputs - 1}")
    if found.shape[1] == 1:
        numbers = found[:, 0]
    else:
        if not ((found == 0) | (found == 1)).all():
            raise FinetuneError(
                f"{what}: labels are {list(labels.shape)} and not all 0 or 1: expected one class for each image, as a "
                "number or one-hot, or a 1 for each label of an image"
            )
        if (found.sum(axis=1) != 1).any():
            if found.shape[1] != outputs:
                raise FinetuneError(
                    f"{what}: labels are {list(labels.shape)}: expected {outputs} an image, one for each output of the "
                    "model"
                )
            return found.astype(np.uint8)
        numbers = found.argmax(axis=1)
    if (numbers != np.round(numbers)).any() or numbers.min() < 0 or numbers.max() >= outputs:
        raise FinetuneError(
            f"{what}: labels from {numbers.min():g} to {numbers.max():g}: expected 0 to {outputs - 1}, for the model's "
            f"{outputs} classes"
        )
    return np.asarray(numbers, np.int64)


def _array(value: Any) -> np.ndarray:
    """A NumPy array of one, of a tensor of TensorFlow or PyTorch, or of anything that converts."""
    if hasattr(value, "detach"):  # PyTorch's, which may need gradients or lie on a GPU
        value = value.detach().cpu()
    return np.asarray(value)


def _is_pair(data: Any) -> bool:
    """Whether data are arrays (images, labels), perhaps with weights."""
    return isinstance(data, tuple | list) and len(data) in (2, 3) and all(hasattr(one, "__array__") for one in data[:2])


def _drawn(data: Any, what: str, most: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """(images, labels, images at once) of a set of batches, drawn once, to its end or until there are `most`.

    A set in the order of its classes is drawn to its end, and every image of it is among the `most` with the same
    chance (reservoir sampling, Vitter 1985): its first images are of one class.
    """
    kept, labels, numbers, at_once, count = _Kept(), [], np.zeros(0, np.int64), 0, 0
    rng = np.random.default_rng(0)
    chosen: Any = None
    for batch in _batches(data, what):
        pixels, own = _checked(batch, what)
        at_once = at_once or len(pixels)
        if chosen is None:
            kept.add(pixels)
            labels.append(own)
            numbers = np.concatenate([numbers, np.arange(count, count + len(pixels))])
        else:
            for offset in range(len(pixels)):
                place = int(rng.integers(0, count + offset + 1))
                if place < len(numbers):
                    chosen[0][place], chosen[1][place], numbers[place] = pixels[offset], own[offset], count + offset
        count += len(pixels)
        if chosen is None and most is not None and count >= most:
            chosen = kept.whole(), np.concatenate(labels)
            if not _grouped(chosen[1]):
                break
    if not count:
        raise FinetuneError(f"{what} is empty: expected at least one batch (an iterator can be used once only)")
    images, found = chosen or (kept.whole(), np.concatenate(labels))
    order = np.argsort(numbers)
    return (
        (images, found, at_once) if (order == np.arange(len(order))).all() else (images[order], found[order], at_once)
    )


def _grouped(labels: np.ndarray) -> bool:
    """Whether labels lie in the order of their classes: neighbours differ less than half as often as by chance."""
    found = labels.reshape(len(labels), -1)
    classes = found.argmax(axis=1) if found.shape[1] > 1 else found[:, 0]
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return bool(np.mean(classes[1:] != classes[:-1]) <= 0.5 * (1 - np.sum(shares**2)))


def _checked(batch: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of a batch. FinetuneError for one of another form."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        kind = f"dictionaries of {', '.join(map(str, batch))}" if isinstance(batch, dict) else type(batch).__name__
        raise FinetuneError(
            f"{what}: its elements are {kind}: expected batches (images, labels), as model.fit takes them; "
            "data.map(lambda one: (one['image'], one['label'])) makes them of dictionaries"
        )
    if isinstance(batch[0], dict | tuple | list):
        raise FinetuneError(f"{what}: its images are a {type(batch[0]).__name__}: expected one array, for one input")
    images, labels = _array(batch[0]), _array(batch[1])
    if labels.ndim == 0 or images.ndim < 2 or len(images) != len(labels):
        raise FinetuneError(f"{what} is not batched: its images are {list(images.shape)}; give data.batch(64)")
    return images, labels


def _has_length(data: Any) -> bool:
    """Whether the end of a set is known."""
    return int(data.cardinality()) >= 0 if isinstance(data, tf.data.Dataset) else hasattr(data, "__len__")


def _batches(data: Any, what: str) -> Any:
    """The batches of a set, each once and in order. FinetuneError for one that repeats without end."""
    if isinstance(data, tf.data.Dataset):
        if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise FinetuneError(f"{what} repeats without end: leave out .repeat()")
        return iter(data.as_numpy_iterator())
    if hasattr(data, "num_batches") and hasattr(data, "__getitem__"):  # Keras's PyDataset: iter() of it has no end
        if data.num_batches is None:
            raise FinetuneError(f"{what} repeats without end: give its number of batches, by __len__")
        return (data[number] for number in range(data.num_batches))
    if not hasattr(data, "__iter__") or isinstance(data, dict):
        raise FinetuneError(
            f"{what} is a {type(data).__name__}: expected a pair of arrays, a batched tf.data.Dataset, a "
            "keras.utils.PyDataset, a DataLoader, or a folder"
        )
    return iter(data)


class _Kept:
    """Drawn images, in memory up to a limit, then in a temporary file."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._bytes = 0
        self._file: Any = None

    def add(self, images: np.ndarray) -> None:
        """Keep a batch. FinetuneError where its images differ from those before in shape or type."""
        first = self._parts[0] if self._parts else images
        if (images.shape[1:], images.dtype) != (first.shape[1:], first.dtype):
            raise FinetuneError(
                f"the images of a batch are {images.dtype} {list(images.shape[1:])}, those before "
                f"{first.dtype} {list(first.shape[1:])}: expected images of one size"
            )
        self._bytes += images.nbytes
        if self._bytes > _IN_MEMORY and self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            for part in self._parts:
                part.tofile(self._file)
            self._parts = self._parts[:1]
        if self._file is not None:
            np.ascontiguousarray(images).tofile(self._file)
        else:
            self._parts.append(np.array(images))

    def whole(self) -> np.ndarray:
        """All of them, in their order."""
        if self._file is None:
            return np.concatenate(self._parts)
        self._file.flush()
        first = self._parts[0]
        stored = np.memmap(self._file, first.dtype, "r+")
        self._file.close()  # the mapping stays, and the space is free when it goes
        return stored.reshape(-1, *first.shape[1:])
