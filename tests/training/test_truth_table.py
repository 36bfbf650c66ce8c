"""The BN truth table (policy x what normalises x what moves) through the real step of the real training code.

Each network is traced once: its BN layers share the four policies out among them, and the update operations are
switched off for a fifth group, so one step proves every row.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune import freezing, networks, proof
from finetune.batchnorm.policy import POLICIES, Rule
from finetune.batchnorm.surgery import adopt, bn_layers
from finetune.classifier import attach_head
from finetune.config import RunConfig
from finetune.freezing import LayerInfo
from finetune.training import optimizer as optimizers
from finetune.training.step import train_step

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


@pytest.mark.parametrize("build", [resnet, inception, densenet])
@pytest.mark.parametrize("updates", [True, False])
def test_truth_table(build, updates):
    if not updates and build is not resnet:
        pytest.skip("the switch is the layer's own: one network proves it")
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
    step = train_step(model, optimizers.build(config, variables, steps=1), variables, label_smoothing=0.0)
    before = {variable.path: np.array(variable) for layer in model.layers for variable in layer.weights}
    digests, expected = proof.digests(model), proof.expected_to_move(model)
    images = tf.constant(rng.normal(0, 1, (8, *model.input_shape[1:])), tf.float32)
    with _Normalisers(layers) as outputs:
        step(images, tf.constant(rng.integers(0, 4, 8)))
    proved = proof.prove(digests, proof.digests(model), expected)
    assert proved.moved_though_frozen == ()

    for layer in layers:
        normalises, statistics_move, affine_moves = TRUTH[assigned[layer.name]]
        assert POLICIES[assigned[layer.name]].statistics == normalises
        moved = {v.name: not np.array_equal(before[v.path], np.array(v)) for v in layer.variables}
        assert moved["moving_mean"] == moved["moving_variance"] == (statistics_move and updates), layer.name
        assert moved["beta"] == affine_moves, layer.name
        if layer.scale:
            assert moved["gamma"] == affine_moves, layer.name
        assert outputs[layer.name] == normalises, layer.name


class _Normalisers:
    """Which statistics normalised each layer in the step that is traced inside: taken from the graph itself."""

    def __init__(self, layers):
        self.layers, self.seen = layers, {}

    def __enter__(self):
        for layer in self.layers:
            original = layer._fused

            def fused(x, *, batch, layer=layer, original=original):
                self.seen[layer.name] = "batch" if batch else "moving"
                return original(x, batch=batch)

            layer._fused = fused
        return self.seen

    def __exit__(self, *_):
        for layer in self.layers:
            del layer._fused
