"""Open a model file that Keras 2 wrote, with `tf_keras`. No code in it is run."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.backbone.keras_2.keyed_weights import load_keyed
from finetune.backbone.keras_2.legacy_config import LegacyConfig, checked, read_legacy
from finetune.errors import FinetuneError
from finetune.text import first_line

if TYPE_CHECKING:
    import tf_keras


def open_legacy(path: Path) -> "tf_keras.Model":
    """The model in a file of Keras 2, with its weights, in float32 and not compiled.

    Raises FinetuneError where it is not of Keras 2, names classes or functions that are not on the lists, or `tf_keras`
    cannot build it.
    """
    legacy = read_legacy(path)
    if legacy is None:
        raise FinetuneError(f"{path} holds no model of Keras 2: expected a whole model, as its model.save writes it")
    return built(legacy)


def built(legacy: LegacyConfig) -> "tf_keras.Model":
    """The model of a config, with the weights of its file. Raises FinetuneError as `open_legacy` does."""
    config = checked(legacy)
    import tf_keras

    try:
        model = made_of(config)
        if zipfile.is_zipfile(legacy.path):
            load_keyed(legacy.path, model)
        else:
            model.load_weights(str(legacy.path))
    except Exception as error:  # Keras 2 raises whatever its parts raise: HDF5, JSON, ValueError, TensorFlow's
        raise FinetuneError(
            f"{legacy.path}, saved by {legacy.writer}, cannot be built by Keras 2 as it is installed here (tf_keras "
            f"{tf_keras.__version__}: {reason(error)}). Where the file is whole, open it in the Keras it "
            "came from and save it again there"
        ) from None
    if not isinstance(model, tf_keras.Model):
        raise FinetuneError(
            f"{legacy.path} holds a '{type(model).__name__}' instead of a model: expected a whole model"
        )
    return model


def reason(error: Exception) -> str:
    """What Keras 2 could not do, in a line. It quotes the whole config of a layer before it says so."""
    _, quoted, said = str(error).rpartition("Exception encountered:")
    return first_line(ValueError(said) if quoted else error)


def made_of(config: Mapping[str, Any]) -> Any:
    """What Keras 2 makes of a config that was `checked`. Raises whatever its parts raise."""
    import tensorflow as tf
    import tf_keras
    from tf_keras.src.applications.inception_resnet_v2 import CustomScaleLayer
    from tf_keras.src.saving.legacy.saved_model import json_utils

    plain = json_utils.decode(json.dumps(config))  # `...` and tuples, as HDF5 files spell them

    def hard_swish(x: Any) -> Any:
        return x * tf.nn.relu6(x + 3) / 6

    own = {one.__name__: one for one in (tf.nn.relu6, hard_swish, tf.nn.leaky_relu, CustomScaleLayer)}
    own["log_softmax"] = tf.nn.log_softmax
    return tf_keras.layers.deserialize(plain, custom_objects=own)
