"""Our slim Inception-ResNet v2: the names of its source, and exactly the outputs of `keras.applications`."""

import keras
import numpy as np
import pytest

from checkpoints.catalog.lookup import find_row
from finetune.backbone import networks
from finetune.backbone.networks.network import Network, layers_by_stage
from tests.networks import golden_structure
from tests.networks.golden_structure import assert_golden
from tests.support.agreement import difference, random_images

SPEC = find_row("slim/inception_resnet_v2")
SCOPE = SPEC.arguments["scope"]


@pytest.fixture(scope="module")
def network() -> Network:
    return golden_structure.build(SPEC)


@pytest.mark.slow
@pytest.mark.parametrize("size", [75, 128])
def test_outputs_equal_those_of_keras(size: int) -> None:
    theirs = keras.applications.InceptionResNetV2(
        weights=None, input_shape=(size, size, 3), classes=5, classifier_activation=None
    )
    ours = networks.build("inception_resnet_v2", image_size=size, outputs=5, arguments=SPEC.arguments).model
    rng = np.random.default_rng(0)
    with_weights = [[layer for layer in model.layers if layer.weights] for model in (ours, theirs)]
    for mine, other in zip(*with_weights, strict=True):
        assert [v.name for v in mine.weights] == [v.name for v in other.weights]
        mine.set_weights([values(v.name, v.shape, rng, kernel=np.asarray(v)) for v in other.weights])
        other.set_weights(mine.get_weights())
    images = random_images(size, batch=4)
    assert difference(ours(images, training=False), theirs(images, training=False).numpy()) < 1e-5
    assert difference(ours(images, training=True), theirs(images, training=True).numpy()) < 1e-5


def values(name: str, shape: tuple[int, ...], rng: np.random.Generator, *, kernel: np.ndarray) -> np.ndarray:
    """Far from the initial values for all but kernels."""
    if name == "kernel":
        return kernel
    return rng.uniform(0.5, 1.5, shape) if name == "moving_variance" else rng.normal(0, 0.1, shape)


@pytest.mark.slow
def test_names_and_shapes_are_those_of_the_source(network: Network) -> None:
    assert_golden(network, SPEC)


@pytest.mark.slow
def test_stages_are_the_sources_scopes(network: Network) -> None:
    stages = layers_by_stage(network)
    stem = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
    assert list(stages) == [
        *stem, "Mixed_5b", "Repeat", "Mixed_6a", "Repeat_1", "Mixed_7a", "Repeat_2", "Block8", "Conv2d_7b_1x1", "head"
    ]  # fmt: skip
    for stage, blocks in (("Repeat", 10), ("Repeat_1", 20), ("Repeat_2", 9)):
        last = list(dict.fromkeys(name.split(".")[2] for name in stages[stage]))
        assert len(last) == blocks, "blocks of this scope and no other layer"
        assert all(name.startswith(f"{SCOPE}.{stage}.block") for name in stages[stage])
    assert stages["Block8"][-1] == f"{SCOPE}.Block8"
    assert stages["head"] == [f"{SCOPE}.Logits.Logits"]
    norms = [layer for layer in network.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon, layer.scale) for layer in norms} == {(0.9997, 1e-3, False)}
    assert len(norms) == 204
