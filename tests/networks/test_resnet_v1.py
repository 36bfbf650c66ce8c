"""Our ResNet v1 against tf_slim's: same names, same outputs at even and odd sizes, in both modes of BatchNorm."""

import keras
import pytest

from finetune.backbone import networks
from tests.support import slim_oracle
from tests.support.agreement import Size, build_with, difference, random_images

UNITS = {
    "resnet_v1_50": (3, 4, 6, 3),
    "resnet_v1_101": (3, 4, 23, 3),
    "resnet_v1_152": (3, 8, 36, 3),
    "resnet_v1_200": (3, 24, 36, 3),
}
THIN = {"scope": "thin", "units": (2, 3, 1), "width": 8}


def build(size: Size, arguments: dict, slim: slim_oracle.SlimRun, outputs: int | None) -> keras.Model:
    """Our network with slim's variables; without `outputs` the logits' two are left over."""
    leftover = set() if outputs else {f"{arguments['scope']}/logits/{x}" for x in ("weights", "biases")}
    return build_with(slim.variables, "resnet_v1", size, arguments, outputs=outputs, leftover=leftover)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("size", [32, 33, 64])
def test_thin_networks_agree_with_slim(size: int, stem: str) -> None:
    arguments = {**THIN, "stem": stem}
    slim = slim_oracle.resnet_v1(random_images(size), outputs=5, **arguments)
    model = build(size, arguments, slim, outputs=5)
    assert difference(model(random_images(size), training=False), slim.logits) < 1e-5
    features = build(size, arguments, slim, outputs=None)
    assert difference(features(random_images(size), training=False), slim.features) < 1e-5


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("size", [33, 64])
def test_batch_statistics_normalise_as_in_slim(size: int) -> None:
    batch = random_images(size, batch=8)
    slim = slim_oracle.resnet_v1(batch, outputs=5, is_training=True, **THIN)
    model = build(size, THIN, slim, outputs=5)
    assert difference(model(batch, training=True), slim.logits) < 1e-5


@pytest.mark.slow
def test_height_and_width_may_differ() -> None:
    batch = random_images((40, 64))
    slim = slim_oracle.resnet_v1(batch, outputs=5, **THIN)
    model = build((40, 64), THIN, slim, outputs=5)
    assert difference(model(batch, training=False), slim.logits) < 1e-5


FULL_SIZE = [
    pytest.param(name, size, id=f"{name}-{size}", marks=[] if size in quick else pytest.mark.slow)
    for name, quick in (
        ("resnet_v1_50", (33,)),
        ("resnet_v1_101", ()),
        ("resnet_v1_152", ()),
        ("resnet_v1_200", ()),
    )
    for size in (32, 33, 64, 224)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), FULL_SIZE)
def test_published_networks_agree_with_slim(name: str, size: int) -> None:
    arguments = {"scope": name, "units": UNITS[name]}
    slim = slim_oracle.resnet_v1(random_images(size), outputs=1000, **arguments)
    model = build(size, arguments, slim, outputs=1000)
    assert difference(model(random_images(size), training=False), slim.logits) < 1e-5


def test_the_batch_norm_settings_are_slims() -> None:
    model = networks.build("resnet_v1", image_size=32, outputs=None, arguments=THIN).model
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon, layer.scale, layer.center) for layer in layers} == {
        (0.997, 1e-5, True, True)
    }
    assert len(layers) == 1 + 3 * sum(THIN["units"]) + len(THIN["units"])
