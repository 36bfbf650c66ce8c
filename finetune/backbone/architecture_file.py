"""A model from two files: its architecture, and weights that were saved without one (`model.save_weights`)."""

import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from checkpoints.formats import keras_zip, open_checkpoint
from checkpoints.formats.hdf5 import Hdf5
from checkpoints.formats.location import HDF5_MAGIC, newest_checkpoint, starts_with
from checkpoints.formats.slim import OBJECT_GRAPH
from finetune.backbone.keras_2.keyed_weights import load_keyed
from finetune.backbone.keras_2.legacy_config import LegacyConfig, checked, read_legacy
from finetune.backbone.keras_2.legacy_file import made_of
from finetune.backbone.keras_2.to_keras_3 import transferred
from finetune.backbone.keras_file import open_model, refusal
from finetune.errors import FinetuneError
from finetune.text import first_line

if TYPE_CHECKING:
    import tf_keras

_LARGEST = 64 * 2**20
"""Bytes of a JSON file that are read: configs of the largest networks have some hundred thousand."""


def assembled(architecture: Path, weights: Path) -> keras.Model:
    """The model of `architecture` (.keras, .h5, or the JSON of `model.to_json()`, of Keras 2 or 3) with `weights`.

    weights: an HDF5 or `.keras` file, or the prefix or the directory of a TF checkpoint. Those in the file of the
    architecture are replaced. JSON is data: layers with Python code and classes that are not Keras's are refused.
    Raises FinetuneError, also where the weights are not those of the architecture; CheckpointError for damaged files.
    """
    if weights.is_dir():
        weights = newest_checkpoint(weights)
    is_hdf5 = weights.is_file() and starts_with(weights, HDF5_MAGIC)
    is_keras = weights.is_file() and zipfile.is_zipfile(weights)
    if is_hdf5:
        Hdf5(weights).require_harmless()
    elif is_keras:
        keras_zip.require_harmless(weights)
    elif not Path(f"{weights}.index").is_file():
        raise FinetuneError(
            f"{weights} holds no weights that are known: expected a .h5 or .keras file, or the prefix of a checkpoint "
            "(its .index file without .index), as model.save_weights writes them"
        )
    legacy, model = _opened(architecture)
    try:
        if legacy is not None:
            made = _of_keras_2(legacy)
            if is_keras:
                load_keyed(weights, made)
            elif is_hdf5:
                made.load_weights(str(weights))
            else:
                _restore(made, str(weights))
            return transferred(made, name=str(architecture))
        if is_hdf5 or is_keras:
            model.load_weights(weights)
        else:
            _assign(model, weights)
    except FinetuneError:
        raise
    except Exception as error:  # Keras and TensorFlow raise whatever their parts raise for weights that do not fit
        raise FinetuneError(
            f"{weights} does not hold the weights of {architecture} ({first_line(error)[:300]}): give the architecture "
            "that they were saved from"
        ) from None
    return model


def _opened(path: Path) -> tuple[LegacyConfig | None, Any]:
    """(what Keras 2 wrote, None), or (None, the model of Keras 3)."""
    if path.suffix != ".json":
        model = open_model(path)  # all that is refused in a model file is refused here
        return (legacy, None) if (legacy := read_legacy(path)) else (None, model)
    if not path.is_file():
        raise FinetuneError(f"there is no file {path}: expected a Keras model, or what model.to_json() gives")
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError
        config = json.loads(path.read_text(encoding="utf-8"))
        config = json.loads(config) if isinstance(config, str) else config  # to_json() through json.dump
        version = str(config.get("keras_version", "3"))
    except (ValueError, AttributeError, RecursionError):
        raise FinetuneError(f"{path} is no JSON of a model: expected what model.to_json() gives") from None
    if version.partition(".")[0] in ("1", "2"):
        return LegacyConfig(
            path, version, {key: config[key] for key in ("class_name", "config") if key in config}
        ), None
    try:
        model = keras.models.model_from_json(json.dumps(config))
        if not isinstance(model, keras.Model):
            raise TypeError(f"it describes a {type(model).__name__}, no model")
    except Exception as error:  # Keras raises whatever its parts raise
        raise FinetuneError(refusal(path, str(error).strip())) from None
    return None, model


def _of_keras_2(legacy: LegacyConfig) -> "tf_keras.Model":
    """The model of a config, with weights of no meaning."""
    config = checked(legacy)
    import tf_keras

    model = made_of(config)
    if not isinstance(model, tf_keras.Model):
        raise TypeError("it describes no model")
    return model


def _restore(made: "tf_keras.Model", prefix: str) -> None:
    """Read what `model.save_weights` wrote, or `tf.train.Checkpoint(NAME=model)`. Raises what TensorFlow raises."""
    import tensorflow as tf
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    try:
        made.load_weights(prefix).assert_existing_objects_matched()
    except AssertionError:
        held = tf.train.load_checkpoint(prefix).get_tensor(OBJECT_GRAPH)
        root = trackable_object_graph_pb2.TrackableObjectGraph.FromString(held).nodes[0]
        for name in (child.local_name for child in root.children if child.local_name.isidentifier()):
            with suppress(AssertionError):
                tf.train.Checkpoint(**{name: made}).read(prefix).assert_existing_objects_matched()
                return
        raise


def _assign(model: keras.Model, weights: Path) -> None:
    """Set a Keras 3 model's weights from a checkpoint of Keras 2, by the names of layers and variables."""
    opened = open_checkpoint(weights)
    for layer in model._flatten_layers(include_self=False, recursive=True):
        for variable in [] if getattr(layer, "layers", None) else layer.weights:
            name = f"{layer.name}/{variable.name}"
            if name not in opened.shapes:
                raise KeyError(f"it has no {name}")
            variable.assign(opened.read(name))
