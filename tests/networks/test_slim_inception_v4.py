"""Our Inception v4 against its source: the same names and shapes, and the outputs that the source once gave."""

import math

import keras
import numpy as np
import pytest

from checkpoints.catalog.lookup import find_row
from finetune.backbone.networks.network import Network, layers_by_stage
from tests.networks import golden_structure
from tests.networks.golden_structure import assert_golden, of_file
from tests.support.agreement import build_with, difference, random_images
from tests.support.slim_oracle import random_variables

SPEC = find_row("slim/inception_v4")
SCOPE = SPEC.arguments["scope"]

# What the source of golden/inception_v4.txt made of these images and weights, on tf_slim 1.1.0 and TensorFlow 2.21. In
# the same way our outputs agreed to 2e-6 at 299, 128 and 75 px, and exactly with batch statistics at 139 px.
SOURCE_LOGITS = np.array(
    [
        [-0.25855553, 0.29106814, -0.28852046, -0.26083457, -1.0459589],
        [-0.28630394, 0.2840908, -0.28736356, -0.25044832, -1.1102443],
    ]
)


@pytest.fixture(scope="module")
def network() -> Network:
    return golden_structure.build(SPEC)


@pytest.mark.slow
def test_outputs_are_those_of_the_source() -> None:
    head = {f"{SCOPE}/Logits/Logits/weights": [1536, 5], f"{SCOPE}/Logits/Logits/biases": [5]}
    variables = random_variables({**of_file(SPEC), **head}, seed=0)
    size = (96, 75)
    model = build_with(variables, "inception_v4", size, SPEC.arguments, outputs=5)
    assert difference(model(random_images(size), training=False), SOURCE_LOGITS) < 1e-5


@pytest.mark.slow
def test_names_and_shapes_are_those_of_the_source(network: Network) -> None:
    assert_golden(network, SPEC)


def test_parameters_are_the_published_ones() -> None:
    counts = {name: math.prod(sides) for name, sides in of_file(SPEC).items()}
    trainable = sum(count for name, count in counts.items() if "/moving_" not in name)
    gammas = sum(count for name, count in counts.items() if name.endswith("/beta"))
    # timm's count: 1000 outputs, and a gamma in every BatchNorm.
    assert trainable - (1536 + 1) + gammas == 42_679_816
    assert SPEC.parameters == sum(count for name, count in counts.items() if "/Logits/" not in name)


@pytest.mark.slow
def test_stages_are_the_sources_end_points(network: Network) -> None:
    stages = layers_by_stage(network)
    letters = {3: "a", 4: "a", 5: "abcde", 6: "abcdefgh", 7: "abcd"}
    mixed = [f"Mixed_{number}{letter}" for number, each in letters.items() for letter in each]
    assert list(stages) == ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", *mixed, "head"]
    assert stages["head"] == [f"{SCOPE}.Logits.Logits"]
    norms = [layer for layer in network.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon, layer.scale) for layer in norms} == {(0.9997, 1e-3, False)}
    assert len(norms) == 149
