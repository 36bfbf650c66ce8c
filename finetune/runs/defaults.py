"""The defaults that suit a data set: a rule of a few lines, after BiT's hyper-rule (Kolesnikov et al. 2020, §3.3)."""

import dataclasses

from checkpoints.catalog.lookup import BackboneSpec
from finetune.batchnorm.decay import FEW_UPDATES, auto_decay
from finetune.config import Augment, RunConfig
from finetune.data.pipeline import parts_per_step, steps_per_epoch
from finetune.errors import WrongUse

_LARGEST_ICON = 64
"""px. Images of no more than this a side, in a folder too, are augmented as CIFAR's are."""


def image_size(spec: BackboneSpec, source_size: int) -> int:
    """Side in px to train at: three times the images' own, at most the published size, at least the network's least;
    a model of the user's own, or a module, at the size it was made for; a network without published weights, which
    has seen no other scale, at the images' own.

    A backbone trained on 224 px photos sees 32 px images at a scale it never met; enlarging them is worth more
    than any other setting, and costs with the square of the side.
    """
    if spec.unpublished:
        return max(source_size, spec.least_size)
    if spec.own_size:
        return spec.image_size
    return max(min(3 * source_size, spec.image_size), spec.least_size)


def complete(
    config: RunConfig, spec: BackboneSpec, *, examples: int, source_size: int, photos: bool, everything: bool
) -> RunConfig:
    """`config` with every None replaced. `examples` is the number of training images, `source_size` their side in px,
    `photos` whether they are decoded at the size the run takes, `everything` whether any layer of the backbone trains
    (False: only the head does, a linear probe).

    Where layers are unfrozen one after another, BN decay and recalibration suit those that update least. Raises
    WrongUse where that takes all epochs."""
    batch_size = config.batch_size or _batch_size(examples)
    epochs = config.epochs or _epochs(examples, from_scratch=config.from_scratch)
    per_epoch = steps_per_epoch(examples, batch_size)
    unfreeze = config.unfreeze_epochs or (max(epochs // 2, 1) if config.preset == "gradual" else None)
    if unfreeze is not None and unfreeze >= epochs:
        raise WrongUse(
            f"unfreezing takes {unfreeze} of {epochs} epoch{'s' if epochs > 1 else ''} and leaves none for all layers "
            "together: expected fewer than --epochs; lower --unfreeze-epochs, or raise --epochs"
        )
    per_epoch *= parts_per_step(examples, batch_size, config.microbatch)
    updates = per_epoch * (epochs - (unfreeze or 0))  # of what opens last
    size = config.image_size or image_size(spec, source_size)
    cropped = size if photos else source_size
    return dataclasses.replace(
        config,
        backbone=spec.id,
        image_size=size,
        preprocess=config.preprocess or spec.preprocessing,
        augment=config.augment or _augment(photos=photos and source_size > _LARGEST_ICON, everything=everything),
        crop_padding=cropped // 8 if config.crop_padding is None else config.crop_padding,
        unfreeze_epochs=unfreeze,
        bn_epsilon=config.bn_epsilon,
        bn_decay=auto_decay(per_epoch, updates) if config.bn_decay == "auto" else config.bn_decay,
        recalibrate_at_end=(
            # Whoever gives a decay wants what it leads to.
            config.bn_decay == "auto" and config.bn_updates == "on" and updates < FEW_UPDATES
            if config.recalibrate_at_end is None
            else config.recalibrate_at_end
        ),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=config.learning_rate or _learning_rate(config.optimizer, batch_size, everything=everything),
        weight_decay=_weight_decay(config.optimizer) if config.weight_decay is None else config.weight_decay,
    )


def _augment(*, photos: bool, everything: bool) -> Augment:
    """Parts of photos, as the backbone was pretrained on; icons and digits fill their image, and are only shifted.
    Nothing for a linear probe."""
    if not everything:
        return "none"
    return "resized-crop-flip" if photos else "crop-flip"


def _batch_size(examples: int) -> int:
    """64 where an epoch then has at least ten steps, else less; never under 16, where batch statistics get noisy."""
    return next((size for size in (64, 32) if examples >= 10 * size), 16)


def _epochs(examples: int, *, from_scratch: bool) -> int:
    """As many as show the network 160,000 images, from 5 to 60; three times that from random weights."""
    return min(max(round(160_000 / examples), 5), 60) * (3 if from_scratch else 1)


def _learning_rate(optimizer: str, batch_size: int, *, everything: bool) -> float:
    """Peak learning rate, in proportion to the batch (SGD) or its square root (AdamW), tuned at 64."""
    scale = batch_size / 64
    if optimizer == "sgd":
        return (0.01 if everything else 0.1) * scale
    return float((1e-3 if everything else 3e-3) * scale**0.5)


def _weight_decay(optimizer: str) -> float:
    """Decoupled, per step and multiplied by the learning rate (Loshchilov & Hutter 2019)."""
    return 5e-4 if optimizer == "sgd" else 0.05
