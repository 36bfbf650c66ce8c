"""A Keras 2 model as a Keras 3 model of stock layers that computes the same."""

import inspect
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune.backbone.keras_2.tf_operations import call_function, call_node
from finetune.errors import FinetuneError
from finetune.text import first_line

if TYPE_CHECKING:
    import tf_keras

_RANDOM = (
    *("RandomBrightness", "RandomContrast", "RandomFlip", "RandomHeight", "RandomRotation", "RandomTranslation"),
    *("RandomWidth", "RandomZoom"),
)
"""Augmentation, which returns its input outside of training."""
STATISTICS = ("moving_mean", "moving_variance")
_BATCHNORM = ("BatchNormalization", "SyncBatchNormalization")
_CALLED = {"hard_swish": "hard_silu", "log_softmax_v2": "log_softmax"}
"""What Keras 3 calls the same activation."""
_FUSED_EPSILON = 1.001e-5
"""The least epsilon of the fused operation that Keras 2 normalises with (tf.compat.v1.nn.fused_batch_norm)."""


def transferred(model: "tf_keras.Model", *, name: str) -> keras.Model:
    """`model`, functional or sequential, as a functional Keras 3 model: the same outputs and names, weights copied.

    Models in it stay models. Augmentation is left out, and casts between float types. BatchNorm that Keras 2 ran on its
    moving statistics in training too, because it was frozen or called with `training=False`, is marked as not
    trainable. `name` is what messages call the model. Raises FinetuneError, naming the layer, for what has no form in
    Keras 3.
    """
    try:
        return Transfer(name).of_model(model)
    except FinetuneError:
        raise
    except Exception as error:  # Keras raises whatever its parts raise, where names or shapes are none it takes
        raise FinetuneError(
            f"{name}: the model of Keras 2 has no counterpart in Keras 3 ({first_line(error)[:200]}): open it in the "
            "Keras it came from, rebuild it of stock layers and save that"
        ) from None


class Transfer:
    """One pass over a Keras 2 model and the models in it. A shared layer stays one layer.

    pairs: (layer, the layer of Keras 3 with its weights), in the order of the pass.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._made: dict[int, Any] = {}
        self.pairs: list[tuple[Any, keras.layers.Layer]] = []

    def of_model(self, model: Any) -> keras.Model:
        """The model of Keras 3. Raises FinetuneError as `transferred` does."""
        if not getattr(model, "_is_graph_network", False):
            raise FinetuneError(
                f"{self._name}: the model '{model.name}' of Keras 2 has no graph of layers (it is subclassed, or was "
                "never built): expected a functional or sequential model"
            )
        known: dict[str, Any] = {}
        inputs = []
        for tensor in model.inputs:
            dtype = None if tensor.dtype.is_floating or tensor.dtype.is_integer else tensor.dtype.name
            images = keras.Input(batch_shape=tuple(tensor.shape), dtype=dtype, name=_name(tensor.node.layer))
            inputs.append(images)
            known[str(id(tensor))] = images
        for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
            for node in nodes:
                if not node.is_input:
                    # Keras 2 pops a tensor from its list for each use.
                    ids = node.flat_input_ids
                    args, kwargs = node.map_arguments({key: [known[key]] * len(ids) for key in ids})
                    result = self._called(node.layer, args, kwargs)
                    known.update(zip(map(str, node.flat_output_ids), keras.tree.flatten(result), strict=True))
        outputs = [known[str(id(tensor))] for tensor in model.outputs]
        one_in, one_out = len(inputs) == 1, len(outputs) == 1
        return keras.Model(inputs[0] if one_in else inputs, outputs[0] if one_out else outputs, name=_name(model))

    def _called(self, layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What `layer` gives, in Keras 3."""
        frozen = kwargs.get("training") is False
        kwargs = {key: value for key, value in kwargs.items() if key not in ("training", "mask")}
        try:
            kind = type(layer).__name__
            if kind in ("TFOpLambda", "SlicingOpLambda"):
                args, kwargs = keras.tree.map_structure(_plain, (args, kwargs))
                return call_function(layer.symbol, _name(layer), args, kwargs)
            if kind == "TensorFlowOpLayer":
                return call_node(layer.node_def, layer.constants, keras.tree.flatten(args))
            if kind == "CustomScaleLayer":
                x, y = args[0]
                y = keras.layers.Rescaling(layer.scale, name=f"{_name(layer)}.scale")(y)
                return keras.layers.Add(name=_name(layer))([x, y])
            result, chain = keras.tree.map_structure(_plain, args), self._chain(layer)
            for one in chain:
                result = one(*result, **kwargs) if one is chain[0] else one(result)
            self._finish(layer, chain, frozen=frozen)
            return result
        except FinetuneError:
            raise
        except Exception as error:  # Keras passes on the errors of its parts: ValueError, TypeError, TensorFlow's
            raise FinetuneError(
                f"{self._name}: the layer '{layer.name}' ({type(layer).__name__}) of Keras 2 has no counterpart in "
                f"Keras 3 ({first_line(error)[:200]}): open the model in the Keras it came from, put other stock "
                "layers in its place and save it again"
            ) from None

    def _chain(self, layer: Any) -> list[Any]:
        """The layers of Keras 3 that do, one after the other, what `layer` does. Made once."""
        if id(layer) not in self._made:
            if hasattr(layer, "_nodes_by_depth"):
                self._made[id(layer)] = [self.of_model(layer)]
            else:
                self._made[id(layer)] = _like(layer)
        chain: list[Any] = self._made[id(layer)]
        return chain

    def _finish(self, layer: Any, chain: list[Any], *, frozen: bool) -> None:
        """Copy the weights of a layer whose `chain` was called; mark BatchNorm that never ran on batches."""
        for one in chain:
            for inner in one._flatten_layers():
                if frozen and isinstance(inner, keras.layers.BatchNormalization):
                    inner.trainable = False
            if isinstance(one, keras.Model) or not one.weights or any(known is layer for known, _ in self.pairs):
                continue
            self.pairs.append((layer, one))
            if isinstance(one, keras.layers.BatchNormalization):
                names = (*(["gamma"] if one.scale else []), *(["beta"] if one.center else []), *STATISTICS)
                for part in names:
                    value = np.asarray(getattr(layer, part))
                    getattr(one, part).assign(value.reshape(getattr(one, part).shape))
            else:
                for new, old in zip(one.weights, layer.weights, strict=True):
                    new.assign(np.asarray(old))


def _name(layer: Any) -> str:
    """The layer's name. Keras 3 allows no "/", for which its own networks have "_"."""
    return str(layer.name).replace("/", "_")


def _plain(value: Any) -> Any:
    """A constant argument as NumPy's; Keras's tensors and plain values as they are."""
    return np.asarray(value) if hasattr(value, "numpy") else value


def _like(layer: Any) -> list[Any]:
    """New layers of Keras 3 that do what a layer of Keras 2 does, without its weights."""
    kind, config = type(layer).__name__, layer.get_config()
    name = config["name"] = _name(layer)
    if kind in _RANDOM:
        return [keras.layers.Identity(name=name)]
    if kind == "RandomCrop":  # outside of training
        return [keras.layers.Resizing(layer.height, layer.width, crop_to_aspect_ratio=True, name=name)]
    if kind == "ThresholdedReLU":
        return [keras.layers.ReLU(threshold=float(layer.theta), name=name)]
    if kind == "Normalization":
        return [_normalization(layer)]
    if kind in _BATCHNORM:
        return [_batchnorm(layer, config)]
    if kind == "Rescaling":  # Keras would find out only in computing that one is no number
        config |= {part: np.asarray(config[part], np.float64).tolist() for part in ("scale", "offset")}
    if kind == "LeakyReLU":
        config["negative_slope"] = config.pop("alpha")
    activation, further = getattr(layer, "activation", None), []
    if hasattr(activation, "get_config"):  # a layer, such as LeakyReLU
        further = _like(activation)
        for number, one in enumerate(further):
            one.name = f"{name}.activation_{number}"
    elif getattr(activation, "__name__", "") == "hard_sigmoid":  # Keras 3 has another one: relu6(x + 3) / 6
        further = [keras.layers.Rescaling(0.2, 0.5, name=f"{name}.scale")]
        further.append(keras.layers.ReLU(1.0, name=f"{name}.hard_sigmoid"))
    if further:
        config["activation"] = "linear"
    elif (name := getattr(activation, "__name__", "")) in _CALLED:
        config["activation"] = _CALLED[name]
    return [_of_config(getattr(keras.layers, kind), config), *further]


def _of_config(kind: Any, config: dict[str, Any]) -> keras.layers.Layer:
    """A layer of the class `kind` of Keras 3. Its type is Keras's own, and so is what Keras 3 has no setting for."""
    known = {*inspect.signature(kind.__init__).parameters, "name"} - {"dtype", "self"}
    made = kind.from_config({key: value for key, value in config.items() if key in known})
    made.trainable = config["trainable"]
    return made


def _batchnorm(layer: Any, config: dict[str, Any]) -> keras.layers.Layer:
    """BatchNorm over the axis it had before Keras 2 made room for ghost batches."""
    rank = layer.input_spec.ndim
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    moved = int(getattr(layer, "virtual_batch_size", None) is not None)
    if len(axes) != 1:
        raise FinetuneError(f"the BatchNormalization '{layer.name}' has {len(axes)} axes: expected one")
    axis = (axes[0] - moved) % rank
    config = {key: value for key, value in config.items() if not key.startswith("renorm")}
    if layer.fused:
        config["epsilon"] = max(config["epsilon"], _FUSED_EPSILON)
    return _of_config(keras.layers.BatchNormalization, {**config, "axis": -1 if axis == rank - 1 else axis})


def _normalization(layer: Any) -> keras.layers.Layer:
    """The statistics as settings, whether they were given or learned from data."""
    axes = list(layer.axis) if isinstance(layer.axis, list | tuple) else [layer.axis]
    known = [axis for axis in axes if axis is not None]
    mean, variance = (np.asarray(one, np.float64).reshape(-1) for one in (layer.mean, layer.variance))
    statistics: dict[str, Any] = {"axis": tuple(known), "mean": mean.tolist(), "variance": variance.tolist()}
    if not known or mean.size == 1:
        statistics = {"axis": None, "mean": float(mean[0]), "variance": float(variance[0])}
    return keras.layers.Normalization(**statistics, invert=layer.invert, name=_name(layer))
