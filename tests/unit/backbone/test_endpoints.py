"""A layer by slim's name gives what tf_slim's own `end_points` hold under it."""

import importlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune.backbone import networks
from finetune.backbone.endpoints import POOLED, end_points, find_layer, scope
from finetune.errors import WrongUse
from finetune.inference import reference
from tests.support import slim_oracle
from tests.support.agreement import build_with, difference, random_images

Values = dict[str, np.ndarray]


def slim_end_points(images: np.ndarray, build: Any) -> tuple[Values, Values]:
    """(variables, end points) of tf_slim's network with random values."""
    with reference.tf1_graph():
        placeholder = tf.compat.v1.placeholder(tf.float32, images.shape)
        found = {name: tensor for name, tensor in build(placeholder).items() if tensor.shape.rank in (2, 4)}
        model = tf.compat.v1.global_variables()
        values = slim_oracle.random_variables({v.op.name: v.shape.as_list() for v in model}, 0)
        with tf.compat.v1.Session() as session:
            initial = {variable.initializer.inputs[1]: values[variable.op.name] for variable in model}
            session.run([variable.initializer for variable in model], initial)
            return values, session.run(found, {placeholder: images})


def assert_all_found(model: keras.Model, points: Values, images: np.ndarray, *, but: set[str] = frozenset()) -> None:
    names = [name for name in points if name not in but]
    layers = [find_layer(model, name, stages={}) for name in names]
    outputs = keras.Model(model.input, [layer.output for layer in layers])(images, training=False)
    for name, output in zip(names, outputs, strict=True):
        ours = tf.reshape(output, points[name].shape)  # the logits have lost their two sides of one pixel
        assert difference(ours, points[name]) < 2e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_resnets(version: str) -> None:
    def build(placeholder: tf.Tensor) -> dict[str, tf.Tensor]:
        slim = importlib.import_module("tf_slim")
        nets = importlib.import_module(f"tf_slim.nets.resnet_{version}")
        block = getattr(nets, f"resnet_{version}_block")
        blocks = [block("block1", 64, 2, 2), block("block2", 128, 1, 1)]
        with slim.arg_scope(nets.resnet_arg_scope()):
            points: dict[str, tf.Tensor] = getattr(nets, f"resnet_{version}")(
                placeholder, blocks, 5, False, scope="net"
            )[1]
        return points

    images = random_images(33)
    values, points = slim_end_points(images, build)
    assert {"net/conv1", "net/block1", f"net/block1/unit_2/bottleneck_{version}", "net/logits"} <= set(points)
    arguments = {"units": (2, 1), "width": 64, "scope": "net"}
    model = build_with(values, f"resnet_{version}", 33, arguments, outputs=5)
    assert_all_found(model, points, images, but={"predictions"})  # the softmax, which is no layer here
    # research/slim's name for the logits without their two sides of one pixel, which tf_slim does not keep.
    assert find_layer(model, "net/spatial_squeeze", stages={}).output.shape == (None, 5)


@pytest.mark.slow
def test_inception_v3() -> None:
    def build(placeholder: tf.Tensor) -> dict[str, tf.Tensor]:
        slim = importlib.import_module("tf_slim")
        inception = importlib.import_module("tf_slim.nets.inception")
        with slim.arg_scope(inception.inception_v3_arg_scope()):
            points: dict[str, tf.Tensor] = inception.inception_v3(
                placeholder, 5, False, depth_multiplier=0.1, create_aux_logits=False, scope="InceptionV3"
            )[1]
        return points

    images = random_images(107)
    values, points = slim_end_points(images, build)
    assert {"Conv2d_1a_3x3", "MaxPool_3a_3x3", "Mixed_5c", "Mixed_7c", "PreLogits", "Logits"} <= set(points)
    arguments = {"depth_multiplier": 0.1, "scope": "InceptionV3"}
    model = build_with(values, "inception_v3", 107, arguments, outputs=5)
    assert_all_found(model, points, images, but={"Predictions"})


@pytest.mark.parametrize(
    ("root", "name", "layer"),
    [
        ("MobilenetV1", "AvgPool_1a", "Logits.AvgPool_1a"),
        ("InceptionV4", "PreLogitsFlatten", "AvgPool_1a"),
        ("InceptionResnetV2", "PreLogitsFlatten", "AvgPool_1a_8x8"),
        ("InceptionResnetV2", "PreAuxLogits", "Repeat_1.block17_20"),
        ("InceptionV4", "PreAuxLogits", None),
        ("InceptionV1", "PreLogits", None),
        ("InceptionV4", "spatial_squeeze", None),
    ],
)
def test_names_that_are_no_scopes_are_found_in_the_networks_that_have_them(
    root: str, name: str, layer: str | None
) -> None:
    """research/slim's networks, which no package installs, in outline."""
    x = images = keras.Input((8, 8, 3))
    for place in ("Repeat_1.block17_19", "Repeat_1.block17_20", "Mixed_7a"):
        x = keras.layers.Conv2D(2, 1, name=f"{root}.{place}")(x)
    pool = {"MobilenetV1": "Logits.AvgPool_1a", "InceptionResnetV2": "AvgPool_1a_8x8"}.get(root, "AvgPool_1a")
    x = keras.layers.GlobalAveragePooling2D(name=f"{root}.{pool}")(x)
    model = keras.Model(images, x)
    if layer is not None:
        assert find_layer(model, name, stages={}).name == f"{root}.{layer}"
        return
    with pytest.raises(WrongUse, match=f"unknown layer '{name}'"):
        find_layer(model, name, stages={})


@pytest.fixture(scope="module")
def small() -> keras.Model:
    arguments = {"units": (2, 1), "width": 8, "scope": "net"}
    return networks.build("resnet_v1", image_size=32, outputs=None, arguments=arguments).model


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("net.conv1", "net.conv1"),  # the Keras layer: the convolution alone
        ("net/conv1", "net.conv1.relu"),
        ("conv1", "net.conv1.relu"),
        ("block1/unit_1/bottleneck_v1/conv3", "net.block1.unit_1.bottleneck_v1.conv3.BatchNorm"),
        (POOLED, "net.pool5"),
        ("pool5", "net.pool5"),
    ],
)
def test_names(name: str, layer: str, small: keras.Model) -> None:
    assert find_layer(small, name, stages={}).name == layer


def test_what_there_is(small: keras.Model) -> None:
    assert scope(small) == "net"
    assert end_points(small, stages={}) == ["conv1", "pool1", "block1", "block2", "pool5", POOLED]
    for name, near in (
        ("net/blok1", "block1"),
        ("Pool1", "pool1"),
        ("block1/unit_1/bottleneck_v2", "unit_1/bottleneck_v1"),
    ):
        with pytest.raises(WrongUse, match=rf"unknown layer '{name}': did you mean .*{near}.* conv1, pool1, block1"):
            find_layer(small, name, stages={})


def test_a_stage_is_its_last_map() -> None:
    model = keras.applications.MobileNet(
        weights=None, input_shape=(32, 32, 3), alpha=0.25, include_top=False, pooling="avg"
    )
    stages = {"one": ["conv1", "conv1_bn", "conv1_relu"], "two": ["conv_dw_1", "global_average_pooling2d"]}
    assert find_layer(model, "one", stages=stages).name == "conv1_relu"
    assert find_layer(model, "two", stages=stages).name == "conv_dw_1"
    assert find_layer(model, "conv_pw_3", stages=stages).name == "conv_pw_3"
