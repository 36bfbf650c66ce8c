"""The head of a user's own model: where its features end, how its head is removed or kept; and the new head."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from finetune.backbone.outputs import SHAPING, as_logits, classifies, producer
from finetune.errors import FinetuneError, WrongUse

_POOLING = ("GlobalAveragePooling2D", "GlobalMaxPooling2D")
_PASSED = (
    *("Activation", "Softmax", "LogSoftmax", "Sigmoid", "ReLU", "LeakyReLU", "PReLU", "ELU"),
    *("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "SpatialDropout2D", "ActivityRegularization"),
    *("Dense", "BatchNormalization", "LayerNormalization", "UnitNormalization"),
    *SHAPING,
)
"""Layers that may lie between pooled features and the output. So may a 1x1 convolution (MobileNet's `conv_preds`)."""

ORDER = "; assumed to be the data's classes in the data's order, which no file records"


@dataclass(frozen=True, eq=False)
class Cut:
    """A flat model cut in two. `features` ends in `[batch, channels]`; `words` say which layers became what."""

    features: keras.Model
    words: str


def swap_head(model: keras.Model, features: str | None, *, name: str) -> Cut:
    """The flat `model` without its head.

    The head is what a single chain of layers does with the pooled features: seen from the output, everything after
    the last global pooling (or, without one, after the layer that flattens the map), if a Dense or a 1x1 convolution
    is among it: a model that ends in Dense is a classifier. Otherwise the output are features already, pooled by
    their mean where it is a map. `features` names the layer to cut after instead, for projections and the like.
    `name` is what messages call the model. Raises FinetuneError where no features can be identified, WrongUse for
    a layer that is not there.
    """
    if features is not None:
        chosen = _layer(model, features, name)
        return _ending(model, chosen.output, f"features: {chosen.name}, as requested", name)
    output = model.outputs[0]
    classifier = classifies(output)
    chain, pooled = _chain(output, classifier) if classifier or len(output.shape) == 2 else ([], None)
    if not classifier and not _has_weights(chain):
        return _ending(model, output, "no head in the file; features: its output", name)
    if pooled is None:
        raise FinetuneError(
            f"{name}: it is unclear where its features end and its head ({_named(chain)}) begins: expected a "
            "global pooling or flattening layer before the head; name the layer whose output are the features with "
            "--features LAYER ('finetune backbones show' lists layers)"
        )
    units = output.shape[-1]
    words = f"head of the file removed: {_named(chain)} ({units} outputs); features: {producer(pooled)[0].name}"
    return _ending(model, pooled, words, name)


class LabelOutputs(int):
    """A number of logits, each of a sigmoid of its own."""


def keep_head(model: keras.Model, classes: int, *, name: str) -> Cut:
    """The flat `model` with its head, to logits `[batch, classes]`: a final softmax is left out, or the sigmoids where
    `classes` are `LabelOutputs`.

    One unit, which scores class 1, becomes the second of two logits by a layer of its own. Raises WrongUse, naming both
    numbers, where it has another number of outputs; FinetuneError for a head that is not one choice among classes.
    """
    per_label = isinstance(classes, LabelOutputs)
    try:
        found = as_logits(model, name=name, binary=per_label)
    except FinetuneError as error:
        raise FinetuneError(f"{error}; leave out --head keep for a new head") from None
    check_classes(found.scores.classes, classes, name=name)
    if found.scores.per_label != per_label or found.scores.probabilities:
        what = "ends in independent sigmoids" if found.scores.per_label else "ends in a softmax"
        what = f"{what} that cannot be left out" if found.scores.probabilities else what
        trains = "a sigmoid for each label" if per_label else "one softmax"
        raise WrongUse(f"--head keep: {name} {what}, and a run trains {trains}: leave it out for a new head")
    kept, words = found.model, f"head of the file kept: {classes} outputs{ORDER}"
    if per_label:
        return Cut(kept, words)
    if found.scores.units == 1:
        pair = keras.layers.Dense(2, use_bias=False, name="head.pair")
        kept = keras.Model(kept.inputs[0], pair(kept.outputs[0]), name=model.name)
        pair.set_weights([np.array([[0.0, 1.0]], np.float32)])
        words = f"head of the file kept: {found.scores.words}{ORDER}"
    return Cut(kept, words)


def check_classes(outputs: int, classes: int, *, name: str) -> None:
    """Raise WrongUse where the kept head does not have as many outputs as the data has classes."""
    if outputs != classes:
        raise WrongUse(
            f"--head keep: the head of {name} has {outputs} outputs, but the data has {classes} classes: expected "
            "the same number (and the same order of classes, which no file records); leave out --head keep for a new "
            "head"
        )


def _ending(model: keras.Model, tensor: Any, words: str, name: str) -> Cut:
    """`model` up to `tensor`, continued to `[batch, channels]`."""
    shape = tensor.shape
    if len(shape) == 4 and shape[1:3] == (1, 1):
        tensor = keras.layers.Flatten(name="features.flatten")(tensor)
    elif len(shape) == 4:
        tensor = keras.layers.GlobalAveragePooling2D(name="features.pool")(tensor)
        words += f", pooled by its mean over {shape[1]}x{shape[2]}"
    elif len(shape) != 2:
        raise FinetuneError(
            f"{name}: the features would be {list(shape)}: expected [batch, channels], or a map [batch, height, "
            "width, channels]; name another layer with --features LAYER"
        )
    return Cut(keras.Model(model.input, tensor, name=model.name), f"{words} [{tensor.shape[-1]}]")


def _chain(output: Any, classifier: bool) -> tuple[list[tuple[Any, Any]], Any]:
    """(operation, its output) from the output back to the pooled features, and these features; None without any.

    Where a `classifier` pools or flattens the maps of its classes, the features are what the convolution reads.
    """
    chain: list[tuple[Any, Any]] = []
    x, maps = output, False
    while True:
        operation, inputs = producer(x)
        pools = type(operation).__name__ in _POOLING
        if pools and (_has_weights(chain) or not classifier):
            return chain, x
        maps = maps or pools
        if len(inputs) != 1 or not (pools or _may_be_head(operation, maps)):
            break
        chain.append((operation, x))
        x = inputs[0]
    for index in range(len(chain) - 1, -1, -1):
        operation, x = chain[index]
        if len(x.shape) == 2 and len(producer(x)[1][0].shape) == 4 and _has_weights(chain[:index]):
            return chain[:index], x
    for index, (operation, x) in enumerate(chain):
        if type(operation).__name__ == "Conv2D":
            return chain[: index + 1], producer(x)[1][0]
    return chain, None


def _has_weights(chain: list[tuple[Any, Any]]) -> bool:
    return any(type(one).__name__ in ("Dense", "Conv2D") for one, _ in chain)


def _may_be_head(operation: Any, maps: bool) -> bool:
    if type(operation).__name__ == "Conv2D":
        return maps or tuple(operation.kernel_size) == (1, 1)
    return type(operation).__name__ in _PASSED


def _named(chain: list[tuple[Any, Any]]) -> str:
    return ", ".join(operation.name for operation, _ in reversed(chain))


def _layer(model: keras.Model, wanted: str, name: str) -> Any:
    for layer in model.layers:
        if wanted in (layer.name, layer.name.replace(".", "/")):
            return layer
    last = ", ".join(layer.name for layer in model.layers[-6:])
    raise WrongUse(f"--features {wanted}: {name} has no such layer: expected one of its layers; the last ones: {last}")


LOGITS = "head.logits"


def attach_head(
    backbone: keras.Model, classes: int, *, dropout: float = 0.0, hidden: int | None = None, seed: int = 0
) -> keras.Model:
    """`backbone` (to features `[batch, channels]`) continued to logits `[batch, classes]`, as one flat graph.

    The logits layer starts at zero: the first loss is log(classes) whatever the features' scale, and the first
    gradients do not shake the backbone. `hidden` adds a ReLU layer of that width, `dropout` (in [0, 1)) drops
    features in front of the logits in training.
    """
    x = backbone.output
    if hidden:
        initializer = keras.initializers.GlorotUniform(seed=seed)
        x = keras.layers.Dense(hidden, activation="relu", kernel_initializer=initializer, name="head.hidden")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, seed=seed, name="head.dropout")(x)
    logits = keras.layers.Dense(classes, kernel_initializer="zeros", name=LOGITS)(x)
    return keras.Model(backbone.input, logits, name="classifier")
