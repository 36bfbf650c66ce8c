"""Our VGG against tf_slim's: same names, same outputs at even, odd and large sizes, in training and in inference."""

import inspect

import keras
import numpy as np
import pytest

from checkpoints.catalog.lookup import find_row
from finetune.backbone import networks
from finetune.backbone.networks.network import layers_by_stage
from tests.support import slim_oracle
from tests.support.agreement import Size, build_with, difference, random_images

DEPTHS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
DIVISOR = 16
THIN = {"widths": (4, 8, 16, 32, 32), "hidden": 256}
"""A 16th of slim's channels."""


def thin(depth: int) -> dict:
    return {"scope": f"vgg_{depth}", "layers": DEPTHS[depth]}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("size", [224, 255, (224, 260), 288])
def test_thin_networks_agree_with_slim(depth: int, size: Size) -> None:
    images, scope = random_images(size), f"vgg_{depth}"
    slim = slim_oracle.vgg(images, outputs=5, divisor=DIVISOR, **thin(depth))
    model = build_with(slim.variables, "vgg", size, {**thin(depth), **THIN}, outputs=5)
    assert difference(model(images, training=False), slim.logits) < 1e-5
    old_head = {f"{scope}/fc8/weights", f"{scope}/fc8/biases"}
    features = build_with(slim.variables, "vgg", size, {**thin(depth), **THIN}, outputs=None, leftover=old_head)
    assert difference(features(images, training=False), slim.features) < 1e-5


def test_training_drops_what_slim_drops_and_nothing_else() -> None:
    images = random_images(224)
    slim = slim_oracle.vgg(images, outputs=5, is_training=True, divisor=DIVISOR, **thin(16))
    arguments = {**thin(16), **THIN}
    model = build_with(slim.variables, "vgg", 224, {**arguments, "dropout": 0.0}, outputs=5)
    assert difference(model(images, training=True), slim.logits) < 1e-5
    from tf_slim.nets import vgg

    published = networks.build("vgg", image_size=224, outputs=None, arguments=arguments).model
    kept = inspect.signature(vgg.vgg_16).parameters["dropout_keep_prob"].default
    layers = [layer for layer in published.layers if isinstance(layer, keras.layers.Dropout)]
    assert [(layer.name, layer.rate) for layer in layers] == [(f"vgg_16.dropout{i}", 1 - kept) for i in (6, 7)]
    zeros = np.mean(np.asarray(published(images, training=True)) == 0)
    assert zeros > 1.3 * np.mean(np.asarray(published(images, training=False)) == 0)


@pytest.mark.slow
@pytest.mark.parametrize("depth", DEPTHS)
def test_published_networks_agree_with_slim(depth: int) -> None:
    spec, images = find_row(f"slim/vgg_{depth}"), random_images(224)
    slim = slim_oracle.vgg(images, outputs=1000, **spec.arguments)
    model = build_with(slim.variables, "vgg", 224, dict(spec.arguments), outputs=1000)
    assert difference(model(images, training=False), slim.logits) < 1e-5


def test_below_the_least_size_fc6_has_no_place() -> None:
    least = find_row("slim/vgg_16").least_size
    build = {"outputs": None, "arguments": {**thin(16), **THIN}}
    assert networks.build("vgg", image_size=least, **build).model.output.shape == (None, 256)
    with pytest.raises(ValueError, match="negative"):
        networks.build("vgg", image_size=least - 1, **build)


def test_stages_are_slims_scopes() -> None:
    stages = layers_by_stage(networks.build("vgg", image_size=224, outputs=3, arguments={**thin(16), **THIN}))
    assert list(stages) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "head"]
    assert stages["conv1"][:3] == ["images", "vgg_16.conv1.conv1_1", "vgg_16.conv1.conv1_1.relu"]
    assert stages["conv5"][-1] == "vgg_16.pool5"
    assert stages["fc7"] == ["vgg_16.fc7", "vgg_16.fc7.relu", "vgg_16.dropout7", "vgg_16.global_pool"]
    assert stages["head"] == ["vgg_16.fc8", "vgg_16.fc8.squeeze"]
