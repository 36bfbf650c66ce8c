"""What a network's layers and variables are called: in a slim checkpoint, in Keras's weight files, to the user."""

import re

import keras

SLIM_NAMES = {
    "kernel": "weights",
    "bias": "biases",
    "depthwise_kernel": "depthwise_weights",
    "pointwise_kernel": "pointwise_weights",
}
"""Keras's names for variables to slim's; BatchNorm's gamma, beta, moving_mean and moving_variance are the same."""


def slim_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Map slim checkpoint names to the variables of a graph with slim's scopes, in the model's order.

    `resnet_v1_50.conv1` with variable `kernel` is `resnet_v1_50/conv1/weights`.
    """
    return {
        f"{display_name(layer.name)}/{_slim_name(layer, variable)}": variable
        for layer in model.layers
        for variable in layer.weights
    }


def keras_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Map `layer/variable` to variables, in the order of `model.layers`: that of Keras's own loader of .h5 files."""
    return {f"{layer.name}/{variable.name}": variable for layer in model.layers for variable in layer.weights}


def weights_file_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Map Keras 3's keys in a `.weights.h5` file to variables: `layers/batch_normalization_1/vars/0`.

    A layer is its class, counted among the model's layers. So the model must be of stock layers: in a class of ours
    a layer has another key. Source: keras/src/saving/saving_lib.py, `_save_container_state`.
    """
    used: dict[str, int] = {}
    variables = {}
    for layer in model.layers:
        stem = _snake_case(type(layer).__name__)
        count = used[stem] = used.get(stem, -1) + 1
        group = f"layers/{stem}_{count}" if count else f"layers/{stem}"
        variables.update({f"{group}/vars/{index}": variable for index, variable in enumerate(layer.weights)})
    return variables


def display_name(layer_name: str) -> str:
    """Write a layer's name as the user reads and types it: slim's scope, with slashes."""
    return layer_name.replace(".", "/")


def _slim_name(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    if isinstance(layer, keras.layers.DepthwiseConv2D) and variable.name == "kernel":
        return "depthwise_weights"
    return SLIM_NAMES.get(variable.name, str(variable.name))


def _snake_case(class_name: str) -> str:
    """As keras/src/utils/naming.py has it: `BatchNormalization` is `batch_normalization`, `Conv2D` is `conv2d`."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
