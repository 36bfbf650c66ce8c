"""Our ResNet v2 against tf_slim's: same names, same outputs at even and odd sizes, in both modes of BatchNorm."""

import keras
import pytest

from finetune.backbone import networks
from finetune.backbone.networks.names import slim_variables
from finetune.backbone.networks.network import layers_by_stage
from tests.support import slim_oracle
from tests.support.agreement import Size, build_with, difference, random_images

THIN = {"scope": "thin", "units": (2, 3, 1), "width": 8}
UNITS = {
    "resnet_v2_50": (3, 4, 6, 3),
    "resnet_v2_101": (3, 4, 23, 3),
    "resnet_v2_152": (3, 8, 36, 3),
    "resnet_v2_200": (3, 24, 36, 3),
}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("size", [64, 33, (40, 64)])
def test_thin_networks_agree_with_slim(size: Size) -> None:
    images = random_images(size)
    slim = slim_oracle.resnet_v2(images, outputs=5, **THIN)
    model = build_with(slim.variables, "resnet_v2", size, THIN, outputs=5)
    assert difference(model(images, training=False), slim.logits) < 1e-5
    old_head = {"thin/logits/weights", "thin/logits/biases"}
    features = build_with(slim.variables, "resnet_v2", size, THIN, outputs=None, leftover=old_head)
    assert difference(features(images, training=False), slim.features) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [33, pytest.param(64, marks=pytest.mark.slow)])
def test_batch_statistics_normalise_as_in_slim(size: int) -> None:
    images = random_images(size, batch=8)
    slim = slim_oracle.resnet_v2(images, outputs=5, is_training=True, **THIN)
    model = build_with(slim.variables, "resnet_v2", size, THIN, outputs=5)
    assert difference(model(images, training=True), slim.logits) < 1e-5


@pytest.mark.parametrize("size", [33, 64])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in UNITS])
def test_published_networks_agree_with_slim(name: str, size: int) -> None:
    arguments = {"scope": name, "units": UNITS[name]}
    images = random_images(size)
    slim = slim_oracle.resnet_v2(images, outputs=1001, **arguments)
    model = build_with(slim.variables, "resnet_v2", size, arguments, outputs=1001)
    assert difference(model(images, training=False), slim.logits) < 1e-5


def test_the_batch_norm_settings_are_slims() -> None:
    model = networks.build("resnet_v2", image_size=32, outputs=None, arguments=THIN).model
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon, layer.scale, layer.center) for layer in layers} == {
        (0.997, 1e-5, True, True)
    }
    assert len(layers) == 3 * sum(THIN["units"]) + 1


def test_the_last_norm_belongs_to_the_last_block() -> None:
    network = networks.build("resnet_v2", image_size=32, outputs=3, arguments={"scope": "t", "units": (1, 1)})
    stages = layers_by_stage(network)
    assert list(stages) == ["conv1", "block1", "block2", "head"]
    assert stages["conv1"] == ["images", "t.conv1.pad", "t.conv1", "t.pool1"]
    assert stages["block2"][-3:] == ["t.postnorm", "t.postnorm.relu", "t.pool5"]
    assert "t.block2.unit_1.bottleneck_v2.preact" in stages["block2"]
    assert stages["head"] == ["t.logits", "t.logits.squeeze"]


def test_biases_are_where_no_batch_norm_follows() -> None:
    names = slim_variables(networks.build("resnet_v2", image_size=32, outputs=None, arguments=THIN).model)
    unit = "thin/block1/unit_1/bottleneck_v2"
    biases = {name for name in names if name.startswith((unit, "thin/conv1")) and name.endswith("biases")}
    assert biases == {"thin/conv1/biases", f"{unit}/shortcut/biases", f"{unit}/conv3/biases"}
