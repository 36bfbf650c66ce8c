"""Our Inception v3 against tf_slim's: same names, same outputs at even and odd sizes, in both modes of BatchNorm."""

from fnmatch import fnmatchcase

import keras
import pytest

from checkpoints.catalog.lookup import find_row
from finetune.backbone import networks
from finetune.backbone.networks.network import layers_by_stage
from tests.support import slim_oracle
from tests.support.agreement import build_with, difference, random_images, trained

SPEC = find_row("slim/inception_v3")
SCOPE = SPEC.arguments["scope"]
THIN = {"scope": SCOPE, "depth_multiplier": 0.1}


# An odd size is also in the test with batch statistics.
@pytest.mark.parametrize("size", [96, pytest.param(75, marks=pytest.mark.slow)])
def test_thin_networks_agree_with_slim(size: int) -> None:
    images = random_images(size)
    slim = slim_oracle.inception("inception_v3", images, outputs=5, create_aux_logits=False, **THIN)
    model = build_with(slim.variables, "inception_v3", size, THIN, outputs=5)
    assert difference(model(images, training=False), slim.logits) < 1e-5
    features = keras.Model(model.input, model.get_layer(f"{SCOPE}.Logits.AvgPool_1a").output)
    assert difference(features(images)[:, 0, 0], slim.features) < 1e-5


@pytest.mark.slow
def test_batch_statistics_normalise_as_in_slim_beside_an_auxiliary_head() -> None:
    images = random_images(139, batch=8)
    slim = slim_oracle.inception("inception_v3", images, outputs=5, is_training=True, **THIN)
    auxiliary = {name for name in slim.variables if any(fnmatchcase(name, pattern) for pattern in SPEC.auxiliary)}
    assert len(auxiliary) == 10
    model = build_with(slim.variables, "inception_v3", 139, THIN, outputs=5, leftover=auxiliary)
    assert difference(trained(model)(images, training=True), slim.logits) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [299, 128, 75])
def test_the_published_network_agrees_with_slim(size: int) -> None:
    images = random_images(size)
    slim = slim_oracle.inception("inception_v3", images, outputs=1001, scope=SCOPE, create_aux_logits=size == 299)
    auxiliary = {name for name in slim.variables if any(fnmatchcase(name, pattern) for pattern in SPEC.auxiliary)}
    model = build_with(slim.variables, "inception_v3", size, SPEC.arguments, outputs=1001, leftover=auxiliary)
    assert difference(model(images, training=False), slim.logits) < 1e-5


@pytest.mark.slow
def test_below_the_least_size_a_map_vanishes() -> None:
    with pytest.raises(ValueError, match="negative"):
        networks.build("inception_v3", image_size=SPEC.least_size - 1, outputs=None, arguments=THIN)


@pytest.mark.slow
def test_the_batch_norm_settings_are_slims() -> None:
    model = networks.build("inception_v3", image_size=75, outputs=None, arguments=THIN).model
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon, layer.scale, layer.center) for layer in layers} == {
        (0.9997, 1e-3, False, True)
    }
    assert len(layers) == 94


@pytest.mark.slow
def test_stages_are_slims_end_points() -> None:
    stages = layers_by_stage(networks.build("inception_v3", image_size=75, outputs=3, arguments=THIN))
    stem = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
    mixed = [f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")]
    assert list(stages) == [*stem, *mixed, "head"]
    assert stages["Conv2d_4a_3x3"][-1] == f"{SCOPE}.MaxPool_5a_3x3"
    assert len(stages["Mixed_6a"]) == 4 * 3 + 2
    assert stages["head"] == [f"{SCOPE}.Logits.Conv2d_1c_1x1", f"{SCOPE}.Logits.Conv2d_1c_1x1.squeeze"]
