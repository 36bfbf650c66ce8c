"""Rewrite a graph that normalises by moving statistics only, so that it normalises by the batch's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from checkpoints.formats.operations import FUSED
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.graphdef import import_graph
from finetune.tf_graphs.program.nodes import Graph, Node, Ref, constant, new_node
from finetune.tf_graphs.program.sites import Site

_SCOPE = "finetune_batch"
"""In front of the names of all nodes that are added."""


def batchwise(graph: Graph, sites: Sequence[Site], versions: Any, path: object) -> Graph:
    """`graph` with mean and variance of each of `sites` (those of `find_sites` that read variables) replaced by the
    moments of what is normalised, over all axes but the channels'. Epsilon, gamma and beta stay.

    Nothing is run, but TensorFlow infers the shapes, so `graph` must have passed `graphdef.refuse`. Raises
    FinetuneError where a normalisation has a form that cannot be rewritten, or x has no known number of axes.
    """
    shapes = _Shapes(graph, versions, path)
    for index, site in enumerate(sites):
        node = graph.nodes[site.node]
        if node.op in FUSED:
            graph = graph.with_nodes(_fused(node, f"{_SCOPE}/{index}"))
            continue
        if site.entries is None:
            raise FinetuneError(
                f"{path} normalises by the variables {site.mean} and {site.variance} in a form that is not known "
                f"(around its node '{site.node}'): its statistics cannot be replaced by those of a batch; examine the "
                ".keras file it was exported from"
            )
        moments = _Moments.of(site, shapes, f"{_SCOPE}/{index}")
        graph = graph.with_nodes(moments.nodes)
        for (name, number), to in ((site.entries.mean, moments.mean), (site.entries.variance, moments.variance)):
            graph = graph.with_nodes([_reading(graph.nodes[name], number, to)])
    return graph


def _reading(node: Node, number: int, ref: Ref) -> Node:
    """`node` with another input of this number."""
    return replace(node, inputs=(*node.inputs[:number], ref, *node.inputs[number + 1 :]))


def _fused(node: Node, scope: str) -> Iterator[Node]:
    """The fused operation in its training form, which takes no statistics."""
    proto = tf.compat.v1.NodeDef()
    proto.CopyFrom(node.proto)
    proto.attr["is_training"].b = True
    empty = constant(f"{scope}/none", np.zeros(0, np.float32))
    yield empty
    yield replace(node, proto=proto, inputs=(*node.inputs[:3], Ref(empty.name), Ref(empty.name)))


class _Shapes:
    """Types and shapes of tensors as TensorFlow infers them."""

    def __init__(self, graph: Graph, versions: Any, path: object) -> None:
        self._path, self._tf = path, tf.Graph()
        with self._tf.as_default():
            import_graph(graph, versions, path)

    def tensor(self, ref: Ref) -> Any:
        return self._tf.get_tensor_by_name(str(ref))

    def read(self, entry: tuple[str, int]) -> Any:
        """The tensor that a node reads as its input of this number."""
        return self._tf.get_operation_by_name(entry[0]).inputs[entry[1]]

    def channels_axis(self, x: Ref, across: Ref) -> tuple[int, int]:
        """(number of axes of x, the axis of its channels: the only one on which `across` has more than one value)."""
        rank, shape = self.tensor(x).shape.rank, self.tensor(across).shape
        wide = [] if shape.rank is None else [axis - shape.rank for axis, side in enumerate(shape) if side != 1]
        if rank is None or shape.rank is None or len(wide) > 1:
            raise FinetuneError(
                f"{self._path} normalises '{x}', whose axes the graph does not show ({self.tensor(x).shape} by "
                f"{shape}): export the model with a fixed number of axes, or examine the .keras file it came from"
            )
        return rank, rank + (wide[0] if wide else -1)


@dataclass(frozen=True)
class _Moments:
    """Nodes that compute mean and population variance, with axes of length 1 where they average."""

    nodes: tuple[Node, ...]
    mean: Ref
    variance: Ref

    @classmethod
    def of(cls, site: Site, shapes: _Shapes, scope: str) -> "_Moments":
        assert site.entries is not None
        rank, channels = shapes.channels_axis(site.x, site.entries.across)
        kind, x = shapes.read(site.entries.mean).dtype.base_dtype, site.x
        axes = constant(f"{scope}/axes", np.array([axis for axis in range(rank) if axis != channels], np.int32))
        nodes = [axes]
        if shapes.tensor(x).dtype.base_dtype != kind:
            nodes.append(new_node(f"{scope}/x", "Cast", x, SrcT=shapes.tensor(x).dtype, DstT=kind))
            x = Ref(nodes[-1].name)

        def averaged(name: str, values: Ref) -> Node:
            return new_node(name, "Mean", values, Ref(axes.name), T=kind, Tidx=tf.int32, keep_dims=True)

        mean = averaged(f"{scope}/mean", x)
        square = new_node(f"{scope}/square", "SquaredDifference", x, Ref(mean.name), T=kind)
        variance = averaged(f"{scope}/variance", Ref(square.name))
        return cls((*nodes, mean, square, variance), Ref(mean.name), Ref(variance.name))
