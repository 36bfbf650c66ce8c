"""Batch renormalisation and the debiased mean through the real step and the real loop, under every policy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune.backbone import freezing, networks
from finetune.backbone.head import attach_head
from finetune.batchnorm.policy import Rule
from finetune.batchnorm.surgery import BatchNormOptions, adopt, bn_layers
from finetune.config import RunConfig
from finetune.errors import Interrupted
from finetune.training import proof
from finetune.training.loop import optimizer as optimizers
from finetune.training.loop.state import State
from finetune.training.loop.step import TrainStep
from finetune.training.loop.train import ImageFeed, train
from tests.unit.training.loop.test_train import CONFIG, Listener, dataset, untimed

SCRATCH = {
    "cifar_resnet": ("cifar_resnet", {"units": (1, 2, 1), "width": 8, "shortcut": "pad"}),
    "cifar_resnet18": ("cifar_resnet", {"units": (1, 1, 1, 1), "width": 8, "shortcut": "project"}),
    "cifar_resnet34": ("cifar_resnet", {"units": (1, 2, 1, 1), "width": 4, "shortcut": "project"}),
    "cifar_vgg": ("cifar_vgg", {"widths": (8, 8, 12, 12, 16)}),
}
POLICIES = ("train", "freeze", "affine", "stats")
STEPS = 30
"""Of the run; its tenth step is in the middle of the schedule."""


def prepared(name, rng, *, renorm, zero_debias, updates):
    """A thin network whose BN layers share the four policies out among them, as it is in the tenth step of a run."""
    family, arguments = SCRATCH[name]
    network = networks.build(family, image_size=16, outputs=None, arguments={**arguments, "scope": "t"})
    options = BatchNormOptions(renorm=renorm, zero_debias=zero_debias)
    model = attach_head(adopt(network.model, unbiased=True, options=options), 4)
    assigned = {layer.name: POLICIES[index % 4] for index, layer in enumerate(bn_layers(model))}
    infos = freezing.layer_infos(model, {"body": [layer.name for layer in network.model.layers]}, "")
    plan = freezing.resolve(infos, bn=[Rule(layer.replace(".", "/"), policy) for layer, policy in assigned.items()])
    freezing.apply(model, plan, decay=0.9, updates=updates, steps=STEPS)
    for layer in bn_layers(model):
        layer.moving_mean.assign(rng.normal(0, 0.5, layer.moving_mean.shape))
        layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
        if layer.local_step is not None:
            layer.local_step.assign(9)
    head = model.get_layer("head.logits").kernel
    head.assign(rng.normal(0, 1, head.shape))
    return model, assigned


def normalised(x, layer, policy, *, renorm):
    """What a layer should make of float64 `[batch, height, width, channels]` in that step: the paper's equations."""
    mean, sigma = x.mean((0, 1, 2)), np.sqrt(x.var((0, 1, 2)) + layer.epsilon)
    moving = np.asarray(layer.moving_mean, np.float64)
    moving_sigma = np.sqrt(np.asarray(layer.moving_variance, np.float64) + layer.epsilon)
    if policy in ("freeze", "affine"):
        mean, sigma = moving, moving_sigma
    x = (x - mean) / sigma
    if renorm and policy in ("train", "stats"):
        # The 30 steps stand for the paper's 40,000: step 9 for 12,000.
        r_max, d_max = 1 + 2 * (12_000 - 5_000) / 35_000, 5 * (12_000 - 5_000) / 20_000
        r = np.clip(sigma / moving_sigma, 1 / r_max, r_max)
        x = x * r + np.clip((mean - moving) / moving_sigma, -d_max, d_max)
    return x * np.asarray(layer.gamma, np.float64) + np.asarray(layer.beta, np.float64)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("name", "renorm", "zero_debias", "updates"),
    [
        ("cifar_resnet", True, True, True),
        ("cifar_resnet", True, True, False),
        ("cifar_resnet", False, False, True),
        ("cifar_resnet18", True, False, True),
        ("cifar_resnet34", False, True, True),
        ("cifar_vgg", True, True, True),
    ],
)
def test_a_step_of_every_network_under_every_policy(name, renorm, zero_debias, updates):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model, assigned = prepared(name, rng, renorm=renorm, zero_debias=zero_debias, updates=updates)
    layers = bn_layers(model)
    images = tf.constant(rng.normal(0, 1, (8, *model.input_shape[1:])), tf.float32)

    state = [np.array(variable) for variable in model.variables]
    probe = keras.Model(model.input, [tensor for layer in layers for tensor in (layer.input, layer.output)])
    tensors = [np.asarray(tensor, np.float64) for tensor in probe(images, training=True)]
    inputs = dict(zip([layer.name for layer in layers], tensors[::2], strict=True))
    for variable, value in zip(model.variables, state, strict=True):
        variable.assign(value)
    for layer, outputs in zip(layers, tensors[1::2], strict=True):
        expected = normalised(inputs[layer.name], layer, assigned[layer.name], renorm=renorm)
        np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())

    config = RunConfig("x", optimizer="sgd", learning_rate=0.1, weight_decay=0.01, schedule="constant")
    variables = model.trainable_variables
    step = TrainStep(model, optimizers.build(config, variables, steps=1), variables, config).traced()
    before = {variable.path: np.array(variable) for layer in layers for variable in layer.weights}
    digests, moves = proof.digests(model), proof.expected_to_change(model)
    step(images, tf.constant(rng.integers(0, 4, 8)))
    proved = proof.prove(digests, proof.digests(model), moves)
    assert proved.moved_though_frozen == []
    assert proved.unmoved == []
    assert not any("local_step" in path for path in moves)

    for layer in layers:
        policy = assigned[layer.name]
        batch = policy in ("train", "stats")
        moved = {v.name: not np.array_equal(before[v.path], np.array(v)) for v in layer.weights}
        assert moved["moving_mean"] == moved["moving_variance"] == (batch and updates), layer.name
        assert moved["gamma"] == moved["beta"] == (policy in ("train", "affine")), layer.name
        if layer.local_step is not None:
            assert int(layer.local_step) == (10 if batch else 9)
        if batch and updates:
            x = inputs[layer.name]
            take = 0.1 / (1 - 0.9**10) if zero_debias else 0.1
            expected = before[layer.moving_mean.path] * (1 - take) + x.mean((0, 1, 2)) * take
            np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-4, atol=1e-5)


def classifier(**switches):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = attach_head(
        adopt(keras.Model(inputs, x), unbiased=True, options=BatchNormOptions(**switches)), 3, dropout=0.3, hidden=8
    )
    layers = freezing.layer_infos(model, {"body": ["conv", "bn"]}, "")
    freezing.apply(model, freezing.resolve(layers), decay=0.9, updates=True, steps=9)
    return model


@pytest.mark.slow
def test_resumed_equals_unbroken_to_the_bit(tmp_path):
    switches = {"renorm": True, "zero_debias": True}
    whole, listener = classifier(**switches), Listener()
    history = train(ImageFeed(whole, dataset(), CONFIG), CONFIG, listener)
    plain, without = classifier(), Listener()
    train(ImageFeed(plain, dataset(), CONFIG), CONFIG, without)
    assert listener.losses != without.losses, "the switches change nothing: the test shows nothing"

    state, seen, path = None, [], tmp_path / "state.npz"
    for stop in (1, 2, 4):
        stopped = Listener(stop_at=stop, path=path)
        with pytest.raises(Interrupted):
            train(ImageFeed(classifier(**switches), dataset(), CONFIG), CONFIG, stopped, resume_from=state)
        state = State.load(path)
        seen += stopped.losses
    model, last = classifier(**switches), Listener()
    resumed = train(ImageFeed(model, dataset(), CONFIG), CONFIG, last, resume_from=state)
    assert seen + last.losses == listener.losses
    assert untimed(resumed) == untimed(history)
    assert int(bn_layers(model)[0].local_step) == 9
    for a, b in zip(whole.variables, model.variables, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
