"""The training step's own way of computing: the same function as Keras's layers, gradients included."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune.backbone.head import attach_head
from finetune.batchnorm.surgery import BatchNormOptions, adopt, bn_layers
from finetune.config import RunConfig
from finetune.training.loop import kernels
from finetune.training.loop import optimizer as optimizers
from finetune.training.loop.step import TrainStep

# Channels in eights: for 6 and 5 of them, oneDNN writes beyond its memory in the gradient of a strided 1x1 convolution
# (TensorFlow 2.21, a processor with AVX2, found with glibc.malloc.check=3), and Keras's convolution is the reference.
LAYERS = {
    "1x1": (keras.layers.Conv2D(16, 1, name="c"), 7),
    "1x1 activation": (keras.layers.Conv2D(16, 1, activation="relu", use_bias=False, name="c"), 4),
    "1x1 strided, even": (keras.layers.Conv2D(16, 1, strides=2, name="c"), 8),
    "1x1 strided, odd": (keras.layers.Conv2D(16, 1, strides=2, padding="same", name="c"), 7),
    "1x1 strided by 3": (keras.layers.Conv2D(16, 1, strides=3, name="c"), 9),
    "3x3 on one pixel": (keras.layers.Conv2D(16, 3, padding="same", name="c"), 1),
    "3x3 strided on one pixel": (keras.layers.Conv2D(16, 3, strides=2, padding="same", name="c"), 1),
    "1x7 on one pixel": (keras.layers.Conv2D(16, (1, 7), padding="same", name="c"), 1),
    "3x3 on few pixels": (keras.layers.Conv2D(16, 3, padding="same", name="c"), 2),
    "3x3 on nine pixels": (keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="c"), 3),
    "5x5 on few pixels": (keras.layers.Conv2D(16, 5, padding="same", activation="relu", name="c"), 3),
    "1x7 on few pixels": (keras.layers.Conv2D(16, (1, 7), padding="same", name="c"), 4),
    "7x1 on few pixels": (keras.layers.Conv2D(16, (7, 1), padding="same", name="c"), 2),
    "3x3 dilated on few pixels": (keras.layers.Conv2D(16, 3, padding="same", dilation_rate=2, name="c"), 2),
    "3x3 strided on few pixels": (keras.layers.Conv2D(16, 3, strides=2, padding="same", name="c"), 2),
    "3x3 within few pixels": (keras.layers.Conv2D(16, 3, name="c"), 3),
    "3x3": (keras.layers.Conv2D(16, 3, padding="same", name="c"), 4),
    "2x2 on one pixel": (keras.layers.Conv2D(16, 2, padding="same", name="c"), 1),
    "1x1 in groups": (keras.layers.Conv2D(16, 1, groups=4, name="c"), 5),
}
PRODUCTS = {"1x1", "1x1 activation", "1x1 strided, even", "1x1 strided, odd", "1x1 strided by 3", "3x3 on one pixel",
            "3x3 strided on one pixel", "1x7 on one pixel", "3x3 on few pixels", "5x5 on few pixels",
            "1x7 on few pixels", "7x1 on few pixels", "3x3 on nine pixels"}  # fmt: skip


def outcome(model, images, how=None):
    """Outputs and gradients of a loss, of the images and of every variable."""

    @tf.function
    def run(images):
        values = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(images)
            if how is None:
                outputs = model(images, training=True)
            else:
                with kernels.chosen(model, how):
                    outputs = model(images, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
        return outputs, tape.gradient(loss, [images, *values])

    outputs, gradients = run(images)
    operations = {operation.type for operation in run.get_concrete_function(images).graph.get_operations()}
    return [np.asarray(outputs), *map(np.asarray, gradients)], operations


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_products_are_the_convolution(name):
    layer, size = LAYERS[name]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((size, size, 8)), layer.__class__.from_config(layer.get_config())])
    images = tf.random.normal([3, size, size, 8])
    expected, _ = outcome(model, images)
    found, operations = outcome(model, images, "float32")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert ("MatMul" in operations) == (name in PRODUCTS)
    assert "call" not in vars(model.layers[0])


def test_what_is_frozen_is_a_product_too():
    model = keras.Sequential([keras.Input((4, 4, 6)), keras.layers.Conv2D(5, 1)])
    model.layers[0].trainable = False
    with kernels.chosen(model):
        assert "call" in vars(model.layers[0])
    assert "call" not in vars(model.layers[0])


def test_layers_are_as_before_when_tracing_fails():
    model = keras.Sequential([keras.Input((4, 4, 6)), keras.layers.Conv2D(5, 1), keras.layers.Flatten()])
    seen = []

    def fails():
        with kernels.chosen(model, "bfloat16"):
            seen.append(model.layers[0].compute_dtype)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert seen == ["bfloat16"]
    assert "call" not in vars(model.layers[0])
    assert [layer.compute_dtype for layer in model.layers] == ["float32"] * 2


def small(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for filters, side in ((8, 3), (16, 1)):
        x = keras.layers.Conv2D(filters, side, strides=2, padding="same", use_bias=False, name=f"conv{side}")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9, name=f"bn{side}")(x))
    model = attach_head(adopt(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)), unbiased=True), 4, seed=0)
    for layer in bn_layers(model):
        layer.updates = True
    return model


IMAGES = np.random.default_rng(0).normal(0, 1, (16, 8, 8, 3)).astype("float32")
LABELS = np.arange(16) % 4


def trained(optimizer="sgd", steps=5, **how):
    model = small()
    variables = model.trainable_variables
    config = RunConfig("x", optimizer=optimizer, learning_rate=0.05 if optimizer == "sgd" else 0.01,
                       schedule="constant", weight_decay=0.01, **how)  # fmt: skip
    step = TrainStep(model, optimizers.build(config, variables, steps=steps), variables, config).traced()
    losses = [float(step(IMAGES, LABELS)[0]) for _ in range(steps)]
    return losses, {variable.path: np.array(variable) for variable in model.variables}


BIASED = {
    "cancels": {},
    "moving statistics": {"statistics": "moving"},
    "renormalised": {"renorm": True},
    "seen elsewhere": {"also": True},
    "activated": {"activation": "relu"},
}


@pytest.mark.slow
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("what", BIASED)
def test_a_bias_that_batchnorm_takes_away_has_no_gradient(what, side):
    """And only that one: every gradient is that of Keras's own layers, where this one is rounding."""
    how = BIASED[what]
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(
        6, side, padding="same", bias_initializer="ones", activation=how.get("activation"), name="conv"
    )(inputs)
    y = keras.layers.BatchNormalization(name="bn")(x)
    y = keras.layers.Add()([x, y]) if how.get("also") else y
    stock = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Activation("gelu")(y)))
    options = BatchNormOptions(renorm=how.get("renorm", False))
    model = attach_head(adopt(stock, unbiased=False, options=options), 4, seed=0)
    for layer in bn_layers(model):
        layer.statistics, layer.run_steps = how.get("statistics", "batch"), 10
    variables = model.trainable_variables
    variables[-2].assign(tf.random.normal(variables[-2].shape))  # else the head lets no gradient through
    images = IMAGES[:, ::2, ::2]
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits))
    expected = dict(zip([v.path for v in variables], tape.gradient(loss, [v.value for v in variables]), strict=True))
    before = {variable.path: np.array(variable) for variable in variables}
    rate = keras.optimizers.SGD(1.0)
    rate.build(variables)
    for layer in bn_layers(model):
        layer.moving_mean.assign(tf.zeros_like(layer.moving_mean))
    TrainStep(model, rate, variables, RunConfig("x")).traced()(images, LABELS)
    moved = {variable.path: before[variable.path] - np.array(variable) for variable in variables}
    for path, value in moved.items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-4, atol=2e-5, err_msg=path)
    if what in ("cancels", "renormalised"):
        assert not moved["conv/bias"].any()
        mean = model.get_layer("bn").moving_mean
        assert np.abs(mean).max() > 0  # which the bias is part of
    else:
        assert np.abs(moved["conv/bias"]).max() > 1e-3


@pytest.mark.slow
def test_bfloat16_trains_float32_weights():
    losses, weights = trained(steps=20)
    low, other = trained(steps=20, precision="bfloat16")
    assert low != losses
    np.testing.assert_allclose(low, losses, rtol=0.05)
    for path, value in weights.items():
        assert other[path].dtype == np.float32
        np.testing.assert_allclose(other[path], value, atol=0.05 * (np.abs(value).max() + 0.1), err_msg=path)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_microbatches_are_the_sum_of_their_gradients(parts):
    """Against a hand-written accumulation, each part normalised by itself and moving the statistics once."""
    _, weights = trained(steps=1, microbatch=-(-16 // parts))
    model = small()
    variables = model.trainable_variables
    total = [np.zeros(variable.shape) for variable in variables]
    bounds = [16 * part // parts for part in range(parts + 1)]
    for begin, end in itertools.pairwise(bounds):
        with tf.GradientTape() as tape:
            logits = model(IMAGES[begin:end], training=True)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS[begin:end], logits)) / 16
        total = [
            a + np.asarray(b) for a, b in zip(total, tape.gradient(loss, [v.value for v in variables]), strict=True)
        ]
    stock = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
    stock.exclude_from_weight_decay(var_list=[variable for variable in variables if len(variable.shape) < 2])
    stock.apply([tf.constant(one, tf.float32) for one in total], variables)
    for variable in model.variables:
        np.testing.assert_allclose(weights[variable.path], variable, rtol=1e-5, atol=1e-6, err_msg=variable.path)


@pytest.mark.slow
def test_microbatches_in_a_loop_of_steps():
    losses, weights = trained(steps=3, microbatch=5)
    model = small()
    variables = model.trainable_variables
    config = RunConfig("x", optimizer="sgd", learning_rate=0.05, schedule="constant", weight_decay=0.01, microbatch=5)
    several = TrainStep(model, optimizers.build(config, variables, steps=3), variables, config).several()
    summed, _ = several(np.stack([IMAGES] * 3), np.stack([LABELS] * 3))
    np.testing.assert_allclose(summed, losses, rtol=1e-6)
    for variable in model.variables:
        np.testing.assert_allclose(weights[variable.path], variable, rtol=1e-5, atol=1e-6, err_msg=variable.path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "to_the_bit"), [("sgd", True), ("adamw", False)])
@pytest.mark.parametrize("extra", [{}, {"clip_norm": 0.1}, {"ema": 0.9}])
def test_one_pass_is_keras_own_update(name, to_the_bit, extra):
    config = RunConfig("x", optimizer=name, learning_rate=0.01, schedule="constant", weight_decay=0.1, **extra)
    rng = np.random.default_rng(0)
    start = [rng.normal(0, 1, shape).astype("float32") for shape in ((3, 3, 4, 5), (5,))]
    ours, theirs = ([keras.Variable(value) for value in start] for _ in range(2))
    common = {"learning_rate": 0.01, "weight_decay": 0.1, "global_clipnorm": config.clip_norm}
    if config.ema:
        common |= {"use_ema": True, "ema_momentum": config.ema}
    stock = (
        keras.optimizers.SGD(momentum=0.9, nesterov=True, **common)
        if name == "sgd"
        else keras.optimizers.AdamW(**common)
    )
    stock.exclude_from_weight_decay(var_list=theirs[1:])
    stock.build(theirs)
    own = optimizers.build(config, ours, steps=10)
    for _ in range(10):
        gradients = [tf.constant(rng.normal(0, 1, value.shape), tf.float32) for value in start]
        own.apply(gradients, ours)
        stock.apply(gradients, theirs)
    for one, other in zip([*ours, *own.variables], [*theirs, *stock.variables], strict=True):
        np.testing.assert_allclose(one, other, rtol=0 if to_the_bit else 2e-6, atol=0 if to_the_bit else 1e-6)
