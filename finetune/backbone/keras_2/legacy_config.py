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
    "Activation", "ActivityRegularization", "Add", "AdditiveAttention", "AlphaDropout", "Attention", "Average",
    "AveragePooling1D", "AveragePooling2D", "Cropping1D", "SpatialDropout1D", "UpSampling1D", "ZeroPadding1D",
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
_GONE = ("CuDNNGRU", "CuDNNLSTM", "DenseFeatures", "LocallyConnected1D", "LocallyConnected2D", "Merge")
"""Layers of Keras 2 without a counterpart."""
_PARTS = frozenset({
    "Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Orthogonal",
    "Identity", "GlorotUniform", "GlorotNormal", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "L1", "L2",
    "L1L2", "OrthogonalRegularizer", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "RadialConstraint", "TensorShape",
    "__tuple__", "__ellipsis__", "__numpy__", "__tensor__",
})  # fmt: skip
"""What the settings of these layers may hold."""
_ACTIVATIONS = (
    *("relu", "relu6", "elu", "selu", "silu", "swish", "gelu", "sigmoid", "hard_sigmoid", "softmax", "log_softmax"),
    *("softplus", "softsign", "tanh", "exponential", "linear", "mish", "hard_swish", "leaky_relu"),
)
_OTHER_NAMES = {
    "h_swish": "hard_swish",
    "hardswish": "hard_swish",
    "hard_silu": "hard_swish",
    "log_softmax_v2": "log_softmax",
}
_SAME: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **dict.fromkeys(("BatchNormalizationV1", "BatchNormalizationV2"), ("BatchNormalization", {})),  # TensorFlow 1.13
    **dict.fromkeys(("FixedDropout", "DropConnect"), ("Dropout", {"rate": 0.0})),  # of EfficientNets for Keras 2.2
    "Swish": ("Activation", {"activation": "swish"}),
    "Addons>GroupNormalization": ("GroupNormalization", {}),
    "Addons>InstanceNormalization": ("GroupNormalization", {"groups": -1}),
    "Custom>CustomScaleLayer": ("CustomScaleLayer", {}),
}
"""Classes whose layers compute, outside of training, what another one's do with these settings."""
_FORGOTTEN = {
    "BatchNormalization": ("mode", "freeze", "adjustment"),  # of Keras 1, of keras-resnet, of TensorFlow 1.x
    "Dropout": ("drop_connect_rate",),
    "DepthwiseConv2D": ("filters",),
}
"""Settings that files have and Keras 2 has not, or no longer; outside of training they change nothing."""
_ONLY_IN_TRAINING = ("_initializer", "_regularizer", "_constraint")
_NARROW = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "infer", "_infer", "infer_with_float32_vars")
"""Types and policies that are computed as float32; TensorFlow 1.14 wrote those that infer."""
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
        return needs_keras_2(self.model)


def needs_keras_2(config: Any, depth: int = 0) -> bool:
    """Whether BatchNorm in the config of a model is of a kind that Keras 3 does not have."""
    if depth > _DEEPEST or not isinstance(config, list | dict):
        return False
    if isinstance(config, dict) and (config.get("renorm") is True or config.get("virtual_batch_size")):
        return True
    return any(needs_keras_2(one, depth + 1) for one in (config.values() if isinstance(config, dict) else config))


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
    cleaned: dict[str, Any] = _cleaned(_one_copy(dict(legacy.model)), legacy, 0)
    return cleaned


def _one_copy(model: dict[str, Any]) -> dict[str, Any]:
    """The model that `multi_gpu_model` called for each slice of a batch, called once.

    Its slices are Lambda layers, whose results are joined at the end; that changes nothing outside of training.
    """
    settings = model.get("config")
    layers = settings.get("layers") if isinstance(settings, dict) else None
    layers = [one for one in layers if isinstance(one, dict)] if isinstance(layers, list) else []
    of_kind: dict[str, list[Any]] = {}
    for one in layers:
        config = dict(_entries(one.get("config")))
        kind = "copied" if "layers" in config else str(one.get("class_name"))
        if kind == "Lambda" and set(dict(_entries(config.get("arguments")))) == {"i", "parts"}:
            kind = "slice"
        of_kind.setdefault(kind, []).append(one)
    if set(of_kind) != {"InputLayer", "slice", "copied", "Concatenate"} or len(layers) != 3 + len(of_kind["slice"]):
        return model
    images, inner, joined = (of_kind[kind][0] for kind in ("InputLayer", "copied", "Concatenate"))
    once = {**inner, "inbound_nodes": [[[images.get("name"), 0, 0, {}]]]}
    try:
        ends = [joined["inbound_nodes"][0][0][:3]]  # of the first slice
    except (TypeError, LookupError):
        return model
    return {**model, "config": {**dict(_entries(settings)), "layers": [images, once], "output_layers": ends}}


def _cleaned(value: Any, legacy: LegacyConfig, depth: int) -> Any:
    if depth > _DEEPEST:
        raise FinetuneError(f"{legacy.path} holds a model config of more than {_DEEPEST} levels: it is not read")
    if isinstance(value, list):
        return [_cleaned(one, legacy, depth + 1) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"type", "value"} and value["type"] == "ndarray":  # NumPy's numbers in Keras 2.0 to 2.2
        return value["value"]
    if "class_name" in value:
        value = _stock(_scaling(value))
        _check_class(value, legacy)
        value = {key: one for key, one in value.items() if key not in _DROPPED}
        if isinstance(value.get("config"), dict):
            value["config"] = _known_settings(value["class_name"], value["config"], legacy)
    return {
        key: _type_name(one) if key in ("dtype", "dtype_policy") else _cleaned(one, legacy, depth + 1)
        for key, one in value.items()
    }


def _known_settings(layer: str, settings: Mapping[str, Any], legacy: LegacyConfig) -> dict[str, Any]:
    """A layer's settings that Keras 2 has, as it is installed here."""
    known = _own_axis(settings)
    for key in _FORGOTTEN.get(layer, ()):
        known.pop(key, None)
    for key, one in known.items():
        if key.endswith(_ONLY_IN_TRAINING) and not _is_stock(one):
            known[key] = "zeros" if key.endswith("_initializer") else None
        if key.endswith("activation") and one is not None:
            known[key] = _activation(one, settings, legacy)
    return known


def _is_stock(value: Any) -> bool:
    """Whether an initializer, a regularizer or a constraint is one of Keras's."""
    if isinstance(value, dict):
        name = str(value.get("class_name"))
        return name in _PARTS and value.get("registered_name") in (None, "", name)
    return value is None or str(value).replace("_", "").lower() in {one.lower() for one in _PARTS}


def _activation(value: Any, settings: Mapping[str, Any], legacy: LegacyConfig) -> Any:
    """An activation by the name that Keras gives it here, or the config of a layer. FinetuneError for one of your own.

    Functions are known by their names alone, as published networks have them: `relu6` and `hard_swish` of MobileNet.
    """
    name = value
    if isinstance(value, dict):
        if value.get("class_name") != "function":
            return value
        name = value.get("config")
    if isinstance(name, str):
        plain_name = name if name == "Addons>gelu" else name.rpartition(">")[2].lstrip("_")  # theirs is approximate
        plain_name = _OTHER_NAMES.get(plain_name, plain_name)
        if plain_name in _ACTIVATIONS or plain_name in LAYERS:
            return plain_name
    raise FinetuneError(
        f"refused: {legacy.path} uses the activation '{name}' ({_layer_name(settings)}), which is not part of Keras; "
        f"it was saved by {legacy.writer}, and no code is loaded from a model file. Open it in the Keras it came from, "
        "put an activation of Keras in its place, or stock layers that compute it, and save the model again"
    )


def _own_axis(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's settings. With ghost batches Keras 2 saves the axis one too high, and cannot load what it saved."""
    if settings.get("virtual_batch_size") and isinstance(settings.get("axis"), list):
        return {**settings, "axis": [axis - 1 if isinstance(axis, int) else axis for axis in settings["axis"]]}
    return dict(settings)


def _stock(value: dict[str, Any]) -> dict[str, Any]:
    """A layer by the class of Keras that does the same."""
    names = [str(value.get(key)) for key in ("registered_name", "class_name")]
    names += [one.rpartition(">")[2] for one in names]  # without the package that it was registered in
    name = next((one for one in names if one in _SAME), None)
    settings = value.get("config")
    if name is None or not isinstance(settings, dict) or "beta" in settings:  # keras-contrib's Swish has a factor
        return value
    kind, own = _SAME[name]
    return {**value, "class_name": kind, "registered_name": None, "config": {**settings, **own}}


def _scaling(value: Mapping[str, Any]) -> dict[str, Any]:
    """The sum `x + scale * y` of Keras's own InceptionResNetV2, a Lambda layer up to Keras 2.14, by its later class.

    The code in the file is not looked at.
    """
    settings = value.get("config")
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
    if hasattr(keras.layers, name) or name in _GONE:
        among = "is not among those of image networks that are transferred from Keras 2"
        return (
            f"{path}, saved by {writer}, has a layer of the class '{name}', which "
            f"{'Keras 3 does not have' if name in _GONE else among}: open it in the Keras it came from, put other "
            "stock layers in its place and save the model again"
        )
    return (
        f"refused: {path} needs the class '{name}', which is not part of Keras; it was saved by {writer}, and no code "
        "is loaded from a model file. Open it in the Keras it came from, where the class is defined, rebuild the model "
        "of stock layers there, give it the weights with set_weights, and save that"
    )


def _layer_name(settings: Any) -> str:
    return f"'{dict(_entries(settings)).get('name', 'without a name')}'"
