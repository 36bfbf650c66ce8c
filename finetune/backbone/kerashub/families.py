"""Which networks of KerasHub are rebuilt here, and what the arguments in a preset's `config.json` mean.

The file may be anybody's. Its numbers are checked before a layer is made of them.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.backbone.networks.kerashub_resnet import BLOCKS
from finetune.backbone.networks.network import Stage
from finetune.errors import FinetuneError
from finetune.text import did_you_mean

_OF_EVERY_CLASS = ("name", "trainable", "dtype", "image_shape", "data_format")
_MOST_BLOCKS = 1_000
_MOST_STRIDE = 8

OWN_LAYERS = {
    "DINOV2Backbone": "DINOV2Layer",
    "DINOV3Backbone": "DINOV3Layer",
    "DeiTBackbone": "DeiTEncoderBlock",
    "EfficientNetBackbone": "MBConvBlock",
    "HGNetV2Backbone": "HGNetV2Stage",
    "MiTBackbone": "HierarchicalTransformerEncoder",
    "MobileNetBackbone": "ConvBnActBlock",
    "MobileNetV5Backbone": "UniversalInvertedResidual",
    "SwinTransformerBackbone": "SwinTransformerBlock",
    "ViTBackbone": "ViTEncoderBlock",
}
"""Classes of image networks that are made of layers of KerasHub's own -> such a layer."""


@dataclass(frozen=True)
class Plan:
    """How a preset's network is built: a module of `finetune.backbone.networks` and the arguments of its `build`.

    widths: numbers of channels that some variable of the network has as a side.
    convolutions: how many there are at least.
    """

    family: str
    arguments: Mapping[str, Any]
    widths: tuple[int, ...]
    convolutions: int


class Arguments:
    """The arguments of a class in a `config.json`, checked as they are taken. `where` is what messages call the file.

    Every method raises FinetuneError that names the argument and its value.
    """

    def __init__(self, given: Mapping[str, Any], where: str) -> None:
        self._given, self.where = given, where
        self._taken = set(_OF_EVERY_CLASS)

    def take(self, name: str, default: Any = None) -> Any:
        """The argument `name`, whatever it is. FinetuneError where it is missing and has no default."""
        self._taken.add(name)
        if name not in self._given and default is None:
            raise FinetuneError(f"{self.where} has no {name}: it is damaged, copy it again")
        return self._given.get(name, default)

    def wholes(self, name: str, *, most: int) -> tuple[int, ...]:
        """A list of whole numbers from 1 to `most`."""
        return self._wholes(name, self.take(name), most)

    def whole(self, name: str, *, default: int, most: int) -> int:
        """A whole number from 1 to `most`."""
        value = self.take(name, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self.refused(name, value, f"a whole number from 1 to {most}")
        return value

    def whole_lists(self, name: str, *, most: int) -> tuple[tuple[int, ...], ...]:
        """A list of such lists."""
        value = self.take(name)
        if not isinstance(value, list) or not 0 < len(value) <= _MOST_BLOCKS:
            raise self.refused(name, value, f"a list of 1 to {_MOST_BLOCKS} lists")
        return tuple(self._wholes(name, one, most) for one in value)

    def flags(self, name: str) -> tuple[bool, ...]:
        """A list of true and false."""
        value = self.take(name)
        if not isinstance(value, list) or any(not isinstance(one, bool) for one in value):
            raise self.refused(name, value, "a list of true and false")
        return tuple(value)

    def together(self, **lists: Sequence[Any]) -> None:
        """Refuse lists, by the names of their arguments, that are not equally long."""
        if len({len(one) for one in lists.values()}) > 1:
            lengths = ", ".join(f"{name} {len(one)}" for name, one in lists.items())
            raise FinetuneError(f"{self.where}: lists of one length expected, but they have {lengths} items")

    def all_taken(self, kind: str) -> None:
        """Refuse arguments that nobody has taken: they would change the network."""
        unknown = sorted(str(name) for name in self._given if name not in self._taken)
        if unknown:
            raise FinetuneError(
                f"{self.where} gives {kind} the argument '{unknown[0]}', which is not known here: expected one of "
                f"{', '.join(sorted(self._taken))}; save the preset again with KerasHub 0.32"
            )
        if self._given.get("data_format", "channels_last") not in (None, "channels_last"):
            raise self.refused("data_format", self._given["data_format"], "'channels_last'")

    def refused(self, name: str, value: Any, expected: str) -> FinetuneError:
        """The error about an argument."""
        return FinetuneError(f"{self.where} has {name} {str(value)[:80]}: expected {expected}")

    def _wholes(self, name: str, value: Any, most: int) -> tuple[int, ...]:
        right = isinstance(value, list) and 0 < len(value) <= _MOST_BLOCKS
        if not right or any(type(one) is not int or not 1 <= one <= most for one in value):
            raise self.refused(name, value, f"a list of 1 to {_MOST_BLOCKS} whole numbers from 1 to {most}")
        return tuple(value)


def plan(kind: str, arguments: Arguments) -> Plan:
    """How to build the network of the class `kind` of KerasHub.

    Raises FinetuneError for a class that is not rebuilt, in one line that names its own layer if it has one, and for
    arguments that make no network.
    """
    if kind in OWN_LAYERS:
        raise FinetuneError(
            f"{arguments.where}: {kind} is made of the layer {OWN_LAYERS[kind]} of KerasHub's own, so it cannot be "
            f"rebuilt from stock Keras layers: expected a preset of {', '.join(_FAMILIES)}"
        )
    if kind not in _FAMILIES:
        raise FinetuneError(
            f"{arguments.where}: {did_you_mean(kind, _FAMILIES)}{kind} is not rebuilt here: expected a preset of "
            f"{', '.join(_FAMILIES)}"
        )
    made = _FAMILIES[kind](arguments)
    arguments.all_taken(kind)
    return made


_STAGE = re.compile(r"(?P<named>stack\d+|block\d+)_|transition(?P<behind>\d+)_|(?P<stem>conv\d+_|pool1)")
_OF_KERASHUB = re.compile(r"stack\d+_block\d+_|block\d+_residual_add$")


def stages(layers: Iterable[str]) -> tuple[Stage, ...]:
    """The stages of a rebuilt network, or of a model made from it, by the names of its layers from the input on.

    Empty where the names are not those of KerasHub. A stage ends in its last layer, on which its others lead; what has
    no stage's name (the last BatchNorm of v2 and DenseNet) follows the last stage.
    """
    names = list(layers)
    if not any(map(_OF_KERASHUB.match, names)):
        return ()
    ends: dict[str, str] = {}
    for name in names:
        if found := _STAGE.match(name):
            stage = found["named"] or (f"stack{found['behind']}" if found["behind"] else "conv1")
            ends[stage] = name
    return tuple(Stage(stage, end) for stage, end in ends.items())


def _resnet(arguments: Arguments) -> Plan:
    stem = arguments.wholes("input_conv_filters", most=1 << 16), arguments.wholes("input_conv_kernel_sizes", most=99)
    filters = arguments.wholes("stackwise_num_filters", most=1 << 16)
    blocks = arguments.wholes("stackwise_num_blocks", most=_MOST_BLOCKS)
    strides = arguments.wholes("stackwise_num_strides", most=_MOST_STRIDE)
    arguments.together(input_conv_filters=stem[0], input_conv_kernel_sizes=stem[1])
    arguments.together(stackwise_num_filters=filters, stackwise_num_blocks=blocks, stackwise_num_strides=strides)
    block_type, pre = arguments.take("block_type"), arguments.take("use_pre_activation", default=False)
    if not isinstance(block_type, str) or block_type not in BLOCKS:
        raise arguments.refused("block_type", block_type, f"one of {', '.join(BLOCKS)}")
    if not isinstance(pre, bool) or (pre and BLOCKS[block_type][1]):
        raise arguments.refused("use_pre_activation", pre, "true or false, and false where block_type ends in _vd")
    # An identity shortcut needs a map and channels as the stack in front has them.
    if block_type == "basic_block" and (strides[0] > 1 or filters[0] != stem[0][-1]):
        raise arguments.refused("stackwise_num_filters", filters, f"{stem[0][-1]} first, with stride 1")
    build = {
        "stem": tuple(zip(*stem, strict=True)),
        "stacks": tuple(zip(filters, blocks, strides, strict=True)),
        "block_type": block_type,
        "pre": pre,
    }
    return Plan("kerashub_resnet", build, (*stem[0], *stem[1], *filters), len(stem[0]) + 2 * sum(blocks))


def _densenet(arguments: Arguments) -> Plan:
    repeats = arguments.wholes("stackwise_num_repeats", most=_MOST_BLOCKS)
    growth = arguments.whole("growth_rate", default=32, most=1 << 16)
    compression = arguments.take("compression_ratio", default=0.5)
    if type(compression) not in (int, float) or not 0 < compression <= 1 or not math.isfinite(compression):
        raise arguments.refused("compression_ratio", compression, "a number above 0, at most 1")
    build = {"repeats": repeats, "growth": growth, "compression": compression}
    return Plan("kerashub_densenet", build, (growth,), 2 * sum(repeats))


def _xception(arguments: Arguments) -> Plan:
    filters = arguments.whole_lists("stackwise_conv_filters", most=1 << 16)
    pooled = arguments.flags("stackwise_pooling")
    arguments.together(stackwise_conv_filters=filters, stackwise_pooling=pooled)
    if len(filters) < 2:
        raise arguments.refused("stackwise_conv_filters", filters, "at least two blocks")
    for index, (before, own, pools) in enumerate(zip(filters, filters[1:-1], pooled[1:-1], strict=False), start=2):
        if pools != (before[-1] != own[-1]):
            raise FinetuneError(
                f"{arguments.where}: block {index} has {own[-1]} channels behind {before[-1]} and "
                f"{'pools' if pools else 'does not pool'}: expected a pool exactly where the channels change"
            )
    widths = tuple(width for block in filters for width in block)
    return Plan("kerashub_xception", {"blocks": tuple(zip(filters, pooled, strict=True))}, widths, len(widths))


def _vgg(arguments: Arguments) -> Plan:
    repeats = arguments.wholes("stackwise_num_repeats", most=_MOST_BLOCKS)
    filters = arguments.wholes("stackwise_num_filters", most=1 << 16)
    arguments.together(stackwise_num_repeats=repeats, stackwise_num_filters=filters)
    return Plan("kerashub_vgg", {"blocks": tuple(zip(repeats, filters, strict=True))}, filters, sum(repeats))


_FAMILIES: Mapping[str, Callable[[Arguments], Plan]] = {
    "ResNetBackbone": _resnet,
    "DenseNetBackbone": _densenet,
    "XceptionBackbone": _xception,
    "VGGBackbone": _vgg,
}
CLASSES = tuple(_FAMILIES)
"""The classes of KerasHub whose presets are rebuilt."""
