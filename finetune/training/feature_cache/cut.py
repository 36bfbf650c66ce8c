"""Where a model can be cut in two: a frozen part below, and above it everything that a training step changes."""

from dataclasses import dataclass
from math import prod
from typing import Any

import keras

from finetune.batchnorm.layer import BatchNorm
from finetune.batchnorm.module_parts import Module
from finetune.errors import FinetuneError


@dataclass(frozen=True, eq=False)
class Cut:
    """A tensor through which every path from the images to a changing layer leads.

    layer: the layer whose output it is. shape: of one image's value. multiplications, above: the cost of one image in
    an inference pass, below and above the cut.
    """

    tensor: Any
    layer: str
    shape: tuple[int, ...]
    multiplications: int
    above: int

    @property
    def values(self) -> int:
        """Numbers per image."""
        return prod(self.shape)

    def halves(self, model: keras.Model) -> tuple[keras.Model, keras.Model]:
        """(images to the tensor, the tensor to `model`'s output): the same layers and variables, none copied."""
        return (
            keras.Model(model.input, self.tensor, name=f"{model.name}.below"),
            keras.Model(self.tensor, model.output, name=f"{model.name}.above"),
        )


def cuts(model: keras.Model) -> list[Cut]:
    """Every useful cut of a flat functional `model` as its switches are set, the best first.

    The first is the last possible one. Layers without multiplications (padding, pooling, activations) stay above it
    where that makes its value smaller. The cuts that follow lie earlier and are smaller, for when the first does not
    fit. Raises FinetuneError with the layer that prevents a cut, where there is none.
    """
    chosen: list[Cut] = []
    for cut in _possible(model):
        if chosen and cut.values >= chosen[-1].values:
            continue
        if chosen and cut.multiplications == chosen[-1].multiplications:
            chosen.pop()
        chosen.append(cut)
    return chosen


def changes(operation: Any) -> str | None:
    """Why the output of a layer or operation may differ between training steps, in words; None where it cannot."""
    if isinstance(operation, Module):
        if any(part.trainable_variables for part in operation.parts):
            return "trains"
        batch = operation.can_train and operation.bn and operation.bn[0].statistics == "batch"
        return "normalises by batch statistics" if batch else None
    if not isinstance(operation, keras.layers.Layer):
        return None  # arithmetic on tensors
    for layer in operation._flatten_layers():
        if layer.trainable_variables:
            return "trains"
        if isinstance(layer, BatchNorm):
            if layer.statistics == "batch":
                return "normalises by batch statistics"
        elif isinstance(layer, keras.layers.SpectralNormalization) or (
            isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ):
            return "moves its statistics"
        elif len(layer.variables) > len(layer.weights) or getattr(layer, "drop_path_rate", None):  # StochasticDepth
            return "draws random numbers"
        elif not type(layer).__module__.startswith("keras.") and layer._call_has_training_arg:
            return "is of a custom class that may behave otherwise in training"
    return None


def _possible(model: keras.Model) -> list[Cut]:
    """The cuts at all tensors that have a cost below them and a fixed shape, the last first. Raises FinetuneError where
    there is none.

    Tensors are numbered so that each comes after those it is computed from.
    """
    calls = nodes(model)
    costs = [_multiplications(node) for node in calls]
    number, tensors = {id(model.input): 0}, [model.input]
    below, moving = [0], [False]  # the nodes a tensor is computed by, as a bit set; whether its value changes
    dominators = [1]  # bit set of the tensors that every way to this one leads through
    common = -1  # bit set of those that every way to a changing layer leads through
    obstacle = "nothing trains"
    for position, node in enumerate(calls):
        inputs = {number[id(tensor)] for tensor in node.input_tensors}
        reason = changes(node.operation)
        if reason is not None and not any(moving):
            first = f"{node.operation.name.replace('.', '/')} {reason}"
            obstacle = f"nothing below the first layer that changes costs anything: {first}"
        moves = reason is not None or any(moving[i] for i in inputs)
        computed_by, through = 1 << position, -1 if inputs else 0
        for i in inputs:
            computed_by |= below[i]
            through &= dominators[i]
            if moves and not moving[i]:
                common &= dominators[i]
        for tensor in node.output_tensors:
            number[id(tensor)] = len(tensors)
            dominators.append(through | 1 << len(tensors))
            tensors.append(tensor)
            below.append(computed_by)
            moving.append(moves)
    found = []
    dominating = [i for i in range(len(tensors) - 1, 0, -1) if common >> i & 1 and moving[number[id(model.output)]]]
    for i in dominating:
        cost, shape = sum(cost for at, cost in enumerate(costs) if below[i] >> at & 1), tuple(tensors[i].shape[1:])
        if cost and None not in shape and "float" in str(tensors[i].dtype):
            layer = str(tensors[i]._keras_history.operation.name).replace(".", "/")
            found.append(Cut(tensors[i], layer, shape, cost, sum(costs) - cost))
    if not found:
        raise FinetuneError(obstacle)
    return found


def nodes(model: keras.Model) -> list[Any]:
    """Every call of a layer or operation that the output needs, each after those its inputs come from."""
    order: dict[int, Any] = {}
    entered, stack = {id(model.input)}, [model.output]
    while stack:
        history = stack[-1]._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if id(stack[-1]) not in entered:
            entered.add(id(stack[-1]))
            stack.extend(node.input_tensors)
        elif stack.pop() is not model.input:
            order.setdefault(id(node), node)
    return list(order.values())


def _multiplications(node: Any) -> int:
    """Multiplications of one image: each weight of rank two and more is used once at each pixel of the output."""
    operation, output = node.operation, node.output_tensors[0]
    if isinstance(operation, Module):
        height, width = node.input_tensors[0].shape[1:3]
        # Its maps are hidden. A network's weights lie mostly where the maps are a sixteenth of the image's side.
        return int(sum(prod(v.shape) for v in operation.weights if len(v.shape) > 1) * height * width // 256)
    if not isinstance(operation, keras.layers.Layer):
        return 0
    places = prod(size or 1 for size in output.shape[1:-1])
    return int(sum(prod(v.shape) for v in operation.weights if len(v.shape) > 1) * places)
