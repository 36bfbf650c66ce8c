"""Our MobileNet v1 against Keras's and against the published checkpoint, which Keras's weights were converted from."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune.backbone import networks
from finetune.backbone.networks.names import slim_variables
from tests.support.places import SHARED

CHECKPOINTS = SHARED / "checkpoints"
SLIM_V1 = CHECKPOINTS / "slim" / "v1" / "mobilenet_v1_0.25_224.ckpt"
SLIM_V2 = CHECKPOINTS / "slim" / "v2" / "mobilenet_v1_0.25_224.ckpt"
KERAS = CHECKPOINTS / "keras" / "mobilenet_2_5_224_tf.h5"
needs_checkpoints = pytest.mark.skipif(not CHECKPOINTS.exists(), reason=f"no published weights in {CHECKPOINTS}")


def build(size: int, outputs: int | None) -> keras.Model:
    arguments = {"depth_multiplier": 0.25}
    return networks.build("mobilenet_v1", image_size=size, outputs=outputs, arguments=arguments).model


def keras_mobilenet(size: int, weights: Path | None = None) -> keras.Model:
    return keras.applications.MobileNet(
        alpha=0.25, weights=weights and str(weights), input_shape=(size, size, 3), classifier_activation=None
    )


def slim_scope(keras_name: str) -> str:
    """`conv_dw_3_bn` is `MobilenetV1.Conv2d_3_depthwise.BatchNorm`."""
    if keras_name == "conv_preds":
        return "MobilenetV1.Logits.Conv2d_1c_1x1"
    name, bn = keras_name.removesuffix("_bn"), keras_name.endswith("_bn")
    kind, _, index = name.rpartition("_")
    suffix = {"": "0", "conv_dw": f"{index}_depthwise", "conv_pw": f"{index}_pointwise"}[kind]
    return f"MobilenetV1.Conv2d_{suffix}" + (".BatchNorm" if bn else "")


def difference(ours: tf.Tensor, theirs: tf.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def images(size: int) -> np.ndarray:
    return np.random.default_rng(size).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("size", [32, 64, 96])
def test_random_weights_give_keras_outputs(size: int) -> None:
    theirs, ours = keras_mobilenet(size), build(size, outputs=1000)
    rng = np.random.default_rng(0)
    used = set()
    for layer in theirs.layers:
        if not layer.weights:
            continue
        values = [
            rng.uniform(0.5, 1.5, w.shape) if w.name in ("gamma", "moving_variance") else rng.normal(0, 0.2, w.shape)
            for w in layer.weights
        ]
        layer.set_weights(values)
        ours.get_layer(slim_scope(layer.name)).set_weights(values)
        used.add(slim_scope(layer.name))
    assert used == {layer.name for layer in ours.layers if layer.weights}
    assert difference(ours(images(size)), theirs(images(size))) < 1e-5


@needs_checkpoints
@pytest.mark.parametrize("path", [SLIM_V1, SLIM_V2], ids=["v1", "v2"])
def test_names_and_shapes_are_the_checkpoints(path: Path) -> None:
    published = tf.train.load_checkpoint(str(path)).get_variable_to_shape_map()
    del published["global_step"]
    model = build(224, outputs=1001)
    assert {name: list(variable.shape) for name, variable in slim_variables(model).items()} == published


@pytest.mark.slow
@needs_checkpoints
def test_published_slim_weights_give_the_published_keras_features() -> None:
    checkpoint = tf.train.load_checkpoint(str(SLIM_V1))
    ours = build(224, outputs=None)
    for name, variable in slim_variables(ours).items():
        variable.assign(checkpoint.get_tensor(name))
    theirs = keras_mobilenet(224, KERAS)
    features = keras.Model(theirs.input, theirs.get_layer("conv_pw_13_relu").output)(images(224))
    assert difference(ours(images(224)), tf.reduce_mean(features, [1, 2])) < 1e-5


@pytest.mark.slow
@needs_checkpoints
def test_published_slim_logits_are_keras_behind_a_background_class() -> None:
    checkpoint = tf.train.load_checkpoint(str(SLIM_V1))
    ours = build(224, outputs=1001)
    for name, variable in slim_variables(ours).items():
        variable.assign(checkpoint.get_tensor(name))
    theirs = keras_mobilenet(224, KERAS)
    assert difference(ours(images(224))[:, 1:], theirs(images(224))) < 1e-5


def test_no_layer_is_narrower_than_the_least_depth() -> None:
    network = networks.build("mobilenet_v1", image_size=32, outputs=None, arguments={"depth_multiplier": 0.1})
    channels = [network.model.get_layer(stage.end).output.shape[-1] for stage in network.stages]
    assert channels == [8, 8, 12, 12, 25, 25, 51, 51, 51, 51, 51, 51, 102, 102]
    assert network.model.output.shape == (None, 102)
