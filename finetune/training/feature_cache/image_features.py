"""A backbone's features of images, out of the cache where they are in it."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from checkpoints import store
from checkpoints.catalog.lookup import CATALOG
from finetune.backbone import BackboneSpec, check_image_size, find_backbone, image_size_of, load_backbone
from finetune.data.dataset import Split
from finetune.data.preprocessing import find_preprocessing
from finetune.errors import FinetuneError, WrongUse
from finetune.runs.request import default_image_size
from finetune.text import ImageSize
from finetune.training.feature_cache import feature_store, keys
from finetune.training.feature_cache.extraction import DoesNotKeep, Network, Part, Progress, batch_size, fill

__all__ = ["Extractor", "Progress", "find"]

_SMALL = 10_000_000
"""The most parameters of a backbone that is chosen by itself: two cores compute a thousand small images in seconds."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """A backbone, and the size in px at which it takes images. `find` gives one, `features` is what it is for."""

    spec: BackboneSpec
    image_size: ImageSize
    checkpoint: Path | None = None

    def features(
        self, splits: Iterable[Split], progress: Progress, *, download: Callable[[int, int | None], None] | None = None
    ) -> list[np.ndarray]:
        """The pooled features of the images of each split at `image_size`: float32 `[n, channels]` each.

        Images are prepared as in evaluation, BatchNorm uses its moving statistics. What is computed is kept in the
        cache of `finetune cache`, or only in memory where it does not fit. Raises CheckpointError for the weights.
        """
        spec = self.spec
        loaded = load_backbone(spec, image_size=self.image_size, checkpoint=self.checkpoint, progress=download)
        if loaded.report is not None and loaded.report.absent:
            raise WrongUse(f"the weights of {spec.id} lack variables: expected all of them; give another --checkpoint")
        preprocessing = find_preprocessing(spec.preprocessing)
        network = Network(loaded.model, "moving", self.image_size, preprocessing)
        splits = [split.at(self.image_size) for split in splits]
        shape = [int(size) for size in loaded.model.output_shape[1:]]
        kind = {"shape": shape, "dtype": "float32", "statistics": "moving"}
        about = {**kind, "backbone": spec.id, "cut": "features", "data": "", "image_size": self.image_size}
        parts = [Part(keys.of_images(split), split.images, np.arange(len(split))) for split in splits]
        pixels = keys.of_pixels(splits[0], image_size=self.image_size, preprocessing=preprocessing)
        key = keys.combined(network=keys.of_network(loaded.model), pixels=pixels, **kind)
        ids = np.concatenate([part.ids for part in parts])
        try:
            with feature_store.opened(key, {**about, "preprocess": spec.preprocessing}, ids, budget=None) as entry:
                fill(entry, network, parts, progress)
                return [entry.read(entry.find(part.ids)).reshape(len(part.ids), -1) for part in parts]
        except (feature_store.OverBudget, DoesNotKeep, OSError) as error:
            reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else error
            progress.say(f"features are not kept: {reason}")
            return [_in_memory(network, split, self.image_size) for split in splits]


def find(name: str | None, *, checkpoint: Path | None, image_size: ImageSize | None, side: int) -> Extractor | None:
    """The backbone `name`; without one, the most accurate small row of the catalogue whose weights are on this machine,
    None where there is none.

    image_size: None for the size at which a run would train on images of that shorter `side` in px. Raises WrongUse for
    a name, a size or a model that does not fit.
    """
    if name is None:
        if checkpoint is not None:
            raise WrongUse("--checkpoint holds the weights of a backbone: name it with --backbone")
        small = [row for row in CATALOG if (row.parameters or _SMALL) < _SMALL and not row.bundled and row.top1]
        present = [row for row in small if store.is_cached(row) is not None]
        if not present:
            return None
        name = max(present, key=lambda row: row.top1 or 0.0).id
    spec = find_backbone(name)
    if spec.unpublished and checkpoint is None:
        raise WrongUse(f"--backbone {name}: no weights are published for it; give a file with --checkpoint, or another")
    if not spec.preprocessing:
        raise WrongUse(
            f"--backbone {name} does not say how its pixels are scaled: expected a row of 'finetune backbones list', "
            "or a model with its run's config.json beside it"
        )
    size = image_size_of(spec, image_size) if image_size is not None else default_image_size(spec, side)
    check_image_size(spec, size)
    return Extractor(spec, size, checkpoint)


def _in_memory(network: Network, split: Split, image_size: ImageSize) -> np.ndarray:
    if not len(split):
        raise FinetuneError("there are no images to compute features of")
    size = batch_size(image_size)
    rows = [network(np.ascontiguousarray(split.images[start : start + size])) for start in range(0, len(split), size)]
    return np.concatenate(rows).reshape(len(split), -1)
