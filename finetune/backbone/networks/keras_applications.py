"""The networks of `keras.applications`, with names that are the same in every build.

Source: keras/src/applications of Keras 3.15. Keras numbers unnamed layers through the whole process (the first
InceptionV3 has `conv2d_17` where the second has `conv2d_111`); a freeze rule or a saved plan needs one name.
"""

import fnmatch
import math
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
_MOBILENET_V2 = (
    Stage("conv1", "Conv1_relu"),
    Stage("block_0", "expanded_conv_project_BN"),
    *(Stage(f"block_{i}", f"block_{i}_*") for i in range(1, 17)),
    Stage("conv_1", "out_relu"),
)


def _mobilenet_v3(blocks: int) -> tuple[Stage, ...]:
    """Its activations have no names, so a stage ends before one."""
    ends = [Stage(f"block_{i}", f"expanded_conv_{i}_*") for i in range(1, blocks)]
    return (Stage("conv", "conv_bn"), Stage("block_0", "expanded_conv_[ap]*"), *ends, Stage("conv_1", "conv_1_bn"))


_XCEPTION = (
    Stage("block1", "block1_conv2_act"),
    *(Stage(f"block{i}", f"add_{i - 2}" if i > 2 else "add") for i in range(2, 14)),
    Stage("block14", "block14_sepconv2_act"),
)


def _efficientnet(blocks: int) -> tuple[Stage, ...]:
    ends = [Stage(f"block{i}", f"block{i}*") for i in range(1, blocks + 1)]
    return (Stage("stem", "stem_activation"), *ends, Stage("top", "top_activation"))


def _nasnet(cells: int) -> tuple[Stage, ...]:
    """`cells` are the normal cells in a row, before each of two reductions and at the end."""
    return (
        Stage("stem", "reduction_concat_stem_2"),
        Stage("cells_1", f"normal_concat_{cells - 1}"),
        Stage("reduction_1", f"reduction_concat_reduce_{cells}"),
        Stage("cells_2", f"normal_concat_{2 * cells}"),
        Stage("reduction_2", f"reduction_concat_reduce_{2 * cells}"),
        Stage("cells_3", f"normal_concat_{3 * cells}"),
    )


_VGG = tuple(Stage(f"block{i}", f"block{i}_pool") for i in range(1, 6))


def _convnext(size: str, *blocks: int) -> tuple[Stage, ...]:
    """`blocks` are those of each stage. What halves the map in front of a stage is part of it."""
    scope = f"convnext_{size}"
    ends = [Stage(f"stage_{i}", f"{scope}_stage_{i}_block_{count - 1}_add") for i, count in enumerate(blocks)]
    return (Stage("stem", f"{scope}_stem_layernorm"), *ends)


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
    "MobileNetV2": _MOBILENET_V2,
    "MobileNetV3Small": _mobilenet_v3(11),
    "MobileNetV3Large": _mobilenet_v3(15),
    "Xception": _XCEPTION,
    "NASNetMobile": _nasnet(4),
    "NASNetLarge": _nasnet(6),
    **{f"EfficientNetB{i}": _efficientnet(7) for i in range(8)},
    **{f"EfficientNetV2B{i}": _efficientnet(6) for i in range(4)},
    "EfficientNetV2S": _efficientnet(6),
    "EfficientNetV2M": _efficientnet(7),
    "EfficientNetV2L": _efficientnet(7),
    "VGG16": _VGG,
    "VGG19": _VGG,
    "ConvNeXtTiny": _convnext("tiny", 3, 3, 9, 3),
    **{f"ConvNeXt{size}": _convnext(size.lower(), 3, 3, 27, 3) for size in ("Small", "Base", "Large", "XLarge")},
}
"""Every application that can be built here, and its stages by the layer names of this package. An end that is a pattern
is the last layer that fits it."""

_DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in [0, 1]. The `Normalization` of the published EfficientNets divides by its root; a `Rescaling`
behind it, which Keras builds only together with these weights, by the other root."""


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
    if application.startswith("EfficientNetB"):
        model = _with_rescaling(model)
    if application.startswith("ConvNeXt"):
        model = _flat(model)
    model = _with_names(model, canonical_names(model))
    names = [layer.name for layer in model.layers]
    return Network(model, "", tuple(Stage(one.name, fnmatch.filter(names, one.end)[-1]) for one in stages))


def _with_rescaling(model: keras.Model) -> keras.Model:
    """The model as Keras builds it for the published weights: its normalised pixels are rescaled."""

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        if not isinstance(layer, keras.layers.Normalization):
            return output
        return keras.layers.Rescaling([1 / math.sqrt(one) for one in _DEVIATION])(output)

    return keras.models.clone_model(model, call_function=call)


def _flat(model: keras.Model) -> keras.Model:
    """A ConvNeXt whose layers all have a name of their own: those inside its `Sequential` models stand in the network,
    each sum is a layer, and the norm behind the pooling is called as in front of the published head."""

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            x = args[0]
            for inner in layer.layers:
                x = type(inner).from_config(inner.get_config())(x)
            return x
        if not isinstance(layer, keras.layers.Layer):  # input + branch: Keras's ConvNeXts end a branch in `_identity`
            branch = args[1]._keras_history.operation.name.removesuffix("_identity")
            return keras.layers.Add(name=f"{branch}_add")(list(args))
        return layer(*args, **kwargs)

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.layers.LayerNormalization) and layer.name.startswith("layer_normalization"):
            config["name"] = f"{model.name}_head_layernorm"
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=clone, call_function=call)


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
