"""Which layers belong to which stage of a network."""

import keras

from finetune.networks.network import Network

HEAD = "head"
"""The stage of what follows the pooled features: the published logits."""


def layers_by_stage(network: Network) -> dict[str, list[str]]:
    """Map each stage to its layers' names, from the input to the output; every layer is in exactly one.

    A stage holds what its end depends on and no earlier stage holds; the last one also holds what follows it, up to
    the pooled features. `HEAD` comes last, and only in a network that was built with outputs.
    """
    model = network.model
    unassigned = [layer.name for layer in model.layers]
    ends = {stage.name: stage.end for stage in network.stages}
    ends[network.stages[-1].name] = _pooling(model)
    stages = {}
    for name, end in ends.items():
        ancestors = _ancestors(model, end)
        stages[name] = [layer for layer in unassigned if layer in ancestors]
        unassigned = [layer for layer in unassigned if layer not in ancestors]
    return {**stages, HEAD: unassigned} if unassigned else stages


def _pooling(model: keras.Model) -> str:
    """The layer whose output are the pooled features: the last global pooling."""
    pooling = [layer.name for layer in model.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
    return str(pooling[-1])


def _ancestors(model: keras.Model, end: str) -> set[str]:
    """The layers that layer `end` depends on, with itself."""
    part = keras.Model(model.input, model.get_layer(end).output, name=f"until_{end}")
    return {layer.name for layer in part.layers}
