"""The outputs of a user's own classifier: which one is meant, and what it gives: logits, a softmax or sigmoids."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from finetune.batchnorm.scores import SUMS, Scores, sum_to_one
from finetune.batchnorm.surgery import copy_weights
from finetune.errors import FinetuneError, WrongUse

SHAPING = ("Flatten", "Reshape", "Squeeze", "Identity", "Cast")
"""Layers and operations that change an output's shape or type, and no value."""
_MIXING = ("Average", "Mean", "Add", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Stack", "Concatenate")
_OTHERS = ("ReLU", "Relu", "Relu6", "LeakyReLU", "PReLU", "ELU", "Elu", "Tanh", "Softplus", "Exp")
_ACTIVATIONS = {
    keras.activations.linear: "linear",
    keras.activations.softmax: "softmax",
    keras.activations.log_softmax: "softmax",
    keras.activations.sigmoid: "sigmoid",
}
_AS_LAYERS = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}


@dataclass(frozen=True, eq=False)
class Scored:
    """A flat classifier to its outputs `[batch, units]`, in front of their softmax or sigmoid where that is possible.

    words: what was assumed of them, for the user to read; "" where nothing was. stripped: whether a softmax or sigmoid
    of the model is left out.
    """

    model: keras.Model
    scores: Scores
    words: str = ""
    stripped: bool = False


def choose_output(model: keras.Model, wanted: str | None, *, name: str) -> keras.Model:
    """`model` to the one of its outputs that `wanted` names: by its key or its layer. `name` is for messages.

    A model that has only one is given as it is. Raises WrongUse where there is no such output, FinetuneError where
    there are several and none is named.
    """
    tensors = list(getattr(model, "outputs", None) or [])
    if not tensors or isinstance(model, keras.Sequential) or (len(tensors) == 1 and model.output is tensors[0]):
        if wanted is not None and tensors and wanted not in _names(model, tensors):
            raise WrongUse(f"--output {wanted}: {name} has one output, {_names(model, tensors)[0]}: leave it out")
        return model
    names, layers = _names(model, tensors), [producer(one)[0].name for one in tensors]
    if wanted is None and len(tensors) > 1:
        order = sorted(
            range(len(tensors)), key=lambda place: (not classifies(tensors[place]), len(tensors[place].shape))
        )
        found = ", ".join(f"{names[place]} {list(tensors[place].shape)}" for place in order)
        raise FinetuneError(f"{name} has {len(tensors)} outputs: {found}; choose one with --output {names[order[0]]}")
    if wanted is None or wanted in names:
        place = names.index(wanted) if wanted else 0
    elif layers.count(wanted) == 1:
        place = layers.index(wanted)
    else:
        raise WrongUse(f"--output {wanted}: {name} has no such output: expected one of {', '.join(names)}")
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    return keras.Model(inputs, tensors[place], name=model.name)


def as_logits(model: keras.Model, *, name: str, binary: bool = False) -> Scored:
    """The flat classifier `model` to its logits: a final softmax or sigmoid is left out, and remembered.

    Outputs without any are logits: of sigmoids where the model is known to be trained on a `binary` cross-entropy, else
    of a softmax. Raises FinetuneError for an output that is no score of classes.
    """
    output = model.outputs[0]
    x, shaping = output, []
    while type(operation := producer(x)[0]).__name__ in SHAPING or activation_of(operation, x) == "none":
        shaping.append(operation)
        x = producer(x)[1][0]
    activation = activation_of(operation, x)
    if activation not in ("", "linear", "softmax", "sigmoid"):
        what = f"{type(operation).__name__} '{operation.name}'" + (f" with {activation}" if activation else "")
        raise FinetuneError(f"{name} ends in {what}: expected logits, a softmax over classes, or sigmoids")
    if activation in ("softmax", "sigmoid"):
        x = _without(operation, producer(x)[1][0])
        for one in reversed(shaping):
            x = one(x)
    else:
        x = output
    if len(x.shape) == 1:
        x = keras.layers.Reshape((1,), name="logits.unit")(x)
    elif len(x.shape) == 4 and x.shape[1:3] == (1, 1):
        x = keras.layers.Flatten(name="logits.flat")(x)
    elif len(x.shape) != 2:
        raise FinetuneError(f"{name} is no classifier: its output is {list(output.shape)}, expected [batch, classes]")
    probabilities = activation in ("", "linear") and _mixed(output) != ""
    kind = _mixed(output) if probabilities else activation
    summing = kind == "" and not isinstance(operation, keras.layers.Layer) and _sums_to_one(model)
    if summing:
        probabilities, kind = True, "softmax"
    units, bare = int(x.shape[-1]), kind in ("", "linear")
    if units == 1 and kind == "softmax":
        raise FinetuneError(
            f"{name} ends in a softmax over one unit, which is 1 for every image: it never learnt anything; expected "
            "one sigmoid, or a unit for each class"
        )
    per_label = units > 1 and (kind == "sigmoid" or (bare and binary))
    scores = Scores(units, probabilities=probabilities, per_label=per_label, softmax=kind == "softmax")
    words = [scores.words] if scores.words else []
    if summing:
        words.append(SUMS)
    if bare:
        of = "a sigmoid" if units == 1 else "sigmoids" if per_label else "a softmax"
        words.append(f"{name} ends without an activation: its output is read as logits of {of}")
    stripped = activation in ("softmax", "sigmoid")
    return Scored(keras.Model(model.inputs[0], x, name=model.name), scores, "; ".join(words), stripped)


def _sums_to_one(model: keras.Model) -> bool:
    """Whether a model that ends in arithmetic gives probabilities for noise, as of a softmax that is written out."""
    if None in model.input_shape[1:] or len(model.output_shape) != 2 or model.output_shape[-1] == 1:
        return False
    noise = np.random.default_rng(0).normal(size=(8, *model.input_shape[1:])).astype(np.float32)
    return sum_to_one(model(noise, training=False))


def activation_of(operation: Any, output: Any) -> str:
    """What a layer or operation does to its output last: "linear", "softmax", "sigmoid" or the name of another.

    "none" for a layer that is a linear activation alone, "" for those that have no activation.
    """
    kind, activation = type(operation).__name__, getattr(operation, "activation", None)
    if kind in _AS_LAYERS:
        axis = getattr(operation, "axis", -1)
        last = axis in (-1, len(output.shape) - 1, [-1], (-1,))
        return _AS_LAYERS[kind] if last or kind == "Sigmoid" else f"{kind} over axis {axis}"
    if callable(activation):
        called = getattr(activation, "__name__", type(activation).__name__)
        found = _ACTIVATIONS.get(activation) or _AS_LAYERS.get(called, called)
        return "none" if kind == "Activation" and found == "linear" else found
    return kind if kind in _OTHERS else ""


def _without(operation: Any, given: Any) -> Any:
    """The output of a layer without its final activation, on its input `given`."""
    if type(operation).__name__ in (*_AS_LAYERS, "Activation"):
        return given
    linear = type(operation).from_config({**operation.get_config(), "activation": "linear"})
    x = linear(given)
    copy_weights(operation, linear)
    return x


def _mixed(tensor: Any) -> str:
    """ "softmax" or "sigmoid" where an output is an average of such probabilities, as of an ensemble; else ""."""
    operation, inputs = producer(tensor)
    kind = activation_of(operation, tensor)
    if kind in ("softmax", "sigmoid"):
        return kind
    if type(operation).__name__ not in (*_MIXING, *SHAPING) or not inputs:
        return ""
    found = {_mixed(one) for one in inputs}
    return found.pop() if len(found) == 1 else ""


def classifies(tensor: Any) -> bool:
    """Whether an output is certainly of a classifier: a softmax or sigmoids, one for each image."""
    return _mixed(tensor) != "" and all(side in (1, None) for side in tensor.shape[1:-1])


def _names(model: keras.Model, tensors: list[Any]) -> list[str]:
    """A name for each output: the key of a dictionary, else that of its layer, numbered where it gives several."""
    struct = getattr(model, "_outputs_struct", None)
    layers = [str(producer(one)[0].name) for one in tensors]
    names = layers
    if isinstance(struct, dict):
        names = [next((str(key) for key, one in struct.items() if one is tensor), "") for tensor in tensors]
    return [name if names.count(name) == 1 and name else f"{layers[i]}:{i}" for i, name in enumerate(names)]


def producer(tensor: Any) -> tuple[Any, list[Any]]:
    """The operation whose output a symbolic tensor is, and what it was called with."""
    history = tensor._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    return history.operation, list(node.input_tensors)
