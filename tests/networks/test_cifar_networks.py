"""The networks to train from scratch: the sources' operations in float64, published numbers of parameters."""

from fnmatch import fnmatchcase

import keras
import numpy as np
import pytest
import tensorflow as tf

from checkpoints.catalog.rows import SCRATCH
from finetune.backbone import networks
from finetune.backbone.networks.names import slim_variables
from finetune.backbone.networks.network import layers_by_stage
from tests.support.agreement import random_images

EPSILON = 1e-5


class Source:
    """The layers of the sources on float64 `[batch, height, width, channels]`, with our network's variables by name.

    Convolutions as tensorflow/models tutorials/image/cifar10_estimator/model_base.py `_conv` and PyTorch's padding=1
    have them: (kernel - 1) // 2 zeros on every side where they stride, SAME where not.
    """

    def __init__(self, model: keras.Model) -> None:
        self.arrays = {name: np.asarray(variable, np.float64) for name, variable in slim_variables(model).items()}
        self.used: set[str] = set()

    def _take(self, name: str) -> np.ndarray:
        self.used.add(name)
        return self.arrays[name]

    def conv(self, x, name, stride=1, activate=True):
        kernel = self._take(f"{name}/weights")
        around = (kernel.shape[0] - 1) // 2
        x = tf.pad(x, [[0, 0], [around, around], [around, around], [0, 0]])
        x = tf.nn.conv2d(x, kernel, stride, "VALID")
        gamma, beta, mean, variance = (
            self._take(f"{name}/BatchNorm/{kind}") for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        x = (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta
        return tf.nn.relu(x) if activate else x

    def unit(self, x, name, depth, stride, shortcut):
        kept, channels = x, x.shape[-1]
        if channels != depth and shortcut == "pad":
            pad = (depth - channels) // 2
            kept = tf.nn.avg_pool2d(x, stride, stride, "SAME")
            kept = tf.pad(kept, [[0, 0], [0, 0], [0, 0], [pad, pad]])
        elif channels != depth:
            kept = self.conv(x, f"{name}/shortcut", stride, activate=False)
        x = self.conv(self.conv(x, f"{name}/conv1", stride), f"{name}/conv2", activate=False)
        return tf.nn.relu(x + kept)

    def resnet(self, x, units, width, shortcut):
        x = self.conv(x, "t/conv1")
        for block, count in enumerate(units, start=1):
            for unit in range(1, count + 1):
                stride = 2 if block > 1 and unit == 1 else 1
                x = self.unit(x, f"t/block{block}/unit_{unit}", width * 2 ** (block - 1), stride, shortcut)
        return tf.reduce_mean(x, [1, 2])

    def vgg(self, x, layers):
        for stack, count in enumerate(layers, start=1):
            x = tf.nn.max_pool2d(x, 2, 2, "VALID") if stack > 1 else x
            for layer in range(1, count + 1):
                x = self.conv(x, f"t/conv{stack}/conv{stack}_{layer}")
        return tf.reduce_mean(x, [1, 2])


NETWORKS = {
    "pad": ("cifar_resnet", {"units": (2, 3, 2), "width": 6, "shortcut": "pad"}),
    "project": ("cifar_resnet", {"units": (1, 2, 1, 2), "width": 4, "shortcut": "project"}),
    "vgg": ("cifar_vgg", {"layers": (2, 1, 2, 1, 1), "widths": (4, 6, 8, 8, 5)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 33, (19, 46)])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_sources_operations_in_float64(name, size):
    family, arguments = NETWORKS[name]
    model = networks.build(family, image_size=size, outputs=7, arguments={**arguments, "scope": "t"}).model
    rng = np.random.default_rng(0)
    for path, variable in slim_variables(model).items():
        spread = rng.uniform(0.5, 1.5, variable.shape)
        if path.endswith("weights"):
            spread = rng.normal(0, np.sqrt(2 / np.prod(variable.shape[:-1])), variable.shape)
        variable.assign(spread if not path.endswith("mean") else spread - 1)
    source, images = Source(model), random_images(size)
    x = tf.constant(images, tf.float64)
    features = source.vgg(x, arguments["layers"]) if name == "vgg" else source.resnet(x, **arguments)
    logits = features @ source._take("t/logits/weights")[0, 0] + source._take("t/logits/biases")
    assert source.used == set(source.arrays)
    found = np.asarray(model(images, training=False))
    assert np.abs(found - logits).max() < 1e-5 * np.abs(logits).max()


def trained_parameters(family: str, **arguments) -> int:
    """Of a network with ten outputs: what is published counts no moving statistics."""
    model = networks.build(family, image_size=32, outputs=10, arguments={"scope": "t", **arguments}).model
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_weights)


# [n, n, n] units from 16 filters are the paper's ResNet-20, 32 and 56 with option A: 0.27 M, 0.46 M and 0.85 M in its
# table 6; exactly what akamaster/pytorch_resnet_cifar10 counts.
@pytest.mark.slow
@pytest.mark.parametrize(("n", "published"), [(3, 269_722), (5, 464_154), (9, 853_018)])
def test_parameters_of_the_papers_cifar_networks(n, published):
    assert trained_parameters("cifar_resnet", units=(n, n, n), width=16, shortcut="pad") == published


# kuangliu/pytorch-cifar: sum(p.numel() for p in ResNet18().parameters()) and so on.
@pytest.mark.slow
@pytest.mark.parametrize(("units", "published"), [((2, 2, 2, 2), 11_173_962), ((3, 4, 6, 3), 21_282_122)])
def test_parameters_of_resnet_18_and_34(units, published):
    assert trained_parameters("cifar_resnet", units=units, width=64, shortcut="project") == published


def test_cifar_resnet_counted_by_hand():
    def unit(into: int, depth: int) -> int:
        return 9 * into * depth + 9 * depth * depth + 2 * 2 * depth

    blocks = 2 * unit(32, 32) + unit(32, 64) + 2 * unit(64, 64) + unit(64, 128) + unit(128, 128)
    stem, head = 9 * 3 * 32 + 2 * 32, 128 * 10 + 10
    assert trained_parameters("cifar_resnet") == stem + blocks + head


@pytest.mark.slow
def test_vgg_has_the_kernels_of_vgg_16():
    theirs = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    ours = networks.build("cifar_vgg", image_size=32, outputs=None, arguments={"scope": "t"}).model
    shapes = [
        [layer.kernel.shape for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        for model in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    # kuangliu/pytorch-cifar's VGG16 has 14,728,266 with ten outputs, of which 4,224 are the biases ours has not.
    assert trained_parameters("cifar_vgg") == 14_728_266 - 4_224


@pytest.mark.slow
def test_every_row_builds_what_it_says():
    problems = []
    for spec in SCRATCH:
        network = networks.build(spec.family, image_size=spec.least_size, outputs=3, arguments=spec.arguments)
        names, layers = slim_variables(network.model), network.model.layers
        head = [name for name in names if any(fnmatchcase(name, pattern) for pattern in spec.head)]
        parameters = sum(int(np.prod(names[name].shape)) for name in names if name not in head)
        norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
        last = next(layer for layer in layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)).input
        biased = [one.name for one in layers if isinstance(one, keras.layers.Conv2D) and one.use_bias]
        stages = layers_by_stage(network)
        checks = {
            f"{parameters} parameters": parameters == spec.parameters,
            f"head {head}": head == [f"{spec.name}/logits/weights", f"{spec.name}/logits/biases"],
            f"biases in {biased}": biased == [f"{spec.name}.logits"],
            f"last map {last.shape}": last.shape[1:3] == (1, 1),
            "BatchNorm": {(one.momentum, one.epsilon) for one in norms} == {(spec.bn_decay, spec.bn_epsilon)},
            "not of stock layers": all(type(layer).__module__.startswith("keras.") for layer in layers),
            "a layer in no stage": sum(map(len, stages.values())) == len(layers),
            "a kernel is not He-normal": all(
                isinstance(one.kernel_initializer, keras.initializers.HeNormal)
                for one in layers
                if isinstance(one, keras.layers.Conv2D)
            ),
        }
        problems += [f"{spec.id}: {what}" for what, holds in checks.items() if not holds]
    assert not problems, "\n".join(problems)


def test_a_stack_too_many_is_a_vanished_map():
    with pytest.raises(ValueError, match="MaxPooling2D"):
        networks.build("cifar_vgg", image_size=15, outputs=None, arguments={"scope": "t"})
