"""Open a SavedModel of Keras 2's `model.save` as the model of its config. Neither its graph nor code in it is run."""

from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.errors import CheckpointError
from checkpoints.formats.keras_metadata import recorded
from checkpoints.formats.saved_model import open_by_keys
from checkpoints.formats.slim import OBJECT_GRAPH
from finetune.backbone.keras_2.legacy_config import LegacyConfig, checked
from finetune.backbone.keras_2.legacy_file import made_of, reason
from finetune.errors import FinetuneError

if TYPE_CHECKING:
    import tf_keras


def has_layers(path: Path) -> bool:
    """Whether the SavedModel in `path` records a model of stock layers. CheckpointError where it is damaged."""
    legacy = _read(path)
    try:
        return legacy is not None and bool(checked(legacy))
    except FinetuneError:  # Python code, or custom classes
        return False


def open_directory(path: Path) -> "tf_keras.Model":
    """The model that a SavedModel records, with its variables, in float32 and not compiled.

    Raises FinetuneError where it records none, or one with classes or functions that are not on the lists, and where
    its variables are not those of that model; CheckpointError where it is damaged.
    """
    legacy = _read(path)
    if legacy is None:
        raise FinetuneError(
            f"{path} records no layers of Keras 2 (a subclassed model, or model.export wrote it): expected a "
            "functional or sequential model that model.save wrote"
        )
    config = checked(legacy)
    import tf_keras

    try:
        model: tf_keras.Model = made_of(config)
        _assign(model, path)
    except (FinetuneError, CheckpointError):
        raise
    except Exception as error:  # Keras 2 raises whatever its parts raise: ValueError, TypeError, TensorFlow's
        raise FinetuneError(
            f"{path}, saved by {legacy.writer}, cannot be built by Keras 2 as it is installed here (tf_keras "
            f"{tf_keras.__version__}: {reason(error)}). Where it is whole, open it in the Keras it came from "
            "and save it again there"
        ) from None
    return model


def _read(path: Path) -> LegacyConfig | None:
    model = recorded(path)
    if model is None or model.config is None:
        return None
    return LegacyConfig(path, model.version, {"class_name": model.class_name, "config": model.config})


def _assign(model: "tf_keras.Model", path: Path) -> None:
    """Give the model its variables, which are found by the way to them through the objects that were saved."""
    import tensorflow as tf
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    opened = open_by_keys(path)  # which checks the files before TensorFlow reads them
    prefix = str(opened.path)
    found = tf.train.CheckpointView(prefix).match(model)
    held = tf.train.load_checkpoint(prefix).get_tensor(OBJECT_GRAPH)
    nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(held).nodes
    keys = {id(one): [each.checkpoint_key for each in nodes[number].attributes] for number, one in found.items()}
    for variable in model.weights:
        key = next((each for each in keys.get(id(variable), ()) if each in opened.shapes), None)
        if key is None or opened.shapes[key] != tuple(variable.shape):
            shape = list(opened.shapes[key]) if key else "none"
            raise FinetuneError(
                f"the variables of {path} are not those of the layers it records: {variable.name} is "
                f"{list(variable.shape)} there, but {shape} in variables/; save the model again"
            )
        variable.assign(opened.read(key))
    for layer in model._flatten_layers():
        layer.finalize_state()  # of Normalization, which computes with constants made from its variables
