"""Dropout taken out of a graph: with the training switch on it would be measured along with BatchNorm."""

from collections.abc import Iterable
from dataclasses import dataclass

from checkpoints.formats.operations import RANDOM
from finetune.tf_graphs.program.constants import constant_value
from finetune.tf_graphs.program.nodes import IMAGES, PLACEHOLDERS, Graph, Node, Ref, declared_shape

_THRESHOLDS = frozenset({"Floor", "GreaterEqual", "Greater", "Less", "LessEqual"})
_ELEMENTWISE = frozenset({"Mul", "Add", "AddV2", "Sub", "Identity", "Cast", "LogicalNot", "StopGradient"})
_SCALINGS = frozenset({"Mul", "RealDiv", "Div"})


@dataclass(frozen=True)
class Undropped:
    """A graph, the nodes where dropout was cut out of it, and the random operations that are still in it."""

    graph: Graph
    cut: tuple[str, ...]
    random: tuple[str, ...]


def without_dropout(graph: Graph, roots: Iterable[str]) -> Undropped:
    """`graph` with what goes into each dropout given on unchanged, neither masked nor scaled.

    A dropout is a product with (or a selection by) a mask that compares or floors random numbers, as every
    `tf.nn.dropout` since 0.x builds it; a mask over whole images (stochastic depth) is one as well.
    """
    consumers = graph.consumers()
    mended: dict[str, Node] = {}
    for node in graph.nodes.values():
        if node.op in RANDOM:
            for end, kept in _masked(graph, consumers, node):
                mended[end.name] = end.identity(_unscaled(graph, kept))
    graph = graph.with_nodes(mended.values())
    # The ends of cuts inside conditions of their own would do nothing any more, but for their shape.
    graph = graph.only(roots)
    random = tuple(node.name for node in graph.nodes.values() if node.op in RANDOM)
    return Undropped(graph, tuple(name for name in mended if name in graph.nodes), random)


def _masked(graph: Graph, consumers: dict[str, list[Node]], random: Node) -> list[tuple[Node, Ref]]:
    """(the node that masks, the input it masks) for each mask made of these random numbers."""
    found, seen = [], set()
    waiting = [(random.name, False)]
    noise = {random.name}
    while waiting:
        name, mask = waiting.pop()
        for reader in consumers[name]:
            if (reader.name, mask) in seen:
                continue
            seen.add((reader.name, mask))
            kept = [ref for ref in reader.inputs if ref.node not in noise]
            if mask and reader.op in ("Select", "SelectV2"):
                found.append((reader, reader.inputs[1] if not _scalar(graph, reader.inputs[1]) else reader.inputs[2]))
            elif mask and reader.op == "Mul" and len(kept) == 1 and not _scalar(graph, kept[0]):
                found.append((reader, kept[0]))
            elif reader.op in _THRESHOLDS or reader.op in _ELEMENTWISE:
                noise.add(reader.name)
                waiting.append((reader.name, mask or reader.op in _THRESHOLDS))
    return found


def _unscaled(graph: Graph, ref: Ref) -> Ref:
    """Back through a division by the share that is kept."""
    node = graph.producer(ref)
    if node.op not in _SCALINGS:
        return ref
    left, right = node.inputs
    if _scalar(graph, right):
        return left
    return right if node.op == "Mul" and _scalar(graph, left) else ref


def _scalar(graph: Graph, ref: Ref, depth: int = 0) -> bool:
    """Whether a tensor surely is a single number: constants, placeholders and their arithmetic."""
    node = graph.producer(ref)
    if node.op == "Const":
        value = constant_value(node)
        return value is not None and value.shape == ()
    if node.op in PLACEHOLDERS:
        # A share to keep is often a placeholder without a shape; what is dropped out of never is one, but the images.
        return declared_shape(node) in ((), None) and bool(node.inputs or node.name != IMAGES)
    return (
        node.op in (*_ELEMENTWISE, "RealDiv", "Div", "Reciprocal")
        and depth < 20
        and all(_scalar(graph, each, depth + 1) for each in node.inputs)
    )
