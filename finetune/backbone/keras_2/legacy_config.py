"""The config of a Keras 2 model file, read as data and checked before anything is made of it."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras

from checkpoints.formats.keras_zip import ZIP_ERRORS
from finetune.backbone.keras_2.tf_operations import FUNCTIONS, NODES, node_of, plain
from finetune.errors import FinetuneError

LAYERS = frozenset({
    "Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average", "AveragePooling1D", "AveragePooling2D",
    "BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "CenterCrop", "Concatenate", "Conv1D",
    "Conv2D", "Conv2DTranspose", "Cropping2D", "CustomScaleLayer", "Dense", "DepthwiseConv2D", "Dot", "Dropout", "ELU",
    "Flatten", "Functional", "GaussianDropout", "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GroupNormalization", "InputLayer", "LayerNormalization", "LeakyReLU",
    "MaxPooling1D", "MaxPooling2D", "Maximum", "Minimum", "Model", "MultiHeadAttention", "Multiply", "Normalization",
    "PReLU", "Permute", "RandomBrightness", "RandomContrast", "RandomCrop", "RandomFlip", "RandomHeight",
    "RandomRotation", "RandomTranslation", "RandomWidth", "RandomZoom", "ReLU", "RepeatVector", "Rescaling", "Reshape",
    "Resizing", "SeparableConv2D", "Sequential", "SlicingOpLambda", "Softmax", "SpatialDropout2D", "Subtract",
    "SyncBatchNormalization", "TFOpLambda", "TensorFlowOpLayer", "ThresholdedReLU", "UnitNormalization", "UpSampling2D",
    "ZeroPadding2D",
})  # fmt: skip
"""Layers of Keras 2 that are transferred, by the names that files give them."""
_PARTS = frozenset({
    "Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Orthogonal",
    "Identity", "GlorotUniform", "GlorotNormal", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "L1", "L2",
    "L1L2", "OrthogonalRegularizer", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "RadialConstraint", "TensorShape",
    "__tuple__", "__ellipsis__", "__numpy__", "__tensor__",
})  # fmt: skip
"""What the settings of these layers may hold."""
_ACTIVATIONS = (
    "relu",
    "relu6",
    "elu",
    "selu",
    "silu",
    "swish",
    "gelu",
    "sigmoid",
    "softmax",
    "softplus",
    "tanh",
    "linear",
)
_NARROW = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
_DROPPED = ("module", "registered_name", "build_config", "compile_config", "shared_object_id")
_DEEPEST = 100


@dataclass(frozen=True)
class LegacyConfig:
    """What a file says of the model in it. version: that of the Keras that wrote it, "" where the file has none."""

    path: Path
    version: str
    model: Mapping[str, Any]

    @property
    def writer(self) -> str:
        """The program that wrote the file, for people."""
        return f"Keras {self.version}" if self.version else "Keras 2"

    @property
    def own_batchnorm(self) -> bool:
        """Whether BatchNorm in it is of a kind that Keras 3 does not have."""
        return _any_own(self.model, 0)


def _any_own(value: Any, depth: int) -> bool:
    if depth > _DEEPEST or not isinstance(value, list | dict):
        return False
    if isinstance(value, dict) and (value.get("renorm") is True or value.get("virtual_batch_size")):
        return True
    return any(_any_own(one, depth + 1) for one in (value.values() if isinstance(value, dict) else value))


def read_legacy(path: Path) -> LegacyConfig | None:
    """The config in a `.h5` or `.keras` file that Keras 2 wrote; None for one of Keras 3, and where there is none.

    Nothing is checked yet. Raises FinetuneError where the config is no JSON.
    """
    version, text = _texts(path)
    if not text or version.partition(".")[0] not in ("", "1", "2"):
        return None
    try:
        model = json.loads(text)
    except (ValueError, RecursionError):
        raise FinetuneError(f"{path} holds a model config that is not JSON: it is damaged, copy it again") from None
    if not isinstance(model, dict) or (not version and "batch_shape" in text):  # which Keras 3 calls it
        return None
    return LegacyConfig(path, version, model)


def _texts(path: Path) -> tuple[str, str]:
    """(version of Keras, config of the model), "" for what the file does not hold."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as zipped:
            try:
                about = json.loads(zipped.read("metadata.json"))
                version = about.get("keras_version", "3")
                text = zipped.read("config.json").decode("utf-8", errors="replace")
            except (*ZIP_ERRORS, KeyError, AttributeError, NotImplementedError, RecursionError):
                return "3", ""
            return str(version), text
    try:
        with h5py.File(path, "r") as file:
            found = [file.attrs.get(name, "") for name in ("keras_version", "model_config")]
    except (OSError, KeyError, ValueError, RuntimeError):
        return "3", ""
    version, text = (one.decode("utf-8", errors="replace") if isinstance(one, bytes) else str(one) for one in found)
    return version, text


def checked(legacy: LegacyConfig) -> dict[str, Any]:
    """The model's config with classes by name alone and in float32, for `tf_keras` to build.

    Raises FinetuneError where it names a class or a function that is not on the lists: no code of a file is run, and
    none that it names.
    """
    cleaned: dict[str, Any] = _cleaned(dict(legacy.model), legacy, 0)
    return cleaned


def _cleaned(value: Any, legacy: LegacyConfig, depth: int) -> Any:
    if depth > _DEEPEST:
        raise FinetuneError(f"{legacy.path} holds a model config of more than {_DEEPEST} levels: it is not read")
    if isinstance(value, list):
        return [_cleaned(one, legacy, depth + 1) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "function" and value.get("config") in _ACTIVATIONS:
        return value["config"]  # how `.keras` files have tf.nn.relu
    if "class_name" in value:
        value = _scaling(value)
        _check_class(value, legacy)
        value = {key: one for key, one in value.items() if key not in _DROPPED}
        if value["class_name"] in ("BatchNormalizationV1", "BatchNormalizationV2"):  # TensorFlow 1.13
            value["class_name"] = "BatchNormalization"
        value = {key: _own_axis(one) if key == "config" else one for key, one in value.items()}
    return {
        key: _type_name(one) if key in ("dtype", "dtype_policy") else _cleaned(one, legacy, depth + 1)
        for key, one in value.items()
    }


def _own_axis(settings: Any) -> Any:
    """A layer's settings. With ghost batches Keras 2 saves the axis one too high, and cannot load what it saved."""
    if isinstance(settings, dict) and settings.get("virtual_batch_size") and isinstance(settings.get("axis"), list):
        return {**settings, "axis": [axis - 1 if isinstance(axis, int) else axis for axis in settings["axis"]]}
    return settings


def _scaling(value: Mapping[str, Any]) -> dict[str, Any]:
    """The sum `x + scale * y` of Keras's own InceptionResNetV2, a Lambda layer up to Keras 2.14, by its later class.

    The code in the file is not looked at.
    """
    settings = value.get("config")
    if value["class_name"] == "Custom>CustomScaleLayer" or value.get("registered_name") == "Custom>CustomScaleLayer":
        return {**value, "class_name": "CustomScaleLayer", "registered_name": None}
    if value["class_name"] == "Lambda" and isinstance(settings, dict):
        arguments = settings.get("arguments")
        module = str(settings.get("module"))
        if module.endswith("applications.inception_resnet_v2") and isinstance(arguments, dict):
            scale = arguments.get("scale")
            if len(arguments) == 1 and isinstance(scale, float | int):
                config = {"name": settings.get("name"), "trainable": True, "scale": scale}
                return {**value, "class_name": "CustomScaleLayer", "config": config}
    return dict(value)


def _type_name(dtype: Any) -> Any:
    """A layer's type without its policy: mixed and half precision are computed as float32."""
    if isinstance(dtype, dict):
        dtype = dict(_entries(dtype.get("config"))).get("name", "float32")
    return "float32" if dtype in _NARROW else dtype


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    return iter(value.items() if isinstance(value, dict) else ())


def _check_class(value: Mapping[str, Any], legacy: LegacyConfig) -> None:
    """Raise FinetuneError for a class, or a function in one, that is not on the lists."""
    name, settings = str(value["class_name"]), value.get("config")
    registered = value.get("registered_name")
    if name in ("Lambda", "__lambda__"):
        raise FinetuneError(
            f"refused: {legacy.path} holds Python code (a Lambda layer, {_layer_name(settings)}) that would run when "
            f"it is loaded; it was saved by {legacy.writer}. Open it in the Keras it came from, put a stock layer in "
            "its place (Rescaling, Activation, ...) and save the model again"
        )
    if name not in LAYERS | _PARTS or (isinstance(registered, str) and registered not in (name, "")):
        raise FinetuneError(_unknown_class(str(registered or name), legacy))
    function = _wanted(name, settings)
    if function is not None and function not in (FUNCTIONS if name != "TensorFlowOpLayer" else NODES):
        raise FinetuneError(
            f"{legacy.path}, saved by {legacy.writer}, calls TensorFlow's '{function}' between its layers "
            f"({_layer_name(settings)}), which has no counterpart here. Open it in the Keras it came from, put stock "
            "layers in its place and save the model again"
        )


def _wanted(name: str, settings: Any) -> str | None:
    """The function of TensorFlow that a layer is a call of."""
    if not isinstance(settings, dict):
        return None
    if name in ("TFOpLambda", "SlicingOpLambda"):
        return plain(str(settings.get("function")))
    return node_of(settings.get("node_def")) if name == "TensorFlowOpLayer" else None


def _unknown_class(name: str, legacy: LegacyConfig) -> str:
    path, writer = legacy.path, legacy.writer
    if hasattr(keras.layers, name):
        return (
            f"{path}, saved by {writer}, has a layer of the class '{name}', which is not among those of image networks "
            "that are transferred from Keras 2: open it in the Keras it came from, put other stock layers in its place "
            "and save the model again"
        )
    return (
        f"refused: {path} needs the class '{name}', which is not part of Keras; it was saved by {writer}, and no code "
        "is loaded from a model file. Open it in the Keras it came from, where the class is defined, rebuild the model "
        "of stock layers there, give it the weights with set_weights, and save that"
    )


def _layer_name(settings: Any) -> str:
    return f"'{dict(_entries(settings)).get('name', 'without a name')}'"
