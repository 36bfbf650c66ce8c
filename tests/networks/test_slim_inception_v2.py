"""Our Inception v2 against tf_slim's: same names, same outputs at even and odd sizes, in both modes of BatchNorm."""

import keras
import pytest

from checkpoints.catalog.lookup import find_row
from finetune.backbone import networks
from finetune.backbone.networks.names import slim_variables
from finetune.backbone.networks.network import layers_by_stage
from tests.support import slim_oracle
from tests.support.agreement import build_with, difference, random_images, trained

SPEC = find_row("slim/inception_v2")
SCOPE = SPEC.arguments["scope"]
THIN = {"scope": SCOPE, "depth_multiplier": 0.3}


# An odd size is also in the test with batch statistics.
@pytest.mark.parametrize("size", [64, pytest.param(33, marks=pytest.mark.slow)])
def test_thin_networks_agree_with_slim(size: int) -> None:
    images = random_images(size)
    slim = slim_oracle.inception("inception_v2", images, outputs=5, **THIN)
    model = build_with(slim.variables, "inception_v2", size, THIN, outputs=5)
    assert difference(model(images, training=False), slim.logits) < 1e-5
    features = keras.Model(model.input, model.get_layer(f"{SCOPE}.Logits.AvgPool_1a").output)
    assert difference(features(images)[:, 0, 0], slim.features) < 1e-5


@pytest.mark.slow
def test_batch_statistics_normalise_as_in_slim() -> None:
    images = random_images(97, batch=8)
    slim = slim_oracle.inception("inception_v2", images, outputs=5, is_training=True, **THIN)
    model = build_with(slim.variables, "inception_v2", 97, THIN, outputs=5)
    assert difference(trained(model)(images, training=True), slim.logits) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 64, 33])
def test_the_published_network_agrees_with_slim(size: int) -> None:
    images = random_images(size)
    slim = slim_oracle.inception("inception_v2", images, outputs=1001, scope=SCOPE)
    model = build_with(slim.variables, "inception_v2", size, SPEC.arguments, outputs=1001)
    assert difference(model(images, training=False), slim.logits) < 1e-5


@pytest.mark.slow
def test_the_first_convolution_is_separable_and_not_normalised() -> None:
    model = networks.build("inception_v2", image_size=32, outputs=None, arguments=SPEC.arguments).model
    first = {name: tuple(v.shape) for name, v in slim_variables(model).items() if "Conv2d_1a_7x7" in name}
    assert first == {
        f"{SCOPE}/Conv2d_1a_7x7/depthwise_weights": (7, 7, 3, 8),
        f"{SCOPE}/Conv2d_1a_7x7/pointwise_weights": (1, 1, 24, 64),
        f"{SCOPE}/Conv2d_1a_7x7/biases": (64,),
    }


@pytest.mark.slow
def test_the_batch_norm_settings_are_slims() -> None:
    model = networks.build("inception_v2", image_size=32, outputs=None, arguments=THIN).model
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon, layer.scale, layer.center) for layer in layers} == {
        (0.9997, 1e-3, False, True)
    }
    assert len(layers) == 68


@pytest.mark.slow
def test_stages_are_slims_end_points() -> None:
    stages = layers_by_stage(networks.build("inception_v2", image_size=32, outputs=3, arguments=THIN))
    mixed = [f"Mixed_{name}" for name in ("3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b", "5c")]
    assert list(stages) == ["Conv2d_1a_7x7", "Conv2d_2b_1x1", "Conv2d_2c_3x3", *mixed, "head"]
    assert stages["Conv2d_1a_7x7"] == ["images", f"{SCOPE}.Conv2d_1a_7x7", f"{SCOPE}.MaxPool_2a_3x3"]
    assert stages["head"] == [f"{SCOPE}.Logits.Conv2d_1c_1x1", f"{SCOPE}.Logits.Conv2d_1c_1x1.squeeze"]
