"""Put our BatchNorm into any functional Keras model, and take it out again."""

from collections.abc import Callable
from typing import Any

import keras

from finetune.batchnorm.layer import BatchNorm
from finetune.batchnorm.module_parts import Module, PartBatchNorm

_OURS = ("statistics", "updates", "unbiased", "renormalise", "zero_debias", "run_steps")


def adopt(
    model: keras.Model,
    *,
    unbiased: bool,
    epsilon: float | None = None,
    renorm: bool = False,
    zero_debias: bool = False,
) -> keras.Model:
    """A copy of `model` with every BatchNormalization replaced by `BatchNorm`, weights copied.

    `unbiased`, `renorm` (`renormalise`) and `zero_debias` as in `BatchNorm`; `epsilon` replaces each layer's own where
    it is given. Keras's own `renorm` of a layer, which only acts in training, is not carried over.
    """

    def swap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, Module):
            return layer
        config = layer.get_config()
        if not isinstance(layer, keras.layers.BatchNormalization):
            return layer.__class__.from_config(config)
        if epsilon is not None:
            config["epsilon"] = epsilon
        config.update(renorm=False, renorm_clipping=None)
        return BatchNorm.from_config(
            {**config, "unbiased": unbiased, "renormalise": renorm, "zero_debias": zero_debias}
        )

    return _copy(model, swap)


def to_stock(model: keras.Model) -> keras.Model:
    """A copy with Keras's own BatchNormalization in place of ours: loads without this package.

    Everything is marked trainable: what was frozen in a run is in its `config.json`, not in the model.
    """

    def swap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, Module):
            return layer
        config = layer.get_config()
        if isinstance(layer, keras.layers.Layer):  # the others are arithmetic between layers, such as `x / 127.5`
            config["trainable"] = True
        if not isinstance(layer, BatchNorm):
            return layer.__class__.from_config(config)
        return keras.layers.BatchNormalization.from_config({k: v for k, v in config.items() if k not in _OURS})

    return _copy(model, swap)


def _copy(model: keras.Model, swap: Callable[[keras.layers.Layer], keras.layers.Layer]) -> keras.Model:
    """`model` with every layer put through `swap`, and its weights.

    Drawing millions of random first values, to overwrite them, would take most of the time: layers begin with zeros.
    """
    drawn: list[tuple[Any, str, Any]] = []

    def blank(layer: keras.layers.Layer) -> keras.layers.Layer:
        made = swap(layer)
        if made is not layer and not isinstance(made, keras.layers.BatchNormalization):
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
    """What can be frozen and measured by its name: the layers, and instead of a module the parts of it."""
    return [part for layer in model.layers for part in (layer.parts if isinstance(layer, Module) else [layer])]


def is_bn(part: Any) -> bool:
    """Whether one of `parts` is a BatchNorm of ours or the view of a module's."""
    return isinstance(part, BatchNorm | PartBatchNorm)


def bn_layers(model: keras.Model) -> list[Any]:
    """The BatchNorm layers of an adopted model and the views of those in a module, in the model's order."""
    return [part for part in parts(model) if is_bn(part)]


def copy_weights(source: Any, target: Any) -> Any:
    """Assign every variable of a model or layer to the same one of its copy `target`, and return that.

    What BatchNorm has beside gamma, beta and the moving statistics is left out, a counter of training steps or the
    averages of Keras's `renorm`: it belongs to a run, and either side may have none.
    """
    for old, new in zip(_copied(source), _copied(target), strict=True):
        new.assign(old)
    for layer in target._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with constants that it makes of its variables
    return target


def _copied(owner: Any) -> list[Any]:
    left_out = {
        id(getattr(layer, name, None))
        for layer in owner._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        for name in ("local_step", "moving_stddev", "renorm_mean", "renorm_stddev")
    }
    return [variable for variable in owner.variables if id(variable) not in left_out]
