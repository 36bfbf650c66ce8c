"""The head of a user's own model: where its features end, how its head is removed or kept; and the new head."""

from dataclasses import dataclass
from typing import Any

import keras

from finetune.batchnorm.surgery import copy_weights
from finetune.errors import FinetuneError, WrongUse

_POOLING = ("GlobalAveragePooling2D", "GlobalMaxPooling2D")
_PASSED = (
    *("Activation", "Softmax", "ReLU", "LeakyReLU", "PReLU", "ELU"),
    *("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "SpatialDropout2D", "ActivityRegularization"),
    *("Dense", "BatchNormalization", "LayerNormalization", "UnitNormalization"),
    *("Flatten", "Reshape", "Squeeze", "Identity"),
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
    output = model.output
    chain, pooled = _chain(output) if len(output.shape) == 2 else ([], None)
    if not any(type(one).__name__ in ("Dense", "Conv2D") for one, _ in chain):
        return _ending(model, output, "no head in the file; features: its output", name)
    if pooled is None:
        raise FinetuneError(
            f"{name}: it is unclear where its features end and its head ({_named(chain)}) begins: expected a "
            "global pooling or flattening layer before the head; name the layer whose output are the features with "
            "--features LAYER ('finetune backbones show' lists layers)"
        )
    units = output.shape[-1]
    words = f"head of the file removed: {_named(chain)} ({units} outputs); features: {_producer(pooled)[0].name}"
    return _ending(model, pooled, words, name)


def keep_head(model: keras.Model, classes: int, *, name: str) -> Cut:
    """The flat `model` with its head, to logits `[batch, classes]`: a final softmax is left out.

    Raises WrongUse, naming both numbers, where it has another number of outputs; FinetuneError for a head that is
    not a softmax over classes.
    """
    logits = model.output
    if len(logits.shape) != 2:
        raise FinetuneError(f"{name} has no head to keep: its output is {list(logits.shape)}; leave out --head keep")
    check_classes(int(logits.shape[-1]), classes, name=name)
    try:
        return Cut(as_logits(model, name=name), f"head of the file kept: {classes} outputs{ORDER}")
    except FinetuneError as error:
        raise FinetuneError(f"{error}; leave out --head keep for a new head") from None


def as_logits(model: keras.Model, *, name: str) -> keras.Model:
    """The flat classifier `model` to logits `[batch, classes]`: a final softmax is left out.

    Raises FinetuneError for an output that is not a softmax over classes.
    """
    logits = model.output
    if len(logits.shape) != 2:
        raise FinetuneError(f"{name} is no classifier: its output is {list(logits.shape)}, expected [batch, classes]")
    while _is_softmax(operation := _producer(logits)[0]):
        (logits,) = _producer(logits)[1]
    kind, activation = type(operation).__name__, getattr(operation, "activation", None)
    if kind == "Dense" and activation is keras.activations.softmax:
        linear = keras.layers.Dense.from_config({**operation.get_config(), "activation": "linear"})
        logits = linear(_producer(logits)[1][0])
        copy_weights(operation, linear)
    elif kind not in ("Dense", "Conv2D", "Flatten", "Reshape", "Squeeze") or (
        kind in ("Dense", "Conv2D") and activation is not keras.activations.linear
    ):
        what = f"{kind} '{operation.name}'" + (f" with {activation.__name__}" if activation else "")
        raise FinetuneError(f"{name} ends in {what}: expected logits, or a softmax over classes")
    return keras.Model(model.input, logits, name=model.name)


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


def _chain(output: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """(operation, its output) from the output back to the pooled features, and these features; None without any."""
    chain: list[tuple[Any, Any]] = []
    x = output
    while True:
        operation, inputs = _producer(x)
        if type(operation).__name__ in _POOLING:
            return chain, x
        if len(inputs) != 1 or not _may_be_head(operation):
            break
        chain.append((operation, x))
        x = inputs[0]
    for index in range(len(chain) - 1, -1, -1):
        operation, x = chain[index]
        if len(x.shape) == 2 and len(_producer(x)[1][0].shape) == 4:
            return chain[:index], x
    return chain, None


def _may_be_head(operation: Any) -> bool:
    if type(operation).__name__ == "Conv2D":
        return tuple(operation.kernel_size) == (1, 1)
    return type(operation).__name__ in _PASSED


def _is_softmax(operation: Any) -> bool:
    kind = type(operation).__name__
    return kind == "Softmax" or (kind == "Activation" and operation.activation is keras.activations.softmax)


def _producer(tensor: Any) -> tuple[Any, list[Any]]:
    """The operation whose output a symbolic tensor is, and what it was called with."""
    history = tensor._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    return history.operation, list(node.input_tensors)


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
