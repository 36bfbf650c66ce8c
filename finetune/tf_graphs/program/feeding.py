"""Where a graph is fed: behind its input pipeline, its random augmentation and the split of a batch over towers.

What is cut off would change images at random, or hand the network a part of them. The pixels' scaling may be cut off
with it, so a line says where that is.
"""

from collections.abc import Iterable
from itertools import chain

import tensorflow as tf

from checkpoints.formats.operations import RANDOM, VARIABLES
from finetune.tf_graphs.program.graphdef import ALLOWED, called
from finetune.tf_graphs.program.nodes import PLACEHOLDERS, Graph, Node, Ref, Values, first_of, reached

_ARITHMETIC = ("Mul", "Sub", "Add", "AddV2", "RealDiv", "Div")


def behind_augmentation(graph: Graph, sources: Iterable[Ref], usable: Iterable[Ref]) -> Ref | None:
    """The first of `usable` tensors behind all that is random or partial in what happens to images.

    `graph` is what the logits need, `sources` where images come from. None where nothing of that kind happens to a
    single source, or where there is no such tensor.
    """
    usable, starts = set(usable), {ref.node for ref in sources}
    weighted = _weighted(graph)
    ends = {ref for name in weighted for ref in graph.nodes[name].inputs if ref in usable and ref.node not in weighted}
    before, images = _before(graph, ends, None), graph.descendants(starts)
    stops = {name for name in before if _changes(graph, graph.nodes[name], name in images)}
    if len(starts) < 2 and not stops - starts:
        return None
    for node in graph.ordered():
        for ref in (one for one in usable if one.node == node.name and node.name in before):
            known = node.declared_shape(ref.output) or ref in ends
            if known and not _before(graph, ends, ref) & (stops | starts):
                return ref
    return None


def _weighted(graph: Graph) -> set[str]:
    return graph.descendants(name for name, node in graph.nodes.items() if node.op in VARIABLES)


def _before(graph: Graph, ends: Iterable[Ref], cut: Ref | None) -> set[str]:
    """The nodes that `ends` need where the tensor `cut` is given."""
    starts = [ref.node for ref in ends if ref != cut]
    return set(reached(starts, lambda name: [ref.node for ref in graph.nodes[name].inputs if ref != cut]))


def _changes(graph: Graph, node: Node, image: bool) -> bool:
    """Whether a node draws random numbers, takes a part of a batch of images, or is none that may run."""
    functions = graph.functions
    inside = (each.op for name in called(Graph({node.name: node}, functions)) for each in functions[name].node_def)
    if any(op in RANDOM or op.startswith("Random") for op in chain([node.op], inside)):
        return True
    if not image:
        return False
    if node.op in ("Split", "SplitV"):
        return _first(graph, node.inputs[0 if node.op == "Split" else 2]) == 0
    if node.op in ("Slice", "StridedSlice"):
        kind = node.data_type()
        if not kind or not (tf.as_dtype(kind).is_floating or tf.as_dtype(kind) == tf.uint8):  # of a shape
            return False
        if node.op == "Slice":
            return (_first(graph, node.inputs[1]), _first(graph, node.inputs[2])) != (0, -1)
        return not (node.attr["begin_mask"].i & node.attr["end_mask"].i | node.attr["ellipsis_mask"].i) & 1
    return node.op not in ALLOWED and node.op not in functions


def _first(graph: Graph, ref: Ref) -> float | None:
    """The first element of a small tensor, None where it is not known."""
    node = graph.producer(graph.source(ref))
    value = Values(graph).of(node.inputs[0] if node.op == "Pack" else ref)
    return None if value is None or not value.size else float(value.reshape(-1)[0])


def scaling_line(graph: Graph, needed: Graph, images: Ref) -> str:
    """Where the pixels are scaled: between `images` and the network, or before, in what is cut off of `graph`."""
    network = needed.descendants([images.node]) - _weighted(needed) - {images.node}
    inside = [node.name for node in needed.nodes.values() if node.name in network and node.op in _ARITHMETIC]
    if inside:
        return f"the graph scales its images itself ({first_of(inside, 2)})"
    if cut := _scaled_before(graph, images.node):
        return f"pixels are scaled in what is cut off ({first_of(cut, 2)}): give the --preprocess that does the same"
    return "the graph does not scale its images: it takes them prepared"


def _scaled_before(graph: Graph, name: str) -> list[str]:
    """The arithmetic of images that a tensor comes from, but for what random numbers do."""
    nodes = {each: graph.nodes[each] for each in _fed_by(graph, name)}
    sources = [each for each, node in nodes.items() if node.op in PLACEHOLDERS or node.op not in ALLOWED]
    images = graph.descendants(sources)
    drawn = graph.descendants(each for each, node in nodes.items() if node.op in RANDOM) - images
    scaled = (node for node in nodes.values() if node.op in _ARITHMETIC and node.name in images)
    return [node.name for node in scaled if not drawn & {ref.node for ref in node.inputs}]


def _fed_by(graph: Graph, name: str) -> list[str]:
    """The nodes that a tensor comes from, through queues as well."""
    filled: dict[str, list[str]] = {}
    for node in graph.nodes.values():
        if node.op.startswith("QueueEnqueue"):
            filled.setdefault(node.inputs[0].node, []).extend(ref.node for ref in node.inputs[1:])
    return list(reached([name], lambda one: [*(ref.node for ref in graph.nodes[one].inputs), *filled.get(one, ())]))
