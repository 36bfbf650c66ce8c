"""Rewrite a graph that normalises by moving statistics only, so that it normalises by the batch's."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from checkpoints.formats.operations import FUSED
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.graphdef import MetaGraph, import_graph
from finetune.tf_graphs.program.nodes import Graph, Node, Ref, constant, new_node
from finetune.tf_graphs.program.sites import Entries, Site

_SCOPE = "finetune_batch"
"""In front of the names of all nodes that are added."""


def batchwise(graph: Graph, sites: Sequence[Site], meta: MetaGraph) -> Graph:
    """`graph` with mean and variance of each of `sites` (those of `find_sites` that read variables) replaced by the
    moments of what is normalised, over all axes but the channels'. Epsilon, gamma and beta stay.

    Nothing is run, but TensorFlow infers the shapes, so `graph` must have passed `graphdef.refuse`. Raises
    FinetuneError where a normalisation has a form that cannot be rewritten, or x has no known number of axes.
    """
    inferred = tf.Graph()
    with inferred.as_default():
        import_graph(graph, meta)
    for index, site in enumerate(sites):
        node, scope = graph.nodes[site.node], f"{_SCOPE}/{index}"
        if node.op in FUSED:
            graph = graph.with_nodes(_fused(node, scope))
            continue
        if site.entries is None:
            raise FinetuneError(
                f"{meta.path} normalises by the variables {site.mean} and {site.variance} in a form that is not known "
                f"(around its node '{site.node}'): its statistics cannot be replaced by those of a batch; examine the "
                ".keras file it was exported from"
            )
        moments = _moments(site.x, site.entries, inferred, scope, meta.path)
        graph = graph.with_nodes(moments)
        for (name, number), moment in zip((site.entries.mean, site.entries.variance), moments[-2:], strict=True):
            reader = graph.nodes[name]
            inputs = (*reader.inputs[:number], Ref(moment.name), *reader.inputs[number + 1 :])
            graph = graph.with_nodes([replace(reader, inputs=inputs)])
    return graph


def _fused(node: Node, scope: str) -> Iterator[Node]:
    """The fused operation in its training form, which takes no statistics."""
    proto = tf.compat.v1.NodeDef()
    proto.CopyFrom(node.proto)
    proto.attr["is_training"].b = True
    empty = constant(f"{scope}/none", np.zeros(0, np.float32))
    yield empty
    yield replace(node, proto=proto, inputs=(*node.inputs[:3], Ref(empty.name), Ref(empty.name)))


def _moments(x: Ref, entries: Entries, inferred: tf.Graph, scope: str, path: object) -> list[Node]:
    """Nodes that compute the mean and the population variance of `x`, with axes of length 1 where they average.

    These two come last. `inferred` is the graph as TensorFlow imported it, with the types and shapes of its tensors.
    """
    normalised, across = (inferred.get_tensor_by_name(str(ref)) for ref in (x, entries.across))
    name, number = entries.mean
    kind = inferred.get_operation_by_name(name).inputs[number].dtype.base_dtype
    channels = _channels_axis(normalised, across, path)
    averaged = [axis for axis in range(normalised.shape.rank) if axis != channels]
    nodes = [constant(f"{scope}/axes", np.array(averaged, np.int32))]
    axes = Ref(nodes[0].name)
    if normalised.dtype.base_dtype != kind:
        nodes.append(new_node(f"{scope}/x", "Cast", x, SrcT=normalised.dtype, DstT=kind))
        x = Ref(nodes[-1].name)
    attributes = {"T": kind, "Tidx": tf.int32, "keep_dims": True}
    mean = new_node(f"{scope}/mean", "Mean", x, axes, **attributes)
    square = new_node(f"{scope}/square", "SquaredDifference", x, Ref(mean.name), T=kind)
    variance = new_node(f"{scope}/variance", "Mean", Ref(square.name), axes, **attributes)
    return [*nodes, square, mean, variance]


def _channels_axis(x: Any, across: Any, path: object) -> int:
    """The axis of the channels of `x`: the only one on which `across` has more than one value."""
    shape = across.shape
    wide = [] if shape.rank is None else [axis - shape.rank for axis, side in enumerate(shape) if side != 1]
    if x.shape.rank is None or shape.rank is None or len(wide) > 1:
        raise FinetuneError(
            f"{path} normalises '{x.name}', whose axes the graph does not show ({x.shape} by {shape}): export the "
            "model with a fixed number of axes, or examine the .keras file it came from"
        )
    return int(x.shape.rank + (wide[0] if wide else -1))
