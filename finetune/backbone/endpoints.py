"""A place inside a network by the name slim gives it: `resnet_v1_50/block3`, `Mixed_5c`; or a Keras layer's."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from finetune.backbone.networks.network import pooling
from finetune.errors import WrongUse

POOLED = "global_pool"
"""The pooled features, whatever their layer is called: the name in research/slim/nets of tensorflow/models."""

_SLIM = {
    "AvgPool_1a": (POOLED, ("MobilenetV1",)),
    "PreLogits": (POOLED, ("InceptionV3",)),
    "PreLogitsFlatten": (POOLED, ("InceptionV4", "InceptionResnetV2")),
    "PreAuxLogits": ("Repeat_1", ("InceptionResnetV2",)),
    "spatial_squeeze": ("logits", ()),
}
"""Names in `end_points` that are no scopes here: what they are, and the networks that have them (none: all with such a
layer). Dropout and a change of shape are no layers. Source: research/slim/nets of tensorflow/models."""
_HEAD = ("head", "features")
"""First parts of the names of layers that are put to a network here."""
_LISTED = 30


def find_layer(model: keras.Model, name: str, *, stages: Mapping[str, Sequence[str]]) -> Any:
    """The layer of a flat model whose output is meant by `name`.

    The exact name of a Keras layer is that layer. Otherwise it is a scope, with or without the network's own in front,
    with `/` or `.`, and means what slim's `end_points` has under it: the last layer in the scope, so
    `resnet_v1_50/conv1` is the convolution with its BatchNorm and ReLU (the convolution alone is the Keras layer
    `resnet_v1_50.conv1`). `global_pool` are the pooled features; a stage's name means its last map. Source:
    slim.utils.collect_named_outputs in tf_slim/layers/layers.py. Raises WrongUse with the nearest names.
    """
    layers = {layer.name: layer for layer in model.layers}
    if name in layers:
        return layers[name]
    root = scope(model)
    wanted = name.replace("/", ".")
    for prefix in filter(None, (wanted, f"{root}.{wanted}" if root else "")):
        inside = [one for one in model.layers if one.name == prefix or one.name.startswith(f"{prefix}.")]
        if inside:
            return inside[-1]
    meant, networks = _SLIM.get(name.removeprefix(f"{root}/"), ("", ()))
    if root in networks or f"{root}.{meant}" in layers:
        return find_layer(model, meant, stages=stages)
    if name == POOLED and (pooled := pooling(model)) is not None:
        return pooled
    maps = [layers[one] for one in stages.get(name, ()) if one in layers and len(layers[one].output.shape) == 4]
    if maps:
        return maps[-1]
    raise WrongUse(_unknown(model, name, stages))


def scope(model: keras.Model) -> str:
    """The root scope of slim's layer names in a model, or ""."""
    first = {layer.name.partition(".")[0] for layer in model.layers if "." in layer.name} - set(_HEAD)
    return first.pop() if len(first) == 1 else ""


def end_points(model: keras.Model, *, stages: Mapping[str, Sequence[str]]) -> list[str]:
    """What `find_layer` knows a network's main places by, from the input to the output."""
    root = scope(model)
    if root:
        short = (one.name.removeprefix(f"{root}.").partition(".")[0] for one in model.layers[1:])
        names = [*dict.fromkeys(name for name in short if name not in _HEAD)]
    else:
        names = list(stages) or [one.name for one in model.layers if len(one.output.shape) == 4]
    head = [one.name for one in model.layers if one.name.startswith(f"{_HEAD[0]}.")]
    return [*names, *([POOLED] if pooling(model) is not None else []), *head]


def _unknown(model: keras.Model, name: str, stages: Mapping[str, Sequence[str]]) -> str:
    """The message about a name that no layer has."""
    main = end_points(model, stages=stages)
    root = scope(model)
    short = dict.fromkeys(one.name.removeprefix(f"{root}.").replace(".", "/") for one in model.layers)
    known = {one.lower(): one for one in (*short, *main)}
    wanted = name.replace(".", "/").removeprefix(f"{root}/").lower()
    near = [known[one] for one in difflib.get_close_matches(wanted, [one.lower() for one in main], n=2)]
    near = near or [known[one] for one in difflib.get_close_matches(wanted, known, n=3)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    more = f" and {len(main) - _LISTED} more" if len(main) > _LISTED else ""
    return (
        f"unknown layer '{name}': {hint}expected one of {', '.join(main[:_LISTED])}{more}, a scope below one of these, "
        f"or the name of one of the {len(model.layers)} Keras layers"
    )
