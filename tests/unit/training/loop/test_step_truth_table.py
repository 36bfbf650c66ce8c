"""The BN truth table (policy x what normalises x what moves) through the real step of the real training code.

Each network is traced once: its BN layers share the four policies out among them, and the update operations are
switched off in a second run of one network, so a single traced step proves every row.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune.backbone import freezing, networks
from finetune.backbone.freezing import LayerInfo
from finetune.backbone.head import attach_head
from finetune.batchnorm.policy import POLICIES, Rule
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import kept
from finetune.batchnorm.surgery import adopt, bn_layers
from finetune.config import RunConfig
from finetune.training import proof
from finetune.training.loop import optimizer as optimizers
from finetune.training.loop.step import TrainStep

# policy -> (what normalises, do the statistics move, do gamma and beta move): design.md, "BatchNorm is a value"
TRUTH = {
    "train": ("batch", True, True),
    "freeze": ("moving", False, False),
    "affine": ("moving", False, True),
    "stats": ("batch", True, False),
}


def resnet():
    arguments = {"units": (1, 1, 1, 1), "width": 8, "scope": "resnet_v1_thin"}
    return networks.build("resnet_v1", image_size=32, outputs=None, arguments=arguments).model


def inception():
    full = keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(75, 75, 3))
    # Two inception modules have every kind of branch; the whole network would be traced for half a minute.
    cut = keras.Model(full.input, full.get_layer("mixed1").output)
    return keras.Model(cut.input, keras.layers.GlobalAveragePooling2D()(cut.output))


def densenet():
    full = keras.applications.DenseNet121(weights=None, include_top=False, input_shape=(32, 32, 3))
    cut = keras.Model(full.input, full.get_layer("pool3_pool").output)
    return keras.Model(cut.input, keras.layers.GlobalAveragePooling2D()(cut.output))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("build", "updates"), [(resnet, True), (resnet, False), (inception, True), (densenet, True)])
def test_truth_table(build, updates):
    keras.utils.set_random_seed(0)
    model = attach_head(adopt(build(), unbiased=False), 4)
    layers = bn_layers(model)
    policies = list(TRUTH)
    assigned = {layer.name: policies[index % 4] for index, layer in enumerate(layers)}
    infos = [
        LayerInfo(layer.name, "head" if layer.name.startswith("head") else "body", layer in layers)
        for layer in model.layers
        if layer.weights
    ]
    rules = [Rule(name.replace(".", "/"), policy) for name, policy in assigned.items()]
    plan = freezing.resolve(infos, bn=rules)
    freezing.apply(model, plan, decay=0.9, updates=updates)
    rng = np.random.default_rng(0)
    for layer in layers:
        layer.moving_mean.assign(rng.normal(0, 0.5, layer.moving_mean.shape))
        layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    # A head at zero passes no gradient down in the first step.
    model.get_layer("head.logits").kernel.assign(rng.normal(0, 1, model.get_layer("head.logits").kernel.shape))
    config = RunConfig("x", optimizer="sgd", learning_rate=0.1, weight_decay=0.01, schedule="constant")
    variables = model.trainable_variables
    step = TrainStep(model, optimizers.build(config, variables, steps=1), variables, config).traced()
    before = {variable.path: np.array(variable) for layer in model.layers for variable in layer.weights}
    digests, expected = proof.digests(model), proof.expected_to_change(model)
    images = tf.constant(rng.normal(0, 1, (8, *model.input_shape[1:])), tf.float32)
    normalised_by = normalisers(model, layers, images)
    step(images, tf.constant(rng.integers(0, 4, 8)))
    proved = proof.prove(digests, proof.digests(model), expected)
    assert proved.moved_though_frozen == []

    for layer in layers:
        normalises, statistics_move, affine_moves = TRUTH[assigned[layer.name]]
        assert POLICIES[assigned[layer.name]].statistics == normalises
        moved = {v.name: not np.array_equal(before[v.path], np.array(v)) for v in layer.variables}
        assert moved["moving_mean"] == moved["moving_variance"] == (statistics_move and updates), layer.name
        assert moved["beta"] == affine_moves, layer.name
        if layer.scale:
            assert moved["gamma"] == affine_moves, layer.name
        assert normalised_by[layer.name] == [normalises], layer.name


def normalisers(model, layers, images):
    """Which statistics each layer normalised by in a training forward pass, judged by NumPy in float64."""
    probe = keras.Model(model.input, [tensor for layer in layers for tensor in (layer.input, layer.output)])
    with kept(KerasSubject(model)):
        tensors = [np.asarray(tensor, np.float64) for tensor in probe(images, training=True)]
    found = {}
    for layer, inputs, outputs in zip(layers, tensors[::2], tensors[1::2], strict=True):
        gamma = np.asarray(layer.gamma, np.float64) if layer.scale else 1.0
        candidates = {
            "batch": (inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))),
            "moving": (np.asarray(layer.moving_mean, np.float64), np.asarray(layer.moving_variance, np.float64)),
        }
        fits = []
        for name, (mean, variance) in candidates.items():
            expected = (inputs - mean) / np.sqrt(variance + layer.epsilon) * gamma + np.asarray(layer.beta)
            if np.allclose(outputs, expected, rtol=1e-3, atol=1e-3):
                fits.append(name)
        found[layer.name] = fits
    return found
