"""The networks of `keras.applications`, with names that are the same in every build.

Source: keras/src/applications of Keras 3.15. Keras numbers unnamed layers through the whole process (the first
InceptionV3 has `conv2d_17` where the second has `conv2d_111`); a freeze rule or a saved plan needs one name.
"""

from typing import Any

import keras

from finetune.backbone.networks.network import Network, Stage


def _resnet(*blocks: int) -> tuple[Stage, ...]:
    """`blocks` are the residual blocks of conv2 to conv5."""
    ends = [Stage(f"conv{i}", f"conv{i}_block{count}_out") for i, count in enumerate(blocks, start=2)]
    return (Stage("conv1", "pool1_pool"), *ends)


# conv2 to conv4 end in the transition that halves their map: its BatchNorm and convolution belong to them.
_DENSENET = (
    Stage("conv1", "pool1"),
    Stage("conv2", "pool2_pool"),
    Stage("conv3", "pool3_pool"),
    Stage("conv4", "pool4_pool"),
    Stage("conv5", "relu"),
)
_INCEPTION_V3 = (Stage("stem", "max_pooling2d_1"), *(Stage(f"mixed{i}", f"mixed{i}") for i in range(11)))
_INCEPTION_RESNET_V2 = (
    Stage("stem", "max_pooling2d_1"),
    Stage("mixed_5b", "mixed_5b"),
    Stage("block35", "block35_10_ac"),
    Stage("mixed_6a", "mixed_6a"),
    Stage("block17", "block17_20_ac"),
    Stage("mixed_7a", "mixed_7a"),
    Stage("block8", "custom_scale_layer_39"),  # the 40th block, which has no activation
    Stage("conv_7b", "conv_7b_ac"),
)
_MOBILENET = (Stage("conv1", "conv1_relu"), *(Stage(f"conv_{i}", f"conv_pw_{i}_relu") for i in range(1, 14)))

STAGES = {
    "ResNet50": _resnet(3, 4, 6, 3),
    "ResNet101": _resnet(3, 4, 23, 3),
    "ResNet152": _resnet(3, 8, 36, 3),
    "ResNet50V2": _resnet(3, 4, 6, 3),
    "ResNet101V2": _resnet(3, 4, 23, 3),
    "ResNet152V2": _resnet(3, 8, 36, 3),
    "InceptionV3": _INCEPTION_V3,
    "InceptionResNetV2": _INCEPTION_RESNET_V2,
    "DenseNet121": _DENSENET,
    "DenseNet169": _DENSENET,
    "DenseNet201": _DENSENET,
    "MobileNet": _MOBILENET,
}
"""Every application that can be built here, and its stages by the layer names of this package."""


def build(image_size: tuple[int, int], outputs: int | None, *, application: str, **arguments: Any) -> Network:
    """Build `keras.applications.<application>`: `[batch, height, width, 3]` to features `[batch, channels]`.

    With `outputs`, to logits `[batch, outputs]`: no softmax. `arguments` are the application's own (`alpha`, …).
    """
    stages = STAGES[application]
    images = keras.Input((*image_size, 3), name="images")
    head = {"include_top": False, "pooling": "avg"} if outputs is None else {"include_top": True, "classes": outputs}
    model = getattr(keras.applications, application)(
        weights=None, input_tensor=images, input_shape=(*image_size, 3), classifier_activation=None, **head, **arguments
    )
    # Given a tensor, an application makes its input a list of one; rewrapped, the model takes the images themselves.
    model = keras.Model(images, model.output, name=model.name)
    return Network(_with_names(model, canonical_names(model)), "", stages)


def canonical_names(model: keras.Model) -> dict[str, str]:
    """Map the layers that Keras numbered to names counted within `model`, in order of creation, from 0.

    `{"conv2d_94": "conv2d", "conv2d_95": "conv2d_1", …}`; layers with a name of their own are left out.
    """
    numbered: dict[str, list[tuple[int, str]]] = {}
    for layer in model.layers:
        stem, _, number = layer.name.rpartition("_")
        if not number.isdigit():
            stem, number = layer.name, "0"
        if stem.replace("_", "") == type(layer).__name__.lower():
            numbered.setdefault(stem, []).append((int(number), layer.name))
    return {
        name: f"{stem}_{index}" if index else stem
        for stem, layers in numbered.items()
        for index, (_, name) in enumerate(sorted(layers))
    }


def _with_names(model: keras.Model, names: dict[str, str]) -> keras.Model:
    if all(old == new for old, new in names.items()):
        return model

    def rename(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "name": names.get(layer.name, layer.name)})

    return keras.models.clone_model(model, clone_function=rename)
