"""What a run asks for: checked before anything is read, and completed with defaults that suit its data.

The defaults are a short rule, after BiT's hyper-rule (Kolesnikov et al. 2020, §3.3).
"""

from dataclasses import dataclass, replace

from finetune.backbone import BackboneSpec, check_image_size, find_backbone, freezing, image_size_of
from finetune.batchnorm.decay import FEW_UPDATES, auto_decay
from finetune.batchnorm.policy import Rule, parse_bn_rule
from finetune.config import (
    RECIPE,
    Augment,
    ResizeMode,
    RunConfig,
    check_config,
    check_settings,
    check_trackers,
    presets,
    with_weights_read,
)
from finetune.data.pipeline import parts_per_step, steps_per_epoch
from finetune.data.preprocessing import find_preprocessing, known_name
from finetune.errors import WrongUse
from finetune.text import ImageSize, shape_of

_LARGEST_ICON = 64
"""px. Images of at most this side are augmented as CIFAR's are, also those in a folder."""
_SLIMS = ("rmsprop", "momentum")
"""Optimizers as slim's train_image_classifier.py has them, whose weight decay is an L2 loss."""
_NETWORK = "give the name of its network and its weights with --checkpoint, or leave"
_FOCAL_GAMMA = 2.0
"""The best of Lin et al. (2017, table 1b)."""
_NOT_FOR_HUB_MODULES = {
    "from_scratch": "holds weights, but not how they are initialised: give the name of its network",
    "precision": f"is a graph, whose precision is fixed: {_NETWORK} --precision out",
    "distribute": f"is a graph whose variables cannot be copied to several replicas: {_NETWORK} --distribute out",
}
"""Settings that a Hub module does not take, and why."""


@dataclass(frozen=True)
class Resolved:
    """A config with the backbone and the rules that it names. `config.from_scratch` is set where no weights exist."""

    config: RunConfig
    spec: BackboneSpec
    freeze: list[Rule]
    bn: list[Rule]


def check_request(config: RunConfig) -> Resolved:
    """Check everything about `config` that needs no data, weights or model.

    Raises WrongUse, CheckpointError.
    """
    spec = find_backbone(config.backbone, output=config.output)
    spec = replace(spec, preprocessing=known_name(spec.preprocessing))
    if spec.unpublished and config.checkpoint is None:
        if config.head == "keep":
            raise WrongUse(f"--head keep: no weights are published for {spec.id}: give a file with --checkpoint PATH")
        config = replace(config, from_scratch=True)
    config = with_weights_read(presets.expand(check_config(config)))
    check_trackers(config.tracker)
    freeze = [freezing.parse_freeze_rule(text) for text in config.freeze]
    bn = [parse_bn_rule(text) for text in config.bn]
    for name, why in _NOT_FOR_HUB_MODULES.items():
        if spec.source == "hub" and config.is_set(name):
            raise WrongUse(f"{config.as_option(name)}: {spec.id} {why}")
    if config.preprocess is not None:
        find_preprocessing(config.preprocess)
    elif not spec.preprocessing:
        raise WrongUse(
            f"{spec.id} does not say how its pixels are scaled: expected a Rescaling or Normalization layer first in "
            "it, the config.json of its run beside it, or the image_converter.json of a KerasHub preset; give "
            "--preprocess inception (pixels in [-1, 1]), unit ([0, 1]), caffe, torch, vgg, or raw ([0, 255])"
        )
    with_recipe(config, spec)
    if config.image_size is not None:
        config = replace(config, image_size=image_size_of(spec, config.image_size))
        check_image_size(spec, config.image_size or 0)
    return Resolved(config, spec, freeze, bn)


def with_recipe(config: RunConfig, spec: BackboneSpec | None) -> RunConfig:
    """`config` with its resize mode and crop fraction; `spec` is None where the model is none of the catalogue.
    WrongUse where it asks for a published evaluation that is not known, or for another as well."""
    check_settings(config, RECIPE)
    if config.eval_recipe != "published":
        mode: ResizeMode = config.resize_mode or ("squash" if config.eval_recipe == "keras" else "crop")
        return replace(config, resize_mode=mode, crop_fraction=config.crop_fraction or 1.0)
    if spec is None or spec.evaluation is None:
        raise WrongUse(
            f"--eval-recipe published: no source says how the images of {spec.id if spec else 'this model'} were "
            "cropped and resized (slim's does, for its own networks): leave it out, or give --resize-mode and "
            "--crop-fraction"
        )
    published = dict(zip(RECIPE, spec.evaluation, strict=False))
    for name, value in published.items():
        if getattr(config, name) not in (None, value):
            raise WrongUse(
                f"{config.as_option(name)}: --eval-recipe published has {value} for {spec.id}; leave out one of the two"
            )
    return replace(config, **published)  # type: ignore[arg-type]


def default_image_size(spec: BackboneSpec, source_size: int) -> ImageSize:
    """The size to train at, for images of that shorter side in px.

    - A published backbone: three times the images' own side, at most the published size, at least the network's least.
    - A model of the user's own, or a Hub module: the size it was made for.
    - A network without published weights, which was trained on no other scale: the images' own side.

    A backbone trained on 224 px photos has never seen the scale of 32 px images. Enlarging them gains more than any
    other setting; the cost grows with the square of the side.
    """
    if spec.unpublished:
        return max(source_size, spec.least_size)
    if spec.own_size:
        return image_size_of(spec)
    return image_size_of(spec, max(min(3 * source_size, spec.image_size), spec.least_size))


def complete(
    config: RunConfig, spec: BackboneSpec, *, examples: int, source_size: int, photos: bool, everything: bool
) -> RunConfig:
    """`config` with every None replaced.

    examples: the number of training images. source_size: their shorter side in px. photos: whether they are decoded at
    the run's own size. everything: whether any layer of the backbone trains; False means only the head, a linear probe.

    Where layers are unfrozen one after another, BN decay and recalibration are set for those with the fewest updates.
    Raises WrongUse where unfreezing takes all epochs.
    """
    batch_size = config.batch_size or _batch_size(examples)
    epochs = config.epochs or _epochs(examples, from_scratch=config.from_scratch)
    per_epoch = steps_per_epoch(examples, batch_size)
    unfreeze = config.unfreeze_epochs or (max(epochs // 2, 1) if config.preset == "gradual" else None)
    if unfreeze is not None and unfreeze >= epochs:
        raise WrongUse(
            f"unfreezing takes {unfreeze} of {epochs} epoch{'s' if epochs > 1 else ''} and leaves none for all layers "
            "together: expected fewer than --epochs; lower --unfreeze-epochs, or raise --epochs"
        )
    if config.swa_start is not None and config.swa_start > epochs:
        raise WrongUse(
            f"--swa-start {config.swa_start} is after the last of {epochs} epoch{'s' if epochs > 1 else ''}: expected "
            f"at most {epochs}; lower it, or raise --epochs"
        )
    per_epoch *= parts_per_step(examples, batch_size, config.microbatch)
    updates = per_epoch * (epochs - (unfreeze or 0))  # of the layers unfrozen last
    size = config.image_size or default_image_size(spec, source_size)
    cropped = min(shape_of(size)[:2]) if photos else source_size
    return replace(
        with_recipe(config, spec),
        backbone=spec.id,
        image_size=size,
        preprocess=config.preprocess or spec.preprocessing,
        augment=config.augment or _augment(photos=photos and source_size > _LARGEST_ICON, everything=everything),
        crop_padding=cropped // 8 if config.crop_padding is None else config.crop_padding,
        unfreeze_epochs=unfreeze,
        bn_epsilon=config.bn_epsilon,
        bn_decay=auto_decay(per_epoch, updates) if config.bn_decay == "auto" else config.bn_decay,
        recalibrate_at_end=(
            # A decay that the user gave is meant to have its effect.
            config.bn_decay == "auto" and config.bn_updates == "on" and updates < FEW_UPDATES
            if config.recalibrate_at_end is None
            else config.recalibrate_at_end
        ),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=config.learning_rate or _learning_rate(config.optimizer, batch_size, everything=everything),
        focal_gamma=_FOCAL_GAMMA if config.loss == "focal" and config.focal_gamma is None else config.focal_gamma,
        weight_decay=_weight_decay(config.optimizer) if config.weight_decay is None else config.weight_decay,
        l2=config.l2 if config.l2 is not None or config.optimizer not in _SLIMS else 4e-5,
    )


def _augment(*, photos: bool, everything: bool) -> Augment:
    """Random parts of photos, as in pretraining. Icons and digits fill their image and are only shifted. Nothing for a
    linear probe."""
    if not everything:
        return "none"
    return "resized-crop-flip" if photos else "crop-flip"


def _batch_size(examples: int) -> int:
    """64 where an epoch then has at least ten steps, else less; at least 16, below which batch statistics are noisy."""
    return next((size for size in (64, 32) if examples >= 10 * size), 16)


def _epochs(examples: int, *, from_scratch: bool) -> int:
    """As many as make 160,000 images in all, from 5 to 60; three times that from random weights."""
    return min(max(round(160_000 / examples), 5), 60) * (3 if from_scratch else 1)


def _learning_rate(optimizer: str, batch_size: int, *, everything: bool) -> float:
    """Peak learning rate, in proportion to the batch (SGD) or its square root (AdamW), tuned at 64."""
    scale = batch_size / 64
    if optimizer in _SLIMS:  # research/slim/README.md of tensorflow/models, Fine-tuning a model: batches of 32
        return (1e-4 if everything else 1e-2) * 2 * scale
    if optimizer == "sgd":
        return (0.01 if everything else 0.1) * scale
    return float((1e-3 if everything else 3e-3) * scale**0.5)


def _weight_decay(optimizer: str) -> float:
    """Decoupled, per step and multiplied by the learning rate (Loshchilov & Hutter 2019)."""
    return {"sgd": 5e-4, "adamw": 0.05}.get(optimizer, 0.0)
