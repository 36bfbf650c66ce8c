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
    graph = _Graph(model)
    candidates = [cut for tensor in graph.dominators() if (cut := graph.cut(tensor)) is not None]
    if not candidates:
        raise FinetuneError(graph.obstacle())
    chosen: list[Cut] = []
    for cut in candidates:
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
        elif len(layer.variables) > len(layer.weights):
            return "draws random numbers"
        elif not type(layer).__module__.startswith("keras.") and layer._call_has_training_arg:
            return "is of a custom class that may behave otherwise in training"
    return None


class _Graph:
    """The graph of a model. Its tensors are numbered so that each comes after those it is computed from."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        calls = nodes(model)
        self._number: dict[int, int] = {id(model.input): 0}
        self._tensors: list[Any] = [model.input]
        self._below: list[int] = [0]  # bit set of the nodes a tensor is computed by
        self._dominated: list[int] = [1]  # bit set of the tensors every way to this one leads through
        self._moving: list[bool] = [False]
        self._frontier: set[int] = set()  # fixed tensors that something changing takes
        self._reasons: list[tuple[Any, str]] = []
        self._costs = [_multiplications(node) for node in calls]
        for position, node in enumerate(calls):
            self._add(position, node)

    def _add(self, position: int, node: Any) -> None:
        inputs = sorted({self._number[id(tensor)] for tensor in node.input_tensors})
        reason = changes(node.operation)
        if reason is not None:
            self._reasons.append((node.operation, reason))
        moving = reason is not None or any(self._moving[i] for i in inputs)
        if moving:
            self._frontier |= {i for i in inputs if not self._moving[i]}
        below, dominated = 1 << position, -1
        for i in inputs:
            below |= self._below[i]
            dominated &= self._dominated[i]
        for tensor in node.output_tensors:
            number = len(self._tensors)
            self._number[id(tensor)] = number
            self._tensors.append(tensor)
            self._below.append(below)
            self._dominated.append((dominated if inputs else 0) | 1 << number)
            self._moving.append(moving)

    def dominators(self) -> list[int]:
        """Numbers of the tensors through which all of the frontier is computed, the last first."""
        if not self._moving[self._number[id(self._model.output)]]:
            return []
        common = -1
        for i in self._frontier:
            common &= self._dominated[i]
        return [i for i in range(len(self._tensors) - 1, 0, -1) if common >> i & 1]

    def cut(self, number: int) -> Cut | None:
        """The cut at a tensor; None where nothing is computed below it or its value has no fixed shape."""
        tensor = self._tensors[number]
        shape = tuple(tensor.shape[1:])
        below = sum(cost for i, cost in enumerate(self._costs) if self._below[number] >> i & 1)
        if not below or None in shape or "float" not in str(tensor.dtype):
            return None
        layer = str(tensor._keras_history.operation.name).replace(".", "/")
        return Cut(tensor, layer, shape, below, sum(self._costs) - below)

    def obstacle(self) -> str:
        """Why there is no cut: the first layer that changes."""
        if not self._reasons:
            return "nothing trains"
        operation, reason = self._reasons[0]
        return f"nothing below the first layer that changes costs anything: {operation.name.replace('.', '/')} {reason}"


def nodes(model: keras.Model) -> list[Any]:
    """Every call of a layer or operation that the output needs, each after those its inputs come from."""
    order: list[Any] = []
    seen: set[int] = {id(model.input)}
    stack: list[tuple[Any, bool]] = [(model.output, False)]
    while stack:
        tensor, inputs_done = stack.pop()
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if inputs_done:
            if id(node) not in seen:
                seen.add(id(node))
                order.append(node)
            continue
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        stack.append((tensor, True))
        stack.extend((one, False) for one in node.input_tensors)
    return order


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
