"""Every slim row of the catalogue says of its network what the network says of itself."""

from fnmatch import fnmatchcase

import keras
import pytest

from checkpoints.catalog import BackboneSpec
from checkpoints.catalog_slim import SLIM
from finetune import networks
from finetune.networks.names import slim_variables
from finetune.networks.stages import HEAD, layers_by_stage

UNPADDED = {"inception_v3", "inception_v4", "inception_resnet_v2", "densenet"}
"""Families that somewhere round a map down."""


def builds(spec: BackboneSpec, image_size: int) -> bool:
    try:
        networks.build(spec.family, image_size=image_size, outputs=None, arguments=spec.arguments)
    except ValueError:
        return False
    return True


def problems(spec: BackboneSpec) -> list[str]:
    network = networks.build(spec.family, image_size=spec.least_size, outputs=spec.outputs, arguments=spec.arguments)
    stages = layers_by_stage(network)
    has_weights = {layer.name: bool(layer.weights) for layer in network.model.layers}
    names = slim_variables(network.model)
    head = {name for name in names if any(fnmatchcase(name, pattern) for pattern in spec.head)}
    ignored = [name for name in names if any(fnmatchcase(name, pattern) for pattern in spec.auxiliary)]
    parameters = sum(variable.value.shape.num_elements() for name, variable in names.items() if name not in head)
    norms = [layer for layer in network.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    pooling = next(layer for layer in network.model.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D))
    checks = {
        f"{parameters} parameters, not {spec.parameters}": parameters == spec.parameters,
        f"{sorted(head)} are not the logits' two variables": len(head) == 2,
        f"the head stage is {stages[HEAD]}": {has_weights[name] for name in stages[HEAD][:1]} == {True},
        f"{ignored} would be ignored": not ignored,
        "BatchNorm has another decay or epsilon": {(layer.momentum, layer.epsilon) for layer in norms}
        == {(spec.bn_decay, spec.bn_epsilon)},
        f"the last map at the least size is {pooling.input.shape}": pooling.input.shape[1:3] == (1, 1),
        "a layer is not of Keras's stock": all(
            type(layer).__module__.startswith("keras.") for layer in network.model.layers
        ),
        "a stage has no variables": all(any(has_weights[name] for name in layers) for layers in stages.values()),
        "a layer is in no stage or in two": sorted(name for layers in stages.values() for name in layers)
        == sorted(has_weights),
    }
    # Where all padding is SAME no map vanishes; the least size is then the stride of the whole network.
    if spec.family in UNPADDED:
        checks["it builds below its least size"] = not builds(spec, spec.least_size - 1)
    return [f"{spec.id}: {what}" for what, holds in checks.items() if not holds]


@pytest.mark.slow
def test_every_slim_row_builds_what_it_says() -> None:
    found = [problem for spec in SLIM for problem in problems(spec)]
    assert not found, "\n".join(found)
