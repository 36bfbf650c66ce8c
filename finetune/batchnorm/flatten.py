"""Nested models as one flat graph, so that planning, freezing and measuring reach every layer."""

import math
from typing import Any

import keras
from keras.src.models.functional import Functional

from finetune.batchnorm.surgery import copy_weights
from finetune.errors import FinetuneError
from finetune.text import ImageSize, shape_of


def flat(model: keras.Model, *, image_size: ImageSize | None = None, weights: bool = True) -> keras.Model:
    """A functional copy of `model` in which no layer is a model. Outputs are the same to the bit; weights are copied.

    `model` is functional or sequential, with one input `[batch, height, width, channels]`, or channels first, or of
    grey images `[batch, height, width]`, or of rows of pixels, and one output. Its layers may be such models, to any
    depth. The copy takes float32 images `[batch, height, width, channels]`, of `image_size` where that is given. Layers
    keep their names. If names of a nested model clash with others, all of its layers get its name and "." in front. A
    recorded `training=` of a nested model is dropped, as Keras 3 also overrides it (keras-team/keras#20285).
    `weights=False` leaves the copy freshly initialised.

    Channels come last: where a layer has them on another axis, they are moved there and back. A CPU has no kernels for
    channels first, and the BatchNorm of this package takes the last axis.

    Raises FinetuneError, naming the layer, for layers without a graph to copy (subclassed models, layers with BatchNorm
    inside), for BatchNorm used at several places, for several inputs or outputs, and if the layers do not accept
    images of `image_size`.
    """
    return _flattened(model, image_size, _Copy(weights))


def originals(model: keras.Model) -> dict[str, Any]:
    """Maps the name of each BatchNormalization of `flat(model)` to the layer of `model` that it copies."""
    copy = _Copy(weights=False)
    _flattened(model, None, copy)
    return {made.name: one for one, made in copy.pairs if isinstance(one, keras.layers.BatchNormalization)}


def image_shape(model: keras.Model) -> tuple[int | None, int | None, int]:
    """(height, width, channels) of the images that `model` takes. Raises FinetuneError as `flat` does for its form."""
    _check(model, "the model")
    inputs, outputs = model.inputs, model.outputs
    sides = _sides(tuple(inputs[0].shape[1:])) if len(inputs) == 1 else None
    if sides is None:
        shapes = ", ".join(str(list(one.shape)) for one in inputs)
        raise FinetuneError(
            f"the model '{model.name}' takes {len(inputs)} inputs of shape {shapes}: expected one, of images "
            "[batch, height, width, channels], of grey images [batch, height, width], or of rows of their pixels"
        )
    if len(outputs) != 1:
        raise FinetuneError(f"the model '{model.name}' has {len(outputs)} outputs: expected one")
    return (sides[1], sides[2], sides[0]) if _channels_first(model) else sides


def _sides(shape: tuple[Any, ...]) -> tuple[Any, Any, Any] | None:
    """The three axes of one image of an input of this `shape`; None where it takes no images.

    Two axes are those of a grey image. One is that of the pixels of a square image of 8 px or more, row by row, colours
    together.
    """
    if len(shape) == 1 and shape[0]:
        squares = ((math.isqrt(shape[0] // channels), channels) for channels in (1, 3, 4))
        return next(((side, side, n) for side, n in squares if side * side * n == shape[0] and side >= 8), None)
    if len(shape) not in (2, 3) or not shape[-1]:
        return None
    return shape[0], shape[1], shape[2] if len(shape) == 3 and shape[2] else 1


def _channels_first(model: keras.Model) -> bool:
    """Whether the images of a model are `[batch, channels, height, width]`."""
    shape = model.inputs[0].shape[1:]
    return len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)


def _flattened(model: keras.Model, image_size: ImageSize | None, copy: "_Copy") -> keras.Model:
    """`flat(model)`, made by `copy`, which afterwards knows what became of each layer."""
    height, width, channels = image_shape(model)
    if image_size is not None:
        height, width, _ = shape_of(image_size)
    shape = (height, width, channels)
    images = keras.Input(shape, dtype="float32", name=copy.claimed(str(model.inputs[0].name)))
    given = images
    if _channels_first(model):
        given = keras.layers.Permute((3, 1, 2), name=copy.claimed("channels_first"))(images)
    elif len(model.inputs[0].shape) != 4:
        given = keras.layers.Reshape(model.inputs[0].shape[1:], name=copy.claimed("rows"))(images)
    result = copy.of_model(model, [given], prefix="")
    return keras.Model(images, result, name=model.name)


def _channels(operation: Any, args: Any) -> int | None:
    """The axis of the channels, where a layer has them on another one than the last."""
    rank = len(args[0].shape) if args and hasattr(args[0], "shape") else 0
    if getattr(operation, "data_format", None) == "channels_first" and rank > 2:
        return 1
    if not isinstance(operation, keras.layers.BatchNormalization):
        return None
    axis = int(operation.axis if isinstance(operation.axis, int) else operation.axis[0]) % rank
    return None if axis == rank - 1 else axis


def is_nested(layer: Any) -> bool:
    """Whether a layer is a model itself."""
    return isinstance(layer, keras.Model)


class _Copy:
    """One pass over a model and the models in it. A shared layer stays one layer.

    pairs: (layer or operation, its copy), in the order of the pass.
    """

    def __init__(self, weights: bool) -> None:
        self._weights = weights
        self._names: set[str] = set()
        self._prefixes: dict[int, str] = {}
        self._made: dict[int, Any] = {}
        self.pairs: list[tuple[Any, Any]] = []

    def claimed(self, name: str) -> str:
        """`name`, or `name` with a number if it is already used."""
        number, free = 1, name
        while free in self._names:
            free, number = f"{name}_{number}", number + 1
        self._names.add(free)
        return free

    def of_model(self, model: keras.Model, inputs: list[Any], *, prefix: str) -> Any:
        """The output of `model`'s layers, copied, on `inputs`."""
        if isinstance(model, keras.Sequential):
            (x,) = inputs
            for layer in model.layers:
                x = self._called(layer, prefix, x)
            return x
        return model._run_through_graph(
            inputs, call_fn=lambda operation, *args, **kwargs: self._called(operation, prefix, *args, **kwargs)
        )

    def _called(self, operation: Any, prefix: str, *args: Any, **kwargs: Any) -> Any:
        if is_nested(operation):
            _check(operation, f"layer '{prefix}{operation.name}'")
            inputs = keras.tree.flatten(args) + [
                value for name, value in kwargs.items() if name not in ("training", "mask")
            ]
            return self.of_model(operation, inputs, prefix=self._prefix(operation, prefix))
        known = id(operation) in self._made
        if known and isinstance(operation, keras.layers.BatchNormalization):
            raise FinetuneError(
                f"BatchNormalization '{operation.name}' is used at several places of the model: its statistics are "
                "of none of them, which finetune does not handle; use a layer of its own at each place"
            )
        if not known:
            self._made[id(operation)] = self._made_like(operation, prefix)
            self.pairs.append((operation, self._made[id(operation)]))
        made = self._made[id(operation)]
        try:
            axis = _channels(operation, args)
            result = made(*args, **kwargs) if axis is None else self._moved(made, args[0], axis)
            if not known and self._weights and isinstance(operation, keras.layers.Layer):
                copy_weights(operation, made)
        except Exception as error:  # Keras passes on the errors of its parts: ValueError, TypeError, TensorFlow's
            reason = str(error).partition("\n")[0]
            raise FinetuneError(
                f"layer '{operation.name}' does not take what the layers before it give at this image size "
                f"({reason[:200]}): give --image-size with the size the model was made for"
            ) from None
        return result

    def _moved(self, made: Any, x: Any, axis: int) -> Any:
        """The output of a layer whose channels come last, on `x`, whose channels are on another axis."""
        order = [one for one in range(1, len(x.shape)) if one != axis]
        x = made(keras.layers.Permute([*order, axis], name=self.claimed(f"{made.name}.moved"))(x))
        if len(x.shape) == 2:  # pooled, or flattened
            return x
        back = [*range(1, axis), len(x.shape) - 1, *range(axis, len(x.shape) - 1)]
        return keras.layers.Permute(back, name=self.claimed(f"{made.name}.back"))(x)

    def _prefix(self, model: keras.Model, outer: str) -> str:
        if id(model) not in self._prefixes:
            names = {outer + layer.name for layer in model.layers if not is_nested(layer)}
            clash = names & self._names
            self._prefixes[id(model)] = f"{outer}{model.name}." if clash else outer
        return self._prefixes[id(model)]

    def _made_like(self, operation: Any, prefix: str) -> Any:
        name = self.claimed(prefix + operation.name)
        if not isinstance(operation, keras.layers.Layer):  # arithmetic on symbolic tensors, such as `x / 127.5`
            made = type(operation).from_config(operation.get_config())
            made.name = name
            return made
        if any(
            isinstance(inner, keras.layers.BatchNormalization)
            for inner in operation._flatten_layers(include_self=False)
        ):
            raise FinetuneError(
                f"layer '{prefix}{operation.name}' ({type(operation).__name__}) has BatchNormalization inside, where "
                "finetune cannot reach it: expected layers and functional or sequential models"
            )
        config = {**operation.get_config(), "name": name}
        if isinstance(operation, keras.layers.BatchNormalization):
            config["axis"] = -1
        if config.get("data_format") == "channels_first":
            config["data_format"] = "channels_last"
        try:
            return type(operation).from_config(config)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise FinetuneError(
                f"layer '{operation.name}' ({type(operation).__name__}) cannot be copied from its config "
                f"({str(error).partition(chr(10))[0][:200]}): give its class a get_config that its __init__ takes"
            ) from None


def _check(model: Any, what: str) -> None:
    """Raise FinetuneError unless the graph of `model` is known: functional, or sequential and built."""
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise FinetuneError(f"{what} ('{model.name}') is not built: give it an Input, or save it once it was used")
    elif not isinstance(model, Functional) or type(model).call is not Functional.call:
        raise FinetuneError(
            f"{what} ('{model.name}', {type(model).__name__}) is a subclassed model, whose layers are called by Python "
            "code: expected a functional or sequential model; rebuild it as keras.Model(inputs, outputs)"
        )
