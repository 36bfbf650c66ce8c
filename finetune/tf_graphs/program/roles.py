"""The tensors of a graph that are the images and the logits, and the layout of the images."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import tensorflow as tf

from checkpoints.formats.operations import FUSED, VARIABLES
from finetune.errors import FinetuneError, WrongUse
from finetune.tf_graphs.program.feeding import behind_augmentation
from finetune.tf_graphs.program.nodes import PLACEHOLDERS, Graph, Node, Ref, Values, first_of

Layout = Literal["nhwc", "nchw", "flat-nhwc", "flat-nchw"]
LAYOUTS: tuple[Layout, ...] = ("nhwc", "nchw", "flat-nhwc", "flat-nchw")
_LOSSES = ("SparseSoftmaxCrossEntropyWithLogits", "SoftmaxCrossEntropyWithLogits")
_SOFTMAX = ("Softmax", "LogSoftmax")
_SIGMOID_LOSS = frozenset({"GreaterEqual", "Neg"})
"""What reads the logits in `tf.nn.sigmoid_cross_entropy_with_logits`, which is made of arithmetic."""
_RESHAPING = ("Identity", "StopGradient", "Reshape", "Squeeze", "ExpandDims", "Cast", "IdentityN")
_PREDICTIONS = ("Softmax", "LogSoftmax", "ArgMax", "InTopK", "InTopKV2", "TopK", "TopKV2")
_LAYERS = frozenset({"MatMul", "Conv2D", "BiasAdd", "Add", "AddV2", "Mul", *FUSED})
_ENDS = frozenset({"Squeeze", "Reshape", "Identity", "Mean", "Add", "AddV2"})
_GRADIENT = re.compile(r"(^|/)gradients(_\d+)?/|_grad/")
_TOWER = re.compile(r"(?<![^/])(tower|clone|replica|gpu)_?\d+/")
_PIPELINES = ("Iterator", "QueueDequeue", "Unstage", "RecordInput", "DatasetToSingleElement", "InfeedDequeue")
CHANNELS = (3, 1, 4)
"""Of images: RGB, grey, RGBA."""
_SCALINGS = ("Identity", "Cast", "Mul", "Sub", "Add", "AddV2", "RealDiv", "Div", "Switch", "Pad")


@dataclass(frozen=True)
class Input:
    """The tensor of images, with its shape and DataType as declared. `how` is a line that says how it was found."""

    ref: Ref
    dtype: int
    shape: tuple[int | None, ...] | None
    layout: Layout
    how: str
    row: tuple[int, int, int] | None = None
    """Of a flat layout: (height, width, channels)."""

    @property
    def channels(self) -> int:
        """1 (grey), 3 (RGB) or 4."""
        if self.row is not None or self.shape is None or len(self.shape) != 4:
            return self.row[2] if self.row else 3
        return self.shape[3 if self.layout == "nhwc" else 1] or 3

    @property
    def batch_size(self) -> int | None:
        """The number of images it takes at once, None where it takes any."""
        return self.shape[0] if self.shape else None

    @property
    def axes(self) -> tuple[int, ...]:
        """Of a flat layout: the axes of one image, rows of pixels or [height, width]."""
        return (-1,) if self.row is None or self.shape is None or len(self.shape) == 2 else self.row[:2]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels, None where it takes any."""
        if self.shape is None:
            return None
        if self.layout.startswith("flat"):
            return self.row[:2] if self.row else None
        height, width = self.shape[1:3] if self.layout == "nhwc" else self.shape[2:4]
        return (height, width) if height and width else None


def named(graph: Graph, text: str, option: str) -> Ref:
    """The tensor a user means by `x:0` or `x`. WrongUse with the nearest names where there is none."""
    name, _, output = text.strip().removeprefix("^").partition(":")
    if name in graph.nodes and (not output or output.isdigit()):
        return Ref(name, int(output or 0))
    near = difflib.get_close_matches(name, graph.nodes, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise WrongUse(f"{option} {text}: the graph has no such tensor; {hint}its placeholders are {listed(graph)}")


def listed(graph: Graph) -> str:
    """Every placeholder with its type and shape, for messages."""
    found = [
        describe(node)
        for node in graph.nodes.values()
        if node.op in PLACEHOLDERS and not node.name.startswith(("save/", "finetune_"))
    ]
    return first_of(found, 16) or "none"


def describe(node: Node, output: int = 0) -> str:
    """`x:0 (float32 [?, 32, 32, 3])`."""
    shape = node.declared_shape(output)
    sides = "any shape" if shape is None else f"[{', '.join('?' if side is None else str(side) for side in shape)}]"
    dtype = node.data_type(output)
    return f"{node.name}:{output} ({tf.as_dtype(dtype).name if dtype else 'unknown type'} {sides})"


def find_logits(graph: Graph) -> tuple[Ref, str]:
    """What the loss or the predictions are made of, and a line that says so.

    Of several towers with the same weights, the first. FinetuneError where several tensors, or none, may be the logits.
    """
    forward = {name: node for name, node in graph.nodes.items() if not _GRADIENT.search(name)}
    losses, predictions = (_read_by(graph, forward, readers) for readers in (_LOSSES, _PREDICTIONS))
    predicted = {graph.source(ref) for ref in predictions}
    both = [ref for ref in losses if graph.source(ref) in predicted]
    for found, how in (
        (both, "what loss and predictions are made of"),
        (losses, "what the loss is made of"),
        (predictions, "what the predictions are made of"),
        ([] if losses or predictions else _last(graph, forward), "what the graph ends with"),
    ):
        if found and (len(found) == 1 or len({_weights(graph, ref) for ref in found}) == 1):
            others = f"; {first_of(map(str, found[1:]))} with the same weights left out" if found[1:] else ""
            return found[0], f"logits {found[0]}: {how}{others}"
        if found and found is not both:
            ranked = sorted(found, key=lambda ref: (ref not in both, -len(graph.ancestors([ref.node], control=False))))
            names = first_of((describe(graph.producer(ref), ref.output) for ref in ranked), 8)
            raise FinetuneError(
                f"the graph has {len(found)} tensors that may be the logits, the likeliest first: {names}. Choose one "
                f"with --logits, as in --logits {ranked[0]}"
            )
    raise FinetuneError(
        "the graph has no cross-entropy, no softmax and no end that shows its logits: name them with --logits (the "
        "tensor [batch, classes] before the softmax)"
    )


def before_activation(graph: Graph, end: Ref) -> tuple[Ref, str, bool]:
    """The logits where `end` may be their softmax or sigmoids; words on what was taken off; whether they are sigmoids'.

    Logits are those of sigmoids where a sigmoid or its cross-entropy reads them, and no softmax.
    """
    node = graph.producer(graph.source(end))
    if node.op in (*_SOFTMAX, "Sigmoid"):
        return node.inputs[0], f", without its {node.op} ({node.name})", node.op == "Sigmoid"
    consumers, waiting, readers = graph.consumers(), [graph.source(end).node, end.node], dict[str, str]()
    while waiting:
        for reader in consumers[waiting.pop()]:
            if reader.name not in readers:
                readers[reader.name] = reader.op
                waiting += [reader.name] if reader.op in _RESHAPING else []
    found = set(readers.values())
    sigmoids = "Sigmoid" in found or found >= _SIGMOID_LOSS
    return end, "", sigmoids and not found & {*_LOSSES, *_SOFTMAX}


def _read_by(graph: Graph, forward: Mapping[str, Node], readers: tuple[str, ...]) -> list[Ref]:
    """The first inputs of nodes of these types that depend on weights, each once, whatever shape it is read in."""
    found: dict[Ref, Ref] = {}
    for node in forward.values():
        if node.op in readers:
            ref = _unflattened(graph, node.inputs[0])
            if _weights(graph, ref):
                found.setdefault(graph.source(ref), ref)
    return list(found.values())


def _weights(graph: Graph, ref: Ref) -> frozenset[str]:
    """The variables that a tensor depends on. Those of a tower are called like those of the first."""
    names = (name for name in graph.ancestors([ref.node], control=False) if graph.nodes[name].op in VARIABLES)
    return frozenset(_TOWER.sub("", name) for name in names)


def _unflattened(graph: Graph, ref: Ref) -> Ref:
    """Back through what TensorFlow itself puts before a loss: flattening to a computed shape, casts, new names."""
    for _ in range(len(graph.nodes)):
        node = graph.producer(ref)
        computed = node.op == "Reshape" and graph.producer(node.inputs[1]).op != "Const"
        if not (computed or node.op in ("Identity", "StopGradient", "Softmax", "LogSoftmax", "Cast")):
            break
        ref = node.inputs[0]
    return ref


def _last(graph: Graph, forward: Mapping[str, Node]) -> list[Ref]:
    """What the last layers with weights give, of those that depend on images."""
    sources = [node.name for node in graph.nodes.values() if node.op in PLACEHOLDERS or node.op.startswith(_PIPELINES)]
    images, consumers = graph.descendants(sources), graph.consumers()

    def weighted(node: Node) -> bool:
        return node.op in _LAYERS and any(graph.producer(graph.source(ref)).op in VARIABLES for ref in node.inputs)

    layers = [node for name, node in forward.items() if name in images and weighted(node)]
    followed = graph.ancestors((ref.node for node in layers for ref in node.inputs), control=False)
    found: dict[Ref, None] = {}
    for node in layers:
        if node.name in followed:
            continue
        while len(readers := [each for each in consumers[node.name] if each.name in forward]) == 1:
            if readers[0].op not in _ENDS:
                break
            node = readers[0]
        found[_unflattened(graph, Ref(node.name))] = None
    return list(found)


def find_input(graph: Graph, logits: Ref, chosen: Ref | None, layout: str | None) -> Input:
    """The tensor of images that the logits depend on: a placeholder, else what an input pipeline gives.

    FinetuneError where no tensor or several may be the images, or where their layout is not clear.
    """
    needed = graph.only([logits.node])
    if chosen is not None:
        if chosen.node not in needed.nodes:
            raise WrongUse(f"--input {chosen}: the logits {logits} do not depend on it; it takes {listed(needed)}")
        return _input(needed, chosen, layout, f"input {describe(graph.producer(chosen), chosen.output)}: as given")
    placeholders = [Ref(node.name) for node in needed.nodes.values() if node.op in PLACEHOLDERS]
    read = [ref for node in needed.nodes.values() for ref in node.inputs]
    pipelines = [*dict.fromkeys(ref for ref in read if needed.producer(ref).op.startswith(_PIPELINES))]
    usable = {ref for ref in read if _image(needed, ref)}
    for candidates, how in ((placeholders, "the placeholder"), (pipelines, "what the input pipeline gives, cut")):
        images = [ref for ref in candidates if _image(needed, ref)]
        images = [ref for ref in images if needed.producer(ref).declared_shape(ref.output)] or images
        single = len(images) == 1
        cut = behind_augmentation(needed, images, usable) if single or candidates is pipelines else None
        if cut or single:
            ref = cut or images[0]
            how = f"{how} for images on the way to the logits"
            return _input(needed, ref, layout, _how(needed, ref, how, images if cut else ()))
        if images:
            found = ", ".join(describe(needed.producer(ref), ref.output) for ref in images)
            raise FinetuneError(
                f"the graph has {len(images)} tensors that may be the images: {found}. Choose one with --input"
            )
    others = [*placeholders, *pipelines]
    if cut := behind_augmentation(needed, others, usable):
        return _input(needed, cut, layout, _how(needed, cut, "", others))
    raise FinetuneError(
        f"the graph has no tensor of images [batch, height, width, 3], [batch, 3, height, width] or [batch, pixels] "
        f"among what {logits} depends on: name it with --input; its placeholders are {listed(needed)}"
    )


def _how(graph: Graph, ref: Ref, how: str, sources: Iterable[Ref]) -> str:
    """A line that says which tensor is fed: a source of images, or what comes of `sources` behind augmentation."""
    if cut := first_of(map(str, sources), 2):
        how = f"what the network gets of {cut}, behind what splits the batch, reads files or draws random numbers, cut"
    return f"input {describe(graph.producer(ref), ref.output)}: {how}"


def _image(graph: Graph, ref: Ref) -> bool:
    """Whether a tensor can be images by its type and its number of axes, or its number of pixels. Grey images without
    an axis for the colours are so only where they come from outside: features inside a network may be as many."""
    node = graph.producer(ref)
    dtype, shape = node.data_type(ref.output), node.declared_shape(ref.output)
    if not dtype or not (tf.as_dtype(dtype).is_floating or tf.as_dtype(dtype) == tf.uint8):
        return False
    if shape is None or len(shape) == 4:
        return True
    row = _row(graph, ref, shape)
    given = node.op in PLACEHOLDERS or node.op.startswith(_PIPELINES)
    if len(shape) == 3:
        return given and row is not None
    return len(shape) == 2 and (shape[1] is None or (row is not None and (given or row[2] == 3)))


def _input(graph: Graph, ref: Ref, layout: str | None, how: str) -> Input:
    node = graph.producer(ref)
    shape, dtype = node.declared_shape(ref.output), node.data_type(ref.output) or tf.float32.as_datatype_enum
    if layout is not None and layout not in LAYOUTS:
        raise WrongUse(f"--input-layout {layout}: expected one of {', '.join(LAYOUTS)}")
    used: Layout | None = next((each for each in LAYOUTS if each == layout), None) or _layout(graph, ref, shape)
    if used is None:
        raise FinetuneError(
            f"the graph does not show the layout of the images in {describe(node, ref.output)}: give --input-layout "
            f"{'|'.join(LAYOUTS)} (CIFAR-10's own rows are flat-nchw)"
        )
    ranks = (2, 3) if used.startswith("flat") else (4,)
    if shape is not None and len(shape) not in ranks:
        raise WrongUse(f"--input-layout {used} has {ranks[0]} axes, but the input is {describe(node, ref.output)}")
    channels = shape and {"nhwc": shape[-1], "nchw": shape[1]}.get(used)
    if channels not in (None, 1, 3, 4):
        raise FinetuneError(
            f"the input {describe(node, ref.output)} takes {channels} channels, but images have 1 (grey), 3 (RGB) or 4"
        )
    row = _row(graph, ref, shape)
    return Input(ref, dtype, shape, used, f"{how}; their layout is {used}", row)


def _row(graph: Graph, ref: Ref, shape: tuple[int | None, ...] | None) -> tuple[int, int, int] | None:
    """(height, width, channels) of rows of pixels: as the graph reshapes them, else square ones; of grey images
    without an axis for the colour. None for others."""
    if shape is not None and len(shape) == 3 and shape[1] and shape[2]:
        return shape[1], shape[2], 1
    if shape is None or len(shape) != 2 or not shape[1]:
        return None
    to = _reshaped(graph, ref)
    if to is not None and to[1] * to[2] * to[3] == shape[1]:
        first, second, third = to[1:]
        return (second, third, first) if first in CHANNELS and third not in CHANNELS else (first, second, third)
    for channels in CHANNELS:
        side = round((shape[1] / channels) ** 0.5)
        if side * side * channels == shape[1]:
            return side, side, channels
    return None


def _reshaped(graph: Graph, ref: Ref) -> tuple[int, ...] | None:
    """The four axes that the first readers of a tensor give it."""
    values = Values(graph)
    for node in _readers(graph, ref):
        to = values.of(node.inputs[1]) if node.op == "Reshape" else None
        if to is not None and to.size == 4:
            return tuple(int(axis) for axis in to)
    return None


def _layout(graph: Graph, ref: Ref, shape: tuple[int | None, ...] | None) -> Layout | None:
    """The layout as the shape shows it, else as the first reshaping or convolution does; None where neither does."""
    if shape is not None and len(shape) == 4:
        first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
        if first != last:
            return "nchw" if first else "nhwc"
        if not first and shape[1] and shape[3]:
            return "nhwc"  # neither is a number of channels: the caller refuses it and names their number
    values = Values(graph)
    for node in _readers(graph, ref):
        if node.op == "Reshape" and (shape is None or len(shape) == 2):
            to = values.of(node.inputs[1])
            if to is not None and to.size == 4 and (to[1] in CHANNELS) != (to[3] in CHANNELS):
                return "flat-nchw" if to[1] in CHANNELS else "flat-nhwc"
        if node.op == "Conv2D" and (shape is None or len(shape) == 4):
            return "nchw" if node.attr["data_format"].s == b"NCHW" else "nhwc"
    row = _row(graph, ref, shape)
    return "flat-nhwc" if row is not None and row[2] == 1 else None  # one channel has one layout


def _readers(graph: Graph, ref: Ref) -> Iterable[Node]:
    """The nodes that read a tensor, also after scaling or casting it."""
    consumers, waiting, seen = graph.consumers(), [ref], {ref.node}
    while waiting:
        current = waiting.pop()
        for node in consumers[current.node]:
            if current in node.inputs and node.name not in seen:
                seen.add(node.name)
                yield node
                if node.op in _SCALINGS:
                    waiting += [Ref(node.name, 0), Ref(node.name, 1)] if node.op == "Switch" else [Ref(node.name)]
