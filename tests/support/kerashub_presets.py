"""Small KerasHub presets: the arguments of their classes, and folders as `backbone.save_to_preset` writes them.

The folders are written without keras_hub. tests/networks/test_kerashub.py compares with it, where it is installed.
"""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np


def resnet(block_type: str, *, pre: bool = False) -> dict[str, Any]:
    """Arguments of a ResNetBackbone of two stacks."""
    stem = {"input_conv_filters": [64], "input_conv_kernel_sizes": [7]}
    if block_type.endswith("_vd"):
        stem = {"input_conv_filters": [16, 16, 64], "input_conv_kernel_sizes": [3, 3, 3]}
    return {
        **stem,
        "stackwise_num_filters": [64, 24],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_strides": [1, 2],
        "block_type": block_type,
        "use_pre_activation": pre,
        "image_shape": [None, None, 3],
    }


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet_basic": ("ResNetBackbone", resnet("basic_block")),
    "resnet_bottleneck": ("ResNetBackbone", resnet("bottleneck_block")),
    "resnet_v2_basic": ("ResNetBackbone", resnet("basic_block", pre=True)),
    "resnet_v2_bottleneck": ("ResNetBackbone", resnet("bottleneck_block", pre=True)),
    "resnet_vd_basic": ("ResNetBackbone", resnet("basic_block_vd")),
    "resnet_vd_bottleneck": ("ResNetBackbone", resnet("bottleneck_block_vd")),
    "densenet": (
        "DenseNetBackbone",
        {
            "stackwise_num_repeats": [1, 2],
            "compression_ratio": 0.5,
            "growth_rate": 4,
            "image_shape": [None, None, 3],
        },
    ),
    "xception": (
        "XceptionBackbone",
        {
            "stackwise_conv_filters": [[8, 12], [16, 16], [24, 24], [24, 24], [32, 40]],
            "stackwise_pooling": [False, True, True, False, False],
            "image_shape": [None, None, 3],
        },
    ),
    "vgg": (
        "VGGBackbone",
        {
            "stackwise_num_repeats": [1, 2, 1, 1, 1],
            "stackwise_num_filters": [8, 12, 12, 12, 12],
            "image_shape": [None, None, 3],
        },
    ),
}
"""Name -> (class of KerasHub, its arguments)."""

TORCH = {
    "image_size": [48, 48],
    "scale": [1 / 255 / 0.229, 1 / 255 / 0.224, 1 / 255 / 0.225],
    "offset": [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
}
"""The image converter of most ImageNet presets, here for 48 px."""


def set_weights(model: keras.Model) -> None:
    """Weights and statistics that depend on nothing but the order of the layers, so that a swap of two is seen."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for variable in layer.weights:
            if variable.name in ("moving_variance", "gamma"):
                value = rng.uniform(0.5, 1.5, variable.shape)
            elif "kernel" in variable.name:
                value = rng.normal(0, (2 / np.prod(variable.shape[:-1])) ** 0.5, variable.shape)
            else:
                value = rng.normal(0, 0.3, variable.shape)
            variable.assign(value.astype(np.float32))


def serialized(kind: str, arguments: dict[str, Any], *, name: str = "backbone") -> dict[str, Any]:
    """An object as KerasHub's JSON has it."""
    dtype = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}
    return {
        "module": "keras_hub.src.models.some.module",
        "class_name": kind,
        "config": {"name": name, "trainable": True, "dtype": dtype, **arguments},
        "registered_name": f"keras_hub>{kind}",
    }


def write_preset(
    folder: Path, case: str, model: keras.Model, *, converter: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A folder with the config of a case and the weights of `model`. `changes` are arguments with other values."""
    folder.mkdir(parents=True)
    kind, arguments = CASES[case]
    (folder / "config.json").write_text(json.dumps(serialized(kind, {**arguments, **changes}), indent=4))
    (folder / "metadata.json").write_text(json.dumps({"keras_version": "3.15.1", "keras_hub_version": "0.32.0"}))
    model.save_weights(folder / "model.weights.h5")
    if converter is not None:
        described = serialized("ResNetImageConverter", converter, name="image_converter")
        (folder / "image_converter.json").write_text(json.dumps(described))
    return folder
