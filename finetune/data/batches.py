"""The batches of a completed config: training and every evaluation get theirs here."""

from typing import Any

import numpy as np

from finetune.config.run_config import RunConfig
from finetune.data import pipeline
from finetune.data.augmentation import Augmentation
from finetune.data.dataset import Split, stratified_subset
from finetune.data.preprocessing import find_preprocessing
from finetune.data.share import WHOLE, Share
from finetune.errors import WrongUse


def training(split: Split, config: RunConfig, *, epoch: int, start: int, share: Share = WHOLE) -> Any:
    """(images, labels) from batch `start` of `epoch` on, or a worker's share of each: a function of (seed, epoch,
    batch) and nothing else."""
    return pipeline.train_batches(
        split,
        augmentation=augmentation(config),
        seed=config.seed,
        epoch=epoch,
        start_batch=start,
        share=share,
        **form(config),
    )


def check_augmentation(split: Split, config: RunConfig) -> None:
    """Raise WrongUse where the images of `split` cannot be augmented as `config` says."""
    pipeline.check_augmentation(split.at(form(config)["image_size"]), augmentation(config))


def evaluation(split: Split, config: RunConfig, *, share: Share = WHOLE) -> Any:
    """(images, labels, counted) in the data's own order, every image counted once, every batch full; or the batches
    that are a worker's share."""
    return pipeline.eval_batches(split, share=share, **form(config))


def steps_per_epoch(split: Split, config: RunConfig) -> int:
    """Training steps in one epoch over `split`."""
    return pipeline.steps_per_epoch(len(split), form(config)["batch_size"])


def parts_per_step(split: Split, config: RunConfig) -> int:
    """In how many parts a training batch goes through the network, each of which moves the moving statistics."""
    return pipeline.parts_per_step(len(split), form(config)["batch_size"], config.microbatch)


def mixes(config: RunConfig) -> bool:
    """Whether training labels are shares of classes, float32 `[batch, classes]`."""
    return augmentation(config).mixes


def augmentation(config: RunConfig) -> Augmentation:
    """How a completed config augments its training images."""
    strong: dict[str, Any] = {name: getattr(config, name) for name in ("rand_augment", "mixup", "cutmix")}
    if config.augment == "resized-crop-flip":
        return Augmentation(crop_padding=0, flip=True, resized_crop=True, **strong)
    padding = config.crop_padding or 0 if config.augment == "crop-flip" else 0
    return Augmentation(crop_padding=padding, flip=config.augment in ("crop-flip", "flip"), **strong)


def form(config: RunConfig) -> dict[str, Any]:
    """How a completed config takes its images: batch_size, image_size, preprocessing."""
    if config.batch_size is None or config.image_size is None or config.preprocess is None:
        raise ValueError("the config is not complete: call finetune.runs.defaults.complete first")
    return {
        "batch_size": config.batch_size,
        "image_size": config.image_size,
        "preprocessing": find_preprocessing(config.preprocess),
    }


def training_subset(split: Split, config: RunConfig, images: int) -> Split:
    """At most `images` of the training images, stratified, in random order, in whole batches where there is one.

    Random order, because batches of one class have no statistics worth pooling; whole batches, because an image
    that fills up a ragged batch would count twice in them.
    """
    classes = len(np.unique(split.labels))
    if images < classes:
        raise WrongUse(f"--images {images} is fewer than the {classes} classes: give {classes} or more")
    subset = stratified_subset(split, images, config.seed) if images < len(split) else split
    batch_size = config.batch_size or len(subset)
    whole = len(subset) - len(subset) % batch_size or len(subset)
    return subset.take(np.random.default_rng(config.seed).permutation(len(subset))[:whole])
