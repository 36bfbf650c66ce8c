"""What a network builder returns: a pure Keras graph and its stages, and which layers belong to which stage."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

HEAD = "head"
"""The stage of what follows the pooled features: the published logits."""


@dataclass(frozen=True)
class Stage:
    """A run of layers a user can freeze by name.

    `end` is the name of the layer whose output ends the stage. The stage holds every ancestor of that layer
    that no earlier stage holds; the last stage also holds what follows it, up to the pooled features.
    """

    name: str
    end: str


@dataclass(frozen=True)
class Network:
    """A graph without weights of its own worth keeping (freshly initialised).

    model: float32 `[batch, height, width, 3]`, already preprocessed, to pooled features `[batch, channels]`,
        or to logits `[batch, outputs]` when it was built with `outputs`.
    scope: the root scope in front of every layer name, or "" (`resnet_v1_50` in
        `resnet_v1_50.block1.unit_1.bottleneck_v1.conv1`); patterns may leave it out.
    stages: from the input to the output.
    """

    model: keras.Model
    scope: str
    stages: tuple[Stage, ...]


def layers_by_stage(network: Network) -> dict[str, list[str]]:
    """Map each stage to its layers' names, from the input to the output; every layer is in exactly one.

    A stage holds what its end depends on and no earlier stage holds; the last one also holds what follows it, up to
    the pooled features. `HEAD` comes last, and only in a network that was built with outputs.
    """
    model = network.model
    ends = {stage.name: stage.end for stage in network.stages}
    if (pooled := pooling(model)) is not None:  # not where a published head is put to the last map, as VGG's
        ends[network.stages[-1].name] = pooled.name
    stages, unassigned = layers_until(model, ends)
    return {**stages, HEAD: unassigned} if unassigned else stages


def layers_until(model: keras.Model, ends: Mapping[str, str]) -> tuple[dict[str, list[str]], list[str]]:
    """(name of `ends` -> the layers that its end depends on and no earlier one has, the remaining layers)."""
    unassigned = [layer.name for layer in model.layers]
    stages = {}
    for name, end in ends.items():
        part = keras.Model(model.input, model.get_layer(end).output, name=f"until_{end}")
        ancestors = {layer.name for layer in part.layers}
        stages[name] = [layer for layer in unassigned if layer in ancestors]
        unassigned = [layer for layer in unassigned if layer not in ancestors]
    return stages, unassigned


def layers_by_side(model: keras.Model) -> dict[str, list[str]]:
    """Stages of an unknown network: `map_4` holds the layers whose maps have about a fourth of the image's side.

    `model` is flat, of one input with a known side. Sides are rounded to the next halving; what follows a layer is
    in its stage or a later one, so pooled features and what is enlarged again stay with the smallest maps.
    """
    side = model.input.shape[1]
    halvings: dict[str, int] = {}
    for operation in model.operations:
        node = operation._inbound_nodes[0]
        before = [halvings.get(one._keras_history.operation.name, 0) for one in node.input_tensors]
        shape = node.outputs[0].shape
        pools = type(operation).__name__ in ("GlobalAveragePooling2D", "GlobalMaxPooling2D")
        own = round(math.log2(side / shape[1])) if len(shape) == 4 and shape[1] and not pools else 0
        halvings[operation.name] = max([own, *before])
    stages: dict[str, list[str]] = {f"map_{2**count}": [] for count in sorted(set(halvings.values()))}
    for layer in model.layers:
        stages[f"map_{2 ** halvings[layer.name]}"].append(layer.name)
    return {name: layers for name, layers in stages.items() if layers}


def pooling(model: keras.Model) -> Any:
    """The layer whose output are the pooled features: the last global pooling, or None.

    In a ConvNeXt, which normalises what it has pooled, it is the LayerNormalization behind that pooling.
    """
    kinds = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    pooled = next((one for one in reversed(model.layers) if isinstance(one, kinds)), None)
    norms = (one for one in model.layers if isinstance(one, keras.layers.LayerNormalization))
    return next((one for one in norms if pooled is not None and one.input is pooled.output), pooled)
