"""Which array of a file belongs to which variable of a network, whatever the file calls them."""

import glob
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import translate
from functools import cache
from typing import TypeVar

from checkpoints.catalog.spec import BackboneSpec
from checkpoints.formats.aliases import STATISTICS
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.matching.leftovers import LAYER_VARIABLES, TRAINING_LEFTOVERS, Ignore, training_leftover
from checkpoints.matching.structures import Entry


@dataclass(frozen=True)
class Pairing:
    """names: a network's name -> the file's, also where the file has none of that name or it has another shape.

    head: names in the file that are logits, the published ones or the user's own. auxiliary: of a head that is used
    in training only, in whatever scope the network is. counters: single numbers that no network has. others: vectors
    beside a whole slim network that are of no layer, such as a mean pixel or the weights of classes. parts: of a larger
    network that a whole slim network is in, such as a detector: they are no reason to refuse the backbone, but the head
    of such a file sees other features.
    """

    names: Mapping[str, str]
    head: tuple[str, ...]
    auxiliary: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def ignored(self) -> list[Ignore]:
        """What may be left over in the file, besides a head."""
        exact = (
            ("auxiliary head", self.auxiliary),
            ("training counters", self.counters),
            ("vectors of no layer", self.others),
        )
        return [*TRAINING_LEFTOVERS, *((why, [glob.escape(name) for name in names]) for why, names in exact)]


_Value = TypeVar("_Value")
_OWN_HEAD_VARIABLES = 12
_ON_TOP = re.compile(r"/\w+_[12]_Conv2d_\d_\dx\d(_s2)?_\d+/")
"""`Conv2d_13_pointwise_2_Conv2d_2_3x3_s2_512` (object_detection/models/feature_map_generators.py)."""
_SLIM_TO_KERAS = {"weights": "kernel", "biases": "bias", "depthwise_weights": "kernel"}
_SEPARABLE = {"depthwise_weights": "depthwise_kernel", "pointwise_weights": "pointwise_kernel"}


def pair(checkpoint: Checkpoint, spec: BackboneSpec, entries: Sequence[Entry]) -> Pairing:
    """Pair the variables of a catalogue row's network, with or without its head, with those of a file.

    Names are the mapping: as published; slim's scopes as Keras layers (`resnet_v1_50.conv1/kernel`, what this package
    writes); by layer order in Keras's .h5 and .keras files and TF2 checkpoints of Keras networks
    (`align_by_layer_order`); by key in
    `.weights.h5` files. A scope or a model around the network is skipped, and slim's scope may have another
    name.
    """
    candidates = list(_candidates(checkpoint, spec, entries))
    names = max(candidates, key=lambda names: _right(checkpoint, entries, names))
    if 2 * _right(checkpoint, entries, names) < len(entries):
        # The file is of another network: report in the names under which this one is published.
        names = max(candidates, key=lambda names: sum(name in checkpoint.shapes for name in names.values()))
        if 2 * sum(name in checkpoint.shapes for name in names.values()) < len(entries):
            names = candidates[0]
    taken = {names[entry.name] for entry in entries if not of_head(spec, entry.name)}
    over = [name for name in checkpoint.shapes if name not in taken and not training_leftover(name)]
    # By the head's own scope, whatever lies around it: `AuxLogits` in `my_model/Inception/AuxLogits/...`.
    scopes = "|".join(pattern.split("/")[-2] for pattern in spec.auxiliary)
    auxiliary = tuple(name for name in over if scopes and re.search(rf"(^|[/.])({scopes})[/.]", name))
    counters = tuple(name for name in over if not checkpoint.shapes[name])
    others = tuple(name for name in over if _of_no_layer(checkpoint, name))
    if not _is_whole(checkpoint, spec, entries, names) or len(others) > _OWN_HEAD_VARIABLES:
        others = ()
    explained = {*auxiliary, *counters, *others}
    over = [name for name in over if name not in explained]
    head = _own_head(checkpoint, spec, entries, names, over)
    rest = [name for name in over if name not in head]
    parts = _parts(checkpoint, taken, rest) if _is_whole(checkpoint, spec, entries, names) else ()
    names = {**names, **_by_shape(checkpoint, spec, entries, names, head)}
    return Pairing(names, head, auxiliary, counters, others, parts)


def of_head(spec: BackboneSpec, name: str) -> bool:
    """Whether a name is of the published logits."""
    return bool(_one_of(spec.head).match(name))


@cache
def _one_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """A match for any of these fnmatch patterns: it is used for every name of every network."""
    return re.compile("|".join(map(translate, patterns)) or "(?!)")


def in_slim_scopes(checkpoint: Checkpoint) -> bool:
    """Whether a Keras file is of a network with slim's scopes for layer names (`resnet_v1_50.conv1`).

    Most of its layers are then named so; the head of this package (`head.logits`) is in files of every kind.
    """
    if not checkpoint.kind.startswith("keras"):
        return False
    layers = set(checkpoint.layers.values()) or {name.rpartition("/")[0] for name in checkpoint.shapes}
    return 2 * sum("." in layer for layer in layers) > len(layers)


def _candidates(checkpoint: Checkpoint, spec: BackboneSpec, entries: Sequence[Entry]) -> Iterator[dict[str, str]]:
    for prefix in ("", *_prefixes(checkpoint)):
        for names in _spellings(_inside(checkpoint, prefix), spec, entries):
            yield {name: f"{prefix}{theirs}" for name, theirs in names.items()}


def _spellings(checkpoint: Checkpoint, spec: BackboneSpec, entries: Sequence[Entry]) -> Iterator[dict[str, str]]:
    """The file's names of a network's variables, in every way the file may spell them."""
    if checkpoint.kind == "keras-weights-h5":
        # Two networks of one structure that compute something else (slim's and Keras's ResNet v2) differ in their
        # layers' names only: a slim network wants to see its own.
        if spec.source == "keras":
            its_own = not in_slim_scopes(checkpoint)
        else:
            its_own = all(checkpoint.layers.get(entry.key) == _layer(entry) for entry in entries)
        yield {entry.name: entry.key if its_own else entry.name for entry in entries}
        if spec.source == "keras" and its_own:
            yield _by_layer_names(checkpoint, entries)
        return
    yield {entry.name: entry.name for entry in entries}
    if spec.source != "keras":
        separable = {_scope(entry.name) for entry in entries if entry.name.endswith("/pointwise_weights")}
        yield {entry.name: _keras_spelling(entry.name, separable) for entry in entries}
        # Inside a scope of the file: the network in a scope of another name.
        yield {entry.name: entry.name.partition("/")[2] for entry in entries}
    # By order a network of slim's would fit Keras's network of the same structure, which computes something else.
    elif _in_layer_order(checkpoint) and not in_slim_scopes(checkpoint):
        aligned = align_by_layer_order(checkpoint, {entry.name: entry.name for entry in entries})
        yield {name: theirs for theirs, name in aligned.items()}


def _by_layer_names(checkpoint: Checkpoint, entries: Sequence[Entry]) -> dict[str, str]:
    """Keys by what the file calls their layers, wherever these are: in the network, or in a model inside of it, as in
    Keras's ConvNeXt. Layers whose names only one side has pair in order (the norm behind ConvNeXt's pooling)."""
    in_file: dict[str, list[str]] = {}
    for key, layer in checkpoint.layers.items():
        in_file.setdefault(layer, []).append(key)
    in_network: dict[str, list[Entry]] = {}
    for entry in entries:
        in_network.setdefault(_scope(entry.name), []).append(entry)
    others = (layer for layer in in_file if layer not in in_network)
    names = {entry.name: entry.key for entry in entries}
    for layer, variables in in_network.items():
        keys = in_file.get(layer if layer in in_file else next(others, ""), ())
        if len(keys) == len(variables):
            names.update(zip((entry.name for entry in variables), keys, strict=True))
    return names


def _in_layer_order(checkpoint: Checkpoint) -> bool:
    """Whether a file holds variables in the order of a Keras model's layers: HDF5, or a TF2 checkpoint."""
    return checkpoint.kind in ("keras-h5", "keras-zip") or (checkpoint.kind == "slim-v2" and bool(checkpoint.places))


def _keras_spelling(name: str, separable: Collection[str]) -> str:
    """`resnet_v1_50/conv1/weights` is the layer `resnet_v1_50.conv1` with the variable `kernel`.

    separable: scopes that hold a depthwise and a pointwise convolution in one layer.
    """
    scope, _, variable = name.rpartition("/")
    spelled = _SEPARABLE.get(variable) if scope in separable else None
    return f"{scope.replace('/', '.')}/{spelled or _SLIM_TO_KERAS.get(variable, variable)}"


def _scope(name: str) -> str:
    return name.rpartition("/")[0]


def _layer(entry: Entry) -> str:
    return _scope(entry.name).replace("/", ".")


def _prefixes(checkpoint: Checkpoint) -> list[str]:
    """Scopes or models that hold most of a file's variables, with their slash at the end."""
    names = [name for name in checkpoint.shapes if not training_leftover(name)]
    count = Counter(name[: match.end()] for name in names for match in re.finditer("/", name))
    return [prefix for prefix, inside in count.items() if 2 * inside > len(names)]


def _inside(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    def inside(names: Mapping[str, _Value]) -> dict[str, _Value]:
        return {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}

    return replace(checkpoint, shapes=inside(checkpoint.shapes), layers=inside(checkpoint.layers))


def _right(checkpoint: Checkpoint, entries: Sequence[Entry], names: Mapping[str, str]) -> int:
    return sum(checkpoint.shapes.get(names[entry.name]) == entry.shape for entry in entries)


def _own_head(
    checkpoint: Checkpoint,
    spec: BackboneSpec,
    entries: Sequence[Entry],
    names: Mapping[str, str],
    over: Sequence[str],
) -> tuple[str, ...]:
    """The published logits that a network was built without, or what replaced them, among the names left `over`.

    Where the file fills the whole network, but for moving statistics, the few variables that remain, the last of them
    logits, are a head.
    """
    published = tuple(name for name in over if of_head(spec, name))
    rest = [name for name in over if name not in published]
    whole = _is_whole(checkpoint, spec, entries, names)
    return (*published, *rest) if whole and _is_head([checkpoint.shapes[name] for name in rest]) else published


def _is_whole(checkpoint: Checkpoint, spec: BackboneSpec, entries: Sequence[Entry], names: Mapping[str, str]) -> bool:
    """Whether the file fills the whole network, but for the head and for moving statistics."""
    backbone = [
        entry
        for entry in entries
        if not of_head(spec, entry.name)
        and not (entry.name.endswith(STATISTICS) and names[entry.name] not in checkpoint.shapes)
    ]
    return _right(checkpoint, backbone, names) == len(backbone)


def _parts(checkpoint: Checkpoint, taken: Collection[str], rest: Sequence[str]) -> tuple[str, ...]:
    """Of the names that are left in a TF1 checkpoint, those of a larger network: outside of the backbone's scope, or
    in it the feature maps that TensorFlow's Object Detection API puts on top.

    All others in the scope are of the backbone's own kind, and the file is of another network.
    """
    if not checkpoint.kind.startswith("slim") or checkpoint.places or not (scope := posixpath.commonpath(taken)):
        return ()
    return tuple(name for name in rest if not name.startswith(f"{scope}/") or _ON_TOP.search(name))


def _of_no_layer(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a variable of a TF1 checkpoint is a vector that no layer of slim's or of `tf.layers` has.

    A bias that the network lacks is none: with it, the file is of another network. In Keras's files such vectors may be
    of a layer, as the mean of a `Normalization` is.
    """
    of_tf1 = checkpoint.kind.startswith("slim") and not checkpoint.places
    return of_tf1 and len(checkpoint.shapes[name]) == 1 and name.rpartition("/")[2] not in LAYER_VARIABLES


def _by_shape(
    checkpoint: Checkpoint, spec: BackboneSpec, entries: Sequence[Entry], names: Mapping[str, str], head: Sequence[str]
) -> dict[str, str]:
    """The network's logits under the file's names where those are its own (`dense` for `predictions`)."""
    logits = [entry for entry in entries if of_head(spec, entry.name)]
    if all(names[entry.name] in checkpoint.shapes for entry in logits):
        return {}
    by_shape = {checkpoint.shapes[name]: name for name in head}
    if len(by_shape) != len(head) or {entry.shape for entry in logits} != set(by_shape):
        return {}
    return {entry.name: by_shape[entry.shape] for entry in logits}


def _is_head(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Few variables, and all kernels those of dense layers or of convolutions that see one pixel."""
    kernels = [sides for sides in shapes if len(sides) > 1]
    pointwise = all(len(sides) == 2 or (len(sides) == 4 and sides[:2] == (1, 1)) for sides in kernels)
    return bool(kernels) and pointwise and len(shapes) <= _OWN_HEAD_VARIABLES


def align_by_layer_order(checkpoint: Checkpoint, targets: Mapping[str, _Value]) -> dict[str, _Value]:
    """The targets of a Keras network under the names of a Keras file.

    targets: `layer/variable` -> variable, layers in the order of `model.layers`.
    Where the file knows every layer of the network (`conv1/conv` in a file is `conv1_conv`), layers pair by name; so do
    those of ResNet50 before keras_applications 1.0.7 (2019), whose order was another one;
    otherwise in order, as Keras's own loader pairs them (keras/src/legacy/saving/legacy_h5_format.py,
    load_weights_from_hdf5_group): `conv2d` of the network with `conv2d_1` of the file. Layers at the end of the
    file without a partner are the head. Variables of two paired layers pair by name, and in order where the names
    differ (`depthwise_kernel` in old files is `kernel`). A file with too few layers pairs with nothing: the targets
    keep their names, and `assign` says what is missing.
    """
    in_file, in_network = _by_layer(checkpoint.shapes), _by_layer(targets)
    names = {_layer_name_today(layer, in_file): layer for layer in in_file}
    if all(layer.replace("/", "_") in names for layer in in_network):
        pairs = {layer: names[layer.replace("/", "_")] for layer in in_network}
    elif len(in_network) <= len(in_file):
        pairs = dict(zip(in_network, in_file, strict=False))
    else:
        return dict(targets)
    aligned = {}
    for layer, variables in in_network.items():
        partner = pairs[layer]
        theirs = in_file[partner]
        if len(theirs) != len(variables) or set(theirs) == set(variables):
            theirs = variables
        for variable, their in zip(variables, theirs, strict=True):
            aligned[f"{partner}/{their}"] = targets[f"{layer}/{variable}"]
    return aligned


_RESNET_BEFORE_2019 = re.compile(r"(res|bn)([2-5])([a-f])_branch(1|2[abc])")
_ITS_ENDS = {"conv1": "conv1_conv", "bn_conv1": "conv1_bn", "fc1000": "predictions"}


def _layer_name_today(layer: str, all_layers: Collection[str]) -> str:
    """What Keras calls a layer of the file: `res2a_branch2c` of its first ResNet50 is `conv2_block1_3_conv` now."""
    if "res2a_branch1" in all_layers:
        if (found := _RESNET_BEFORE_2019.fullmatch(layer)) is not None:
            kind, stage, block, branch = found.groups()
            part = {"1": 0, "2a": 1, "2b": 2, "2c": 3}[branch]
            return f"conv{stage}_block{'abcdef'.index(block) + 1}_{part}_{'conv' if kind == 'res' else 'bn'}"
        return _ITS_ENDS.get(layer, layer)
    return layer.replace("/", "_")


def _by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    layers: dict[str, list[str]] = {}
    for name in names:
        layer, _, variable = name.rpartition("/")
        layers.setdefault(layer, []).append(variable)
    return layers
