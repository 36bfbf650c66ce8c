"""Images as an export takes them: preprocessed, or pixels as they are."""

from collections.abc import Iterator

import numpy as np

from finetune.config import RunConfig
from finetune.data import batches, decoding
from finetune.data.dataset import Split
from finetune.data.lazy import LazyImages
from finetune.evaluation.evaluator import Batches
from finetune.inference.export.exportable import Source


def input_batches(split: Split, config: RunConfig, source: Source) -> Batches:
    """(inputs of an export of `source`, labels, counted) for every image of `split`, as in `batches.evaluation`."""
    if not source.with_preprocessing:
        return batches.evaluation(split, config)
    split = split.at(source.network.setting, source.geometry)
    return _pixels(split, int(config.batch_size or 1), source.shape[3] or 3)


def representative_inputs(source: Source) -> Iterator[np.ndarray]:
    """Each of `source.representative` as an input of one image, `[1, ...]`."""
    if source.representative is None:
        raise ValueError("the source has no representative images")
    for images, _, counted in input_batches(source.representative, source.config, source):
        given = np.asarray(images)
        yield from (given[place : place + 1] for place in np.flatnonzero(counted))


def _pixels(split: Split, batch_size: int, channels: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(uint8 images, labels, counted) at their own size. Photos are decoded in full, in so many channels, one a batch:
    sizes differ."""
    images, labels = split.images, split.labels
    if isinstance(images, LazyImages):
        for position, number in enumerate(map(int, images.chosen)):
            with decoding.naming(images.photos.place(number)), images.photos.ready(number) as image:
                pixels = decoding.decoded(image, channels, images.geometry)[None]
            yield np.ascontiguousarray(pixels), labels[position : position + 1], np.ones(1, bool)
        return
    for start in range(0, len(split), batch_size):
        part = slice(start, start + batch_size)
        yield np.ascontiguousarray(images[part]), labels[part], np.ones(len(labels[part]), bool)
