"""What a network's layers and variables are called: in a slim checkpoint, in Keras's weight files, to the user."""

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


def display_name(layer_name: str) -> str:
    """Write a layer's name as the user reads and types it: slim's scope, with slashes."""
    return layer_name.replace(".", "/")


def _slim_name(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    if isinstance(layer, keras.layers.DepthwiseConv2D) and variable.name == "kernel":
        return "depthwise_weights"
    return SLIM_NAMES.get(variable.name, str(variable.name))
