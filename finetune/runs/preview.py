"""The first training images of a run as its network would get them: augmented, in their order, before preprocessing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.dataset import Dataset
from finetune.data.lazy import LazyImages
from finetune.data.load_data import load_data
from finetune.runs.directory import RunDir
from finetune.runs.request import check_request, complete
from finetune.runs.run_data import check_unchanged, white


@dataclass(frozen=True, eq=False)
class Preview:
    """images: uint8 `[n, height, width, channels]`. labels: of each image, its class, or with mixed labels the share of
    each class: `cat 70 %, dog 30 %`. config: the completed settings."""

    images: np.ndarray
    labels: list[str]
    config: RunConfig


def completed(config: RunConfig, dataset: Dataset) -> RunConfig:
    """`config` with the defaults of a run on `dataset` in which the whole backbone trains. Raises WrongUse."""
    request = check_request(config)
    train = dataset.train
    return complete(
        request.config,
        request.spec,
        examples=len(train),
        source_size=min(train.images.shape[1:3]),
        photos=isinstance(train.images, LazyImages),
        everything="*" not in request.config.freeze,
    )


def augmented(config: RunConfig, dataset: Dataset, *, images: int, epoch: int = 0) -> Preview:
    """The first `images` training images of an epoch, from 0, of a completed `config`: those of the run itself, from
    the same order and random numbers. Only the preprocessing is left out, which makes numbers of the pixels.

    Raises WrongUse where the images cannot be augmented so, BadImage.
    """
    batches.check_augmentation(dataset.train, config)
    pixels, targets, count = [], [], 0
    for batch, labels in batches.training(dataset.train, replace(config, preprocess="raw"), epoch=epoch, start=0):
        pixels.append(np.asarray(batch)[: images - count])
        targets.append(np.asarray(labels)[: images - count])
        count += len(pixels[-1])
        if count >= images:
            break
    seen = np.clip(np.rint(np.concatenate(pixels)), 0, 255).astype(np.uint8)
    return Preview(seen, [_label(one, dataset.class_names) for one in np.concatenate(targets)], config)


def of_run(path: Path, *, images: int, data_dir: Path | None = None) -> Preview:
    """The first training images of the run in the directory `path`. Raises FinetuneError where its data has changed."""
    run = RunDir.open(path)
    config = run.config()
    moved = replace(config, data_dir=str(data_dir)) if data_dir else config
    dataset = load_data(moved, white=white(run))
    check_unchanged(run, dataset, advice="put it back, or give its place with --data-dir")
    return augmented(config, dataset, images=images)


def _label(target: np.ndarray, names: Sequence[str]) -> str:
    if target.ndim == 0:
        return names[int(target)]
    order = np.argsort(-target, kind="stable")
    return ", ".join(f"{names[one]} {target[one]:.0%}" for one in order if target[one] > 0.005)
