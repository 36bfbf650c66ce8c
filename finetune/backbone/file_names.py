"""A network's variables under the names that files of weights have for them."""

import keras

from checkpoints.formats.keras_zip import snake_case
from checkpoints.matching.structures import Entry
from finetune.backbone.networks.names import keras_variables, slim_variables


def network_variables(model: keras.Model, *, source: str) -> dict[str, keras.Variable]:
    """Map the names in published files of a source to the variables of a network of stock layers."""
    return keras_variables(model) if source == "keras" else slim_variables(model)


def network_entries(model: keras.Model, *, source: str) -> list[Entry]:
    """The variables of a network of stock layers, as a file of that source names them."""
    named = network_variables(model, source=source)
    keys = weights_file_variables(model)
    return [Entry(name, tuple(variable.shape), key) for (name, variable), key in zip(named.items(), keys, strict=True)]


def weights_file_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Map Keras 3's keys in a `.weights.h5` file to variables: `layers/batch_normalization_1/vars/0`.

    A layer is its class, counted among the model's layers. So the model must have stock layers: a class of this
    package has another key. Source: keras/src/saving/saving_lib.py, `_save_container_state`.
    """
    used: dict[str, int] = {}
    variables = {}
    for layer in model.layers:
        stem = snake_case(type(layer).__name__)
        count = used[stem] = used.get(stem, -1) + 1
        group = f"layers/{stem}_{count}" if count else f"layers/{stem}"
        variables.update({f"{group}/vars/{index}": variable for index, variable in enumerate(layer.weights)})
    return variables
