"""A pretrained backbone with a new head as a plain Keras model, for the user's own `fit`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras

from checkpoints.catalog.spec import BackboneSpec
from finetune.backbone import freezing
from finetune.backbone.head import attach_head
from finetune.backbone.loading import find_backbone, image_size_of, load_backbone
from finetune.batchnorm.policy import parse_bn_rule
from finetune.batchnorm.surgery import BatchNormOptions, to_stock
from finetune.errors import WrongUse
from finetune.text import ImageSize

_ON_STOCK_LAYERS = ("train", "freeze")
"""The policies that Keras's own layer has, by `trainable`."""


@dataclass(frozen=True)
class StockOptions:
    """Of `transfer`; the names are those of the options of `finetune run`.

    Which layers train is said by each layer's `trainable`, which Keras reads: a frozen BatchNormalization normalises by
    its moving statistics.

    Attributes:
        checkpoint: Your own weights for the network. None: the published file is fetched.
        image_size: Side in px, or height and width. None: the size the weights were trained with.
        freeze: Patterns of layers to freeze, the first match wins.
        freeze_until: Freeze every stage up to and including this one.
        bn: Policies of BatchNorm, `train` or `freeze`, for matching layers.
        bn_decay: `momentum` of every BatchNormalization, by default the network's own.
        bn_epsilon: `epsilon` of every BatchNormalization, by default the network's own.
        dropout: Share of the features dropped in front of the logits.
        hidden: Units of a hidden layer in front of the logits.
        from_scratch: Random weights.
        seed: Of the random weights and the dropped features.
    """

    checkpoint: str | Path | None = None
    image_size: ImageSize | None = None
    freeze: str | Sequence[str] = ()
    freeze_until: str | None = None
    bn: str | Sequence[str] = ()
    bn_decay: float | None = None
    bn_epsilon: float | None = None
    dropout: float = 0.0
    hidden: int | None = None
    from_scratch: bool = False
    seed: int = 0


def transfer(name: str, classes: int, options: StockOptions) -> keras.Model:
    """A `keras.Model` of stock layers: preprocessed float32 `[batch, height, width, 3]` to logits `[batch, classes]`.

    name: a row of the catalogue, a Keras model file, a KerasHub preset, or a run. The moving variances average the
    batch's own variance, as Keras does; slim averages n/(n-1) times that. Raises WrongUse for the BN policies `affine`
    and `stats`, which stock layers do not have; CheckpointError for weights that do not fit.
    """
    spec = _checked(name, classes, options)
    if options.from_scratch:
        keras.utils.set_random_seed(options.seed)
    backbone = load_backbone(
        spec,
        image_size=image_size_of(spec, options.image_size),
        checkpoint=None if options.checkpoint is None else Path(options.checkpoint),
        from_scratch=options.from_scratch,
        batchnorm=BatchNormOptions(epsilon=options.bn_epsilon),
    )
    model = attach_head(backbone.model, classes, dropout=options.dropout, hidden=options.hidden, seed=options.seed)
    plan = freezing.resolve(
        freezing.layer_infos(model, backbone.stages, backbone.scope),
        freeze=[freezing.parse_freeze_rule(text) for text in _listed(options.freeze)],
        freeze_until=options.freeze_until,
        bn=[parse_bn_rule(text) for text in _listed(options.bn)],
    )
    stock = to_stock(model)
    for one in plan.layers:
        layer = stock.get_layer(one.layer.name)
        layer.trainable = one.trains
        if one.bn is not None and options.bn_decay is not None:
            layer.momentum = options.bn_decay
    return stock


def _checked(name: str, classes: int, options: StockOptions) -> BackboneSpec:
    """The backbone called `name`. WrongUse for what stock layers cannot do, and for impossible numbers."""
    if type(classes) is not int or classes < 2:
        raise WrongUse(f"classes is {classes!r}: expected a whole number from 2")
    if options.bn_decay is not None and not 0 < options.bn_decay < 1:
        raise WrongUse(f"bn_decay is {options.bn_decay!r}: expected a number inside (0, 1)")
    if not 0 <= options.dropout < 1:
        raise WrongUse(f"dropout is {options.dropout!r}: expected a number in [0, 1)")
    lacking = sorted({parse_bn_rule(text).decision for text in _listed(options.bn)} - set(_ON_STOCK_LAYERS))
    if lacking:
        raise WrongUse(
            f"the BN policy '{lacking[0]}' needs this package's own BatchNorm layer, and transfer gives stock layers: "
            "expected train or freeze; finetune.run trains with all policies"
        )
    spec = find_backbone(name)
    if spec.source == "hub":
        raise WrongUse(f"{spec.id} is a graph and has no layers: use finetune.run, or the name of its network")
    if spec.unpublished and options.checkpoint is None and not options.from_scratch:
        raise WrongUse(f"no weights are published for {spec.id}: give checkpoint, or from_scratch=True")
    return spec


def _listed(rules: str | Sequence[str]) -> Sequence[str]:
    return [rules] if isinstance(rules, str) else rules
