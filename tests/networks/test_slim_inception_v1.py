"""Our Inception v1 against tf_slim's: same names, same outputs at even and odd sizes, in both modes of BatchNorm."""

import keras
import pytest

from checkpoints.catalog.lookup import find_row
from finetune.backbone import networks
from finetune.backbone.networks.network import layers_by_stage
from tests.support import slim_oracle
from tests.support.agreement import build_with, difference, random_images, trained

SPEC = find_row("slim/inception_v1")
SCOPE = SPEC.arguments["scope"]


# slim has no narrower one, and its 7x7 pooling takes no image below 193 px, which is in the test with batch statistics.
@pytest.mark.slow
@pytest.mark.parametrize("size", [224, pytest.param(193, marks=pytest.mark.slow)])
def test_the_published_network_agrees_with_slim(size: int) -> None:
    images = random_images(size)
    slim = slim_oracle.inception("inception_v1", images, outputs=1001, scope=SCOPE)
    model = build_with(slim.variables, "inception_v1", size, SPEC.arguments, outputs=1001)
    assert difference(model(images, training=False), slim.logits) < 1e-5
    features = keras.Model(model.input, model.get_layer(f"{SCOPE}.Logits.AvgPool_0a").output)
    assert difference(features(images)[:, 0, 0], slim.features) < 1e-5


@pytest.mark.slow
def test_batch_statistics_normalise_as_in_slim() -> None:
    images = random_images(193, batch=4)
    slim = slim_oracle.inception("inception_v1", images, outputs=5, is_training=True, scope=SCOPE)
    model = build_with(slim.variables, "inception_v1", 193, SPEC.arguments, outputs=5)
    assert difference(trained(model)(images, training=True), slim.logits) < 1e-5


@pytest.mark.slow
def test_the_batch_norm_settings_are_slims() -> None:
    model = networks.build("inception_v1", image_size=32, outputs=None, arguments=SPEC.arguments).model
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon, layer.scale, layer.center) for layer in layers} == {
        (0.9997, 1e-3, False, True)
    }
    assert len(layers) == 57


@pytest.mark.slow
def test_stages_are_slims_end_points() -> None:
    stages = layers_by_stage(networks.build("inception_v1", image_size=32, outputs=3, arguments=SPEC.arguments))
    mixed = [f"Mixed_{name}" for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")]
    assert list(stages) == ["Conv2d_1a_7x7", "Conv2d_2b_1x1", "Conv2d_2c_3x3", *mixed, "head"]
    assert stages["Mixed_3c"][-1] == f"{SCOPE}.MaxPool_4a_3x3"
    assert f"{SCOPE}.Mixed_5b.Branch_2.Conv2d_0a_3x3" in stages["Mixed_5b"]  # slim's slip: 0b everywhere else
    assert stages["head"] == [f"{SCOPE}.Logits.Conv2d_0c_1x1", f"{SCOPE}.Logits.Conv2d_0c_1x1.squeeze"]
