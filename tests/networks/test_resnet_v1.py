"""Our ResNet v1 against tf_slim's: same names, same outputs at even and odd sizes, in both modes of BatchNorm."""

import keras
import numpy as np
import pytest
import slim_oracle
import tensorflow as tf

from finetune import networks
from finetune.networks.names import slim_variables

UNITS = {"resnet_v1_50": (3, 4, 6, 3), "resnet_v1_101": (3, 4, 23, 3), "resnet_v1_152": (3, 8, 36, 3)}
THIN = {"scope": "thin", "units": (2, 3, 1), "width": 8}


def images(size: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(size).normal(0, 1, (batch, size, size, 3)).astype(np.float32)


def build(size: int, arguments: dict, variables: dict[str, np.ndarray], outputs: int | None) -> keras.Model:
    """Our network with slim's variables, each used once; without `outputs` the logits' two are left over."""
    model = networks.build("resnet_v1", image_size=size, outputs=outputs, arguments=arguments).model
    targets = slim_variables(model)
    leftover = set(variables) - set(targets)
    assert not set(targets) - set(variables)
    assert leftover == (set() if outputs else {f"{arguments['scope']}/logits/{x}" for x in ("weights", "biases")})
    for name, variable in targets.items():
        assert variable.shape == variables[name].shape, name
        variable.assign(variables[name])
    return model


def difference(ours: tf.Tensor, theirs: np.ndarray) -> float:
    """Largest difference as a share of the reference's scale."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("size", [32, 33, 64])
def test_thin_networks_agree_with_slim(size: int, stem: str) -> None:
    arguments = {**THIN, "stem": stem}
    slim = slim_oracle.resnet_v1(images(size), outputs=5, **arguments)
    model = build(size, arguments, slim.variables, outputs=5)
    assert difference(model(images(size), training=False), slim.logits) < 1e-5
    features = build(size, arguments, slim.variables, outputs=None)
    assert difference(features(images(size), training=False), slim.features) < 1e-5


@pytest.mark.parametrize("size", [33, 64])
def test_batch_statistics_normalise_as_in_slim(size: int) -> None:
    batch = images(size, batch=8)
    slim = slim_oracle.resnet_v1(batch, outputs=5, is_training=True, **THIN)
    model = build(size, THIN, slim.variables, outputs=5)
    assert difference(model(batch, training=True), slim.logits) < 1e-5


def test_height_and_width_may_differ() -> None:
    batch = np.random.default_rng(0).normal(0, 1, (2, 40, 64, 3)).astype(np.float32)
    slim = slim_oracle.resnet_v1(batch, outputs=5, **THIN)
    model = build((40, 64), THIN, slim.variables, outputs=5)
    assert difference(model(batch, training=False), slim.logits) < 1e-5


FULL_SIZE = [
    pytest.param(name, size, id=f"{name}-{size}", marks=[] if size in quick else pytest.mark.slow)
    for name, quick in (("resnet_v1_50", (32, 33, 64)), ("resnet_v1_101", (33,)), ("resnet_v1_152", (33,)))
    for size in (32, 33, 64, 224)
]


@pytest.mark.parametrize(("name", "size"), FULL_SIZE)
def test_published_networks_agree_with_slim(name: str, size: int) -> None:
    arguments = {"scope": name, "units": UNITS[name]}
    slim = slim_oracle.resnet_v1(images(size), outputs=1000, **arguments)
    model = build(size, arguments, slim.variables, outputs=1000)
    assert difference(model(images(size), training=False), slim.logits) < 1e-5


def test_the_batch_norm_settings_are_slims() -> None:
    model = networks.build("resnet_v1", image_size=32, outputs=None, arguments=THIN).model
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon, layer.scale, layer.center) for layer in layers} == {
        (0.997, 1e-5, True, True)
    }
    assert len(layers) == 1 + 3 * sum(THIN["units"]) + len(THIN["units"])
