"""Grad-CAM against its formula written out by hand, and against CAM where both are the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from finetune.backbone.outputs import as_logits
from finetune.batchnorm.flatten import flat
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import adopt
from finetune.config import RunConfig
from finetune.data.dataset import Split
from finetune.errors import FinetuneError, WrongUse
from finetune.inference.grad_cam import Explained, GradCam, grad_cam_of, map_layers

IMAGES = np.random.default_rng(0).normal(size=(5, 12, 10, 3)).astype(np.float32)
CLASSES = np.array([0, 3, 1, 2, 3])


def drawn(model: keras.Model) -> keras.Model:
    """The model with weights and moving statistics that are all at random."""
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.1, 1, one.shape) if one.ndim == 1 else rng.normal(size=one.shape) * 0.4
                       for one in model.get_weights()])  # fmt: skip
    return model


def lower() -> keras.Model:
    """Images to maps `[batch, 6, 5, 7]`."""
    images = keras.Input((12, 10, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, 2, padding="same")(images)))
    x = layers.BatchNormalization(name="last_bn")(layers.Conv2D(7, 3, padding="same", name="last_conv")(x))
    return drawn(keras.Model(images, layers.ReLU(name="last")(x), name="base"))


def upper(hidden: bool = True, units: int = 4, activation: str | None = None) -> keras.Model:
    """Those maps to the outputs."""
    x = maps = keras.Input((6, 5, 7))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(8, "tanh")(x) if hidden else x
    return drawn(keras.Model(maps, layers.Dense(units, activation)(x)))


def network(*parts: keras.Model) -> keras.Model:
    return keras.Sequential([keras.Input((12, 10, 3)), *parts])


def subject(model: keras.Model) -> KerasSubject:
    """As `finetune predict` opens a Keras file: one flat graph, to its logits, with this package's BatchNorm."""
    scored = as_logits(flat(model), name="it")
    return KerasSubject(adopt(scored.model, unbiased=False), scored.scores)


def maps_of(cam: GradCam, classes: np.ndarray = CLASSES) -> np.ndarray:
    return np.asarray(cam.traced()(tf.constant(IMAGES), tf.constant(classes)))


def by_hand(base: keras.Model, head: keras.Model, classes: np.ndarray, sign: np.ndarray | float = 1.0) -> np.ndarray:
    """Section 3 of Selvaraju et al.: slopes by a tape over the upper half, the rest in NumPy."""
    maps = tf.constant(base(IMAGES, training=False))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        scores = tf.gather(head(maps, training=False), classes, batch_dims=1) * sign
    slopes = tape.gradient(scores, maps).numpy().astype(np.float64)
    found = np.zeros(maps.shape[:3])
    for image in range(len(IMAGES)):
        for channel in range(maps.shape[3]):
            weight = slopes[image, :, :, channel].sum() / (maps.shape[1] * maps.shape[2])
            found[image] += weight * maps.numpy()[image, :, :, channel]
    return np.maximum(found, 0)


def test_it_is_the_formula_of_the_paper_in_inference_mode():
    base, head = lower(), upper()
    cam = grad_cam_of(subject(network(base, head)), name="it")  # a model in a model, as Keras's guides build it
    expected = by_hand(base, head, CLASSES)
    assert cam.layer.name == "last"
    assert (expected > 0.01).any()
    assert maps_of(cam) == pytest.approx(expected, abs=1e-5)


def test_with_one_linear_layer_after_pooling_it_is_cam():
    base, head = lower(), upper(hidden=False)
    weights, _ = head.get_weights()
    maps = np.asarray(base(IMAGES, training=False), np.float64)
    cam = np.maximum(np.einsum("nhwc,cn->nhw", maps, weights[:, CLASSES].astype(np.float64)), 0)
    assert maps_of(grad_cam_of(subject(network(base, head)), name="it")) * 30 == pytest.approx(cam, abs=1e-4, rel=1e-5)


@pytest.mark.parametrize(("units", "activation"), [(4, "softmax"), (4, "sigmoid")])
def test_a_softmax_or_sigmoids_at_the_end_are_left_out(units, activation):
    base, head = lower(), upper(units=units, activation=activation)
    bare = keras.models.clone_model(head, clone_function=lambda one: one.__class__.from_config(
        {**one.get_config(), **({"activation": "linear"} if one is head.layers[-1] else {})}))  # fmt: skip
    bare.set_weights(head.get_weights())
    found = maps_of(grad_cam_of(subject(network(base, head)), name="it"))
    assert found == pytest.approx(by_hand(base, bare, CLASSES), abs=1e-5)


def test_of_a_single_logit_class_0_is_what_lowers_it():
    base, head = lower(), upper(units=1)
    classes = np.array([0, 1, 0, 1, 0])
    found = maps_of(grad_cam_of(subject(network(base, head)), name="it"), classes)
    expected = by_hand(base, head, np.zeros(5, int), np.where(classes == 1, 1.0, -1.0).astype(np.float32))
    assert found == pytest.approx(expected, abs=1e-5)
    assert (expected[0] > 0).any()


def test_another_layer_by_its_name_and_what_has_no_maps_with_the_candidates():
    own = subject(network(lower(), upper()))
    base = lower()
    below = keras.Model(base.input, base.get_layer("last_conv").output)
    x = above = keras.Input((6, 5, 7))
    bn = layers.BatchNormalization()
    x = upper()(layers.ReLU()(bn(x)))
    rest = keras.Model(above, x)
    bn.set_weights(base.get_layer("last_bn").get_weights())
    found = maps_of(grad_cam_of(own, layer="last_conv", name="it"))
    assert found == pytest.approx(by_hand(below, rest, CLASSES), abs=1e-5)
    with pytest.raises(
        WrongUse, match=r"--explain-layer dense_\d+: its output .* one of the 6 layers .*last_bn, last$"
    ):
        grad_cam_of(own, layer=own.model.layers[-1].name, name="it")
    with pytest.raises(WrongUse, match="unknown layer 'lost'"):
        grad_cam_of(own, layer="lost", name="it")


def test_pixels_are_no_maps_and_an_mlp_has_none():
    images = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Normalization(mean=0.5, variance=1.0)(layers.Rescaling(1 / 255)(images)))
    mlp = keras.Model(images, layers.Dense(4)(layers.Dense(5, "relu")(layers.Flatten()(x))))
    with pytest.raises(FinetuneError, match=r"it has no layer that gives maps .* leave out --explain"):
        grad_cam_of(subject(mlp), name="it")


def test_a_map_of_one_place_is_passed_over():
    images = keras.Input((12, 12, 3))
    x = layers.GlobalAveragePooling2D(keepdims=True)(layers.Conv2D(4, 3, name="maps")(images))
    whole = keras.Model(images, layers.Flatten()(layers.Conv2D(4, 1)(x)))
    assert grad_cam_of(subject(whole), name="it").layer.name == "maps"


def test_channels_first_gives_the_maps_of_channels_last():
    base, head = lower(), upper(hidden=False)
    images = keras.Input((3, 12, 10))
    x = layers.Conv2D(6, 3, 2, padding="same", data_format="channels_first", name="c1")(images)
    x = layers.ReLU(name="r1")(layers.BatchNormalization(axis=1, name="b1")(x))
    x = layers.Conv2D(7, 3, padding="same", data_format="channels_first", name="c2")(x)
    x = layers.ReLU(name="r2")(layers.BatchNormalization(axis=1, name="b2")(x))
    x = layers.Dense(4, name="d")(layers.GlobalAveragePooling2D(data_format="channels_first", name="pool")(x))
    turned = keras.Model(images, x)
    turned.set_weights([*base.get_weights(), *head.get_weights()])
    cam = grad_cam_of(subject(turned), name="it")
    assert maps_of(cam) == pytest.approx(by_hand(base, head, CLASSES), abs=1e-5)
    assert not {"r1", "r2"} & {one.name for one in map_layers(cam.model)}


def test_images_of_a_split_with_the_pixels_that_the_network_sees():
    base, head = lower(), upper()
    cam = grad_cam_of(subject(network(base, head)), name="it")
    pixels = np.random.default_rng(2).integers(0, 256, (5, 14, 10, 3)).astype(np.uint8)
    config = RunConfig("", image_size="12x10", preprocess="unit", batch_size=2)
    found = list(Explained(cam, Split(pixels, CLASSES), config).heat_maps())
    seen = pixels[:, 1:13]  # the centre of 12 rows
    for (shown, heat), image, label in zip(found, seen, CLASSES, strict=True):
        assert np.array_equal(shown, image)
        alone = cam.traced()(tf.constant(image[None] / np.float32(255)), tf.constant([label], tf.int64))
        assert heat == pytest.approx(np.asarray(alone)[0], abs=1e-6)
