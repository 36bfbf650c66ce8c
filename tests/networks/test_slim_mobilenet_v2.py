"""Our MobileNet v2 against Keras's, which is the same network by other names."""

import keras
import numpy as np
import pytest

from finetune.backbone import networks
from finetune.backbone.networks.mobilenet_v2 import divisible
from finetune.backbone.networks.names import slim_variables
from finetune.backbone.networks.network import layers_by_stage


def keras_names() -> dict[str, str]:
    """Keras's name of each layer with weights -> ours."""
    names = {"Conv1": "Conv", "bn_Conv1": "Conv.BatchNorm", "Conv_1": "Conv_1", "Conv_1_bn": "Conv_1.BatchNorm"}
    for index in range(17):
        theirs, ours = (f"block_{index}", f"expanded_conv_{index}") if index else ("expanded_conv", "expanded_conv")
        for part in ("expand", "depthwise", "project"):
            names |= {f"{theirs}_{part}": f"{ours}.{part}", f"{theirs}_{part}_BN": f"{ours}.{part}.BatchNorm"}
    return {"predictions": "MobilenetV2.Logits.Conv2d_1c_1x1"} | {
        theirs: f"MobilenetV2.{ours}" for theirs, ours in names.items()
    }


@pytest.mark.parametrize(
    ("alpha", "size"), [(0.35, 32), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((1.0, 96), (1.4, 64)))]
)
@pytest.mark.parametrize("training", [False, True])
def test_random_weights_give_keras_outputs_in_both_modes(alpha: float, size: int, training: bool) -> None:
    theirs = keras.applications.MobileNetV2(
        (size, size, 3), alpha=alpha, weights=None, classes=11, classifier_activation=None
    )
    arguments = {"depth_multiplier": alpha}
    ours = networks.build("mobilenet_v2", image_size=size, outputs=11, arguments=arguments).model
    rng, names, used = np.random.default_rng(0), keras_names(), set()
    for layer in theirs.layers:
        if layer.weights:
            values = [
                rng.uniform(0.5, 1.5, w.shape)
                if w.name in ("gamma", "moving_variance")
                else rng.normal(0, 1 / np.sqrt(np.prod(w.shape[:-1])), w.shape)
                for w in layer.weights
            ]
            layer.set_weights(values)
            own = ours.get_layer(names[layer.name])
            own.set_weights([value.reshape(w.shape) for value, w in zip(values, own.weights, strict=True)])
            used.add(own.name)
    assert used == {layer.name for layer in ours.layers if layer.weights}
    images = rng.uniform(-1, 1, (8, size, size, 3)).astype(np.float32)
    expected, found = theirs(images, training=training), ours(images, training=training)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_names_are_slims() -> None:
    network = networks.build("mobilenet_v2", image_size=32, outputs=5, arguments={"depth_multiplier": 0.35})
    names = set(slim_variables(network.model))
    assert {
        "MobilenetV2/Conv/weights",
        "MobilenetV2/expanded_conv/depthwise/depthwise_weights",
        "MobilenetV2/expanded_conv/project/BatchNorm/moving_mean",
        "MobilenetV2/expanded_conv_16/expand/BatchNorm/gamma",
        "MobilenetV2/Conv_1/BatchNorm/moving_variance",
        "MobilenetV2/Logits/Conv2d_1c_1x1/biases",
    } < names
    assert not any("expanded_conv/expand" in name for name in names)  # the first block does not expand
    assert list(layers_by_stage(network))[:3] == ["Conv", "expanded_conv", "expanded_conv_1"]
    assert list(layers_by_stage(network))[-2:] == ["Conv_1", "head"]


@pytest.mark.parametrize(
    ("channels", "expected"), [(11.2, 16), (8.4, 8), (5.6, 8), (22.4, 24), (44.8, 48), (1280.0, 1280)]
)
def test_channels_are_multiples_of_eight(channels: float, expected: int) -> None:
    assert divisible(channels) == expected
