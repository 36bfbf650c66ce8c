"""Put this package's BatchNorm into any functional Keras model, and Keras's own back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from finetune.batchnorm.layer import SWITCHES, BatchNorm
from finetune.batchnorm.module_parts import Module, PartBatchNorm


@dataclass(frozen=True)
class BatchNormOptions:
    """What a user changes about all BatchNorm layers of a network.

    epsilon: replaces each layer's own where it is given. renorm (`renormalise`), zero_debias: as in `BatchNorm`.
    """

    epsilon: float | None = None
    renorm: bool = False
    zero_debias: bool = False


UNCHANGED = BatchNormOptions()


def adopt(model: keras.Model, *, unbiased: bool, options: BatchNormOptions = UNCHANGED) -> keras.Model:
    """A copy of `model` with every BatchNormalization replaced by `BatchNorm`, weights copied.

    `unbiased` as in `BatchNorm`. Keras's own `renorm` of a layer, which only acts in training, is dropped.
    """

    def replaced(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if not isinstance(layer, keras.layers.BatchNormalization):
            return layer.__class__.from_config(config)
        if options.epsilon is not None:
            config["epsilon"] = options.epsilon
        config.update(renorm=False, renorm_clipping=None)
        config.update(unbiased=unbiased, renormalise=options.renorm, zero_debias=options.zero_debias)
        return BatchNorm.from_config(config)

    return _copy(model, replaced)


def to_stock(model: keras.Model) -> keras.Model:
    """A copy with Keras's own BatchNormalization instead of `BatchNorm`. It loads without this package.

    Every layer is marked trainable: the frozen layers of a run are listed in its `config.json`, not in the model.
    """

    def stock(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Layer):  # the others are arithmetic between layers, such as `x / 127.5`
            config["trainable"] = True
        if not isinstance(layer, BatchNorm):
            return layer.__class__.from_config(config)
        return keras.layers.BatchNormalization.from_config({k: v for k, v in config.items() if k not in SWITCHES})

    return _copy(model, stock)


def _copy(model: keras.Model, replaced: Callable[[keras.layers.Layer], keras.layers.Layer]) -> keras.Model:
    """A copy of `model` with its weights, in which every layer but a `Module` is `replaced(layer)`.

    Layers are initialised with zeros: drawing millions of random values only to overwrite them would take most of the
    time.
    """
    drawn: list[tuple[Any, str, Any]] = []

    def blank(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, Module):
            return layer
        made = replaced(layer)
        if not isinstance(made, keras.layers.BatchNormalization):
            for name, value in list(vars(made).items()):
                if isinstance(value, keras.initializers.Initializer):
                    drawn.append((made, name, value))
                    setattr(made, name, keras.initializers.Zeros())
        return made

    copy = copy_weights(model, keras.models.clone_model(model, clone_function=blank))
    for layer, name, value in drawn:
        setattr(layer, name, value)
    return copy


def parts(model: keras.Model) -> list[Any]:
    """All that can be frozen and measured by name: the layers, and instead of a module its parts."""
    return [part for layer in model.layers for part in (layer.parts if isinstance(layer, Module) else [layer])]


def is_bn(part: Any) -> bool:
    """Whether one of `parts` is a `BatchNorm` or the view of one in a module."""
    return isinstance(part, BatchNorm | PartBatchNorm)


def bn_layers(model: keras.Model) -> list[Any]:
    """The BatchNorm layers of an adopted model and the views of those in a module, in the model's order."""
    return [part for part in parts(model) if is_bn(part)]


def initial_statistics(layer: Any) -> tuple[float, float]:
    """What moving mean and variance of a BatchNormalization of Keras 2 or 3 start from, by its own initializers; NaN
    where the channels start from different numbers."""
    return _constant(layer, "moving_mean", 0.0), _constant(layer, "moving_variance", 1.0)


def initial_gamma(layer: Any) -> float:
    """The same of gamma: 1, or 0 where a residual branch starts as nothing."""
    return _constant(layer, "gamma", 1.0)


def _constant(layer: Any, weight: str, default: float) -> float:
    """The number that an initializer gives every channel; `default` for a view that has no initializer."""
    initializer = getattr(layer, f"{weight}_initializer", None)
    if initializer is None:
        return default
    constants: dict[str, Any] = {"Zeros": 0.0, "Ones": 1.0, "Constant": getattr(initializer, "value", None)}
    value = np.array(constants.get(type(initializer).__name__), np.float32)  # None is NaN
    return float(value) if value.ndim == 0 else float("nan")


def copy_weights(source: Any, target: Any) -> Any:
    """Assign every variable of a model or layer to the same variable of its copy `target`; returns `target`.

    Of BatchNorm, only gamma, beta and the moving statistics are copied. The counter of training steps and the averages
    of Keras's `renorm` belong to a run, and either side may lack them.
    """
    for old, new in zip(_copied(source), _copied(target), strict=True):
        new.assign(old)
    for layer in target._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with constants made from its variables
    return target


def _copied(owner: Any) -> list[Any]:
    """The variables of a model or layer that `copy_weights` copies."""
    left_out = {
        id(getattr(layer, name, None))
        for layer in owner._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        for name in ("local_step", "moving_stddev", "renorm_mean", "renorm_stddev")
    }
    return [variable for variable in owner.variables if id(variable) not in left_out]
