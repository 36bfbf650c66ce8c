"""Our slim DenseNet: the names of its source, the outputs of `keras.applications`, which was built from the same paper.

Where a side is 4k + 1 px, TensorFlow's SAME and Keras's explicit padding are the same.
"""

import math

import keras
import numpy as np
import pytest

from checkpoints.catalog.lookup import find_row
from finetune.backbone import networks
from finetune.backbone.networks.network import layers_by_stage
from tests.networks import golden_structure
from tests.networks.golden_structure import assert_golden, of_file
from tests.support.agreement import difference, random_images

KERAS_EPSILON = 1.001e-5
THIN = {"scope": "thin", "layers": (2, 3, 1, 2)}


def random_weights(model: keras.Model) -> None:
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name == "gamma":
            variable.assign(rng.uniform(0.25, 0.75, variable.shape))
        elif variable.name != "kernel":
            variable.assign(rng.normal(0, 0.1, variable.shape))


def ours_with_weights_of(theirs: keras.Model, size: int, arguments: dict) -> keras.Model:
    """Our network with the weights of Keras's in the order of the layers, and Keras's epsilon."""
    ours = networks.build("densenet", image_size=size, outputs=5, arguments=arguments).model
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        assert mine.name == other.name
        mine.assign(np.reshape(other, mine.shape))  # the logits are a 1x1 convolution here
    for layer in ours.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = KERAS_EPSILON
    return ours


@pytest.mark.parametrize("depth", [121, pytest.param(169, marks=pytest.mark.slow)])
def test_outputs_equal_those_of_keras(depth: int) -> None:
    theirs = getattr(keras.applications, f"DenseNet{depth}")(
        weights=None, input_shape=(33, 33, 3), classes=5, classifier_activation=None
    )
    random_weights(theirs)
    ours = ours_with_weights_of(theirs, 33, find_row(f"slim/densenet{depth}").arguments)
    images = random_images(33, batch=8)
    assert difference(ours(images, training=False), theirs(images, training=False).numpy()) < 1e-5
    assert difference(ours(images, training=True), theirs(images, training=True).numpy()) < 1e-5


@pytest.mark.slow
def test_names_and_shapes_are_those_of_the_source() -> None:
    spec = find_row("densenet161")
    assert_golden(golden_structure.build(spec), spec)


def test_parameters_of_densenet161_are_the_published_ones() -> None:
    spec = find_row("densenet161")
    counts = {name: math.prod(sides) for name, sides in of_file(spec).items()}
    trainable = sum(count for name, count in counts.items() if "/moving_" not in name)
    assert trainable == 28_681_000  # torchvision's, which counts no moving statistics
    assert spec.parameters == sum(count for name, count in counts.items() if "/logits/" not in name)


def test_below_the_least_size_a_map_vanishes() -> None:
    least = find_row("slim/densenet121").least_size
    assert networks.build("densenet", image_size=least, outputs=None, arguments=THIN).model.output.shape == (None, 120)
    with pytest.raises(ValueError, match="negative"):
        networks.build("densenet", image_size=least - 1, outputs=None, arguments=THIN)


def test_the_batch_norm_settings_are_the_sources() -> None:
    model = networks.build("densenet", image_size=32, outputs=None, arguments=THIN).model
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon, layer.scale, layer.center) for layer in layers} == {
        (0.99, 1.1e-5, True, True)
    }
    assert len(layers) == 1 + 2 * sum(THIN["layers"]) + 3 + 1


def test_stages_are_the_sources_scopes() -> None:
    stages = layers_by_stage(networks.build("densenet", image_size=32, outputs=3, arguments=THIN))
    blocks = [f"{kind}{i}" for i in (1, 2, 3) for kind in ("dense_block", "transition_block")]
    assert list(stages) == ["conv1", *blocks, "dense_block4", "head"]
    assert stages["conv1"] == ["images", "thin.conv1", "thin.BatchNorm", "thin.BatchNorm.relu", "thin.pool1"]
    assert stages["transition_block3"] == [
        "thin.transition_block3.blk.BatchNorm",
        "thin.transition_block3.blk.BatchNorm.relu",
        "thin.transition_block3.blk.Conv",
        "thin.transition_block3",
    ]
    assert stages["dense_block4"][-3:] == [
        "thin.final_block.BatchNorm",
        "thin.final_block.BatchNorm.relu",
        "thin.final_block.global_avg_pool",
    ]
    assert stages["head"] == ["thin.logits", "thin.logits.squeeze"]
