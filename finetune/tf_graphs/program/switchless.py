"""Both modes of a graph that was written for one of them, with `is_training` a Python value.

A graph for training normalises by moments, and updates averages of them: these take the place of the moments. A graph
for tests normalises by averages: moments take their place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from checkpoints.formats.operations import FUSED
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.averages import Average, averaged, find_averages
from finetune.tf_graphs.program.fold import fold
from finetune.tf_graphs.program.graphdef import MetaGraph, import_graph, refuse
from finetune.tf_graphs.program.modes import Modes, guesses, lines_of, logits_with, require_values
from finetune.tf_graphs.program.nodes import LOGITS, Graph, Node, Ref, constant, first_of, new_node
from finetune.tf_graphs.program.sites import Entries, Site, find_sites, pair, roots_of_variables

_SCOPE = "finetune_made"
"""In front of the names of all nodes that are added."""


def modes_without_switch(meta: MetaGraph, known: Mapping[Ref, np.ndarray]) -> Modes:
    """Both modes of a graph (already `fed`) that nothing switches. FinetuneError where the other one cannot be made."""
    needed = meta.graph.only([LOGITS])
    guessed = guesses(logits_with(needed, known)[0].nodes)
    known = {**known, **guessed}
    own, cut = logits_with(needed, known)
    require_values(own)
    refuse(own, meta.path)
    sites = find_sites(own)
    by_batch, by_moving = ([site for site in sites if site.batch == batch] for batch in (True, False))
    whole = fold(meta.graph, known, meta.graph.nodes)
    if unread := roots_of_variables(own) or ([] if sites else averaged(whole)):
        raise _unknown_form(meta, f"'{unread[0]}'", "by statistics")
    averages = find_averages(whole, by_batch)
    if averages:
        used = [site for site in by_batch if site.node in averages]
        batch, moving = own, movingwise(own, used, averages, whole, meta)
        line = (
            "the graph was written for training, without a switch: is_training=False is made from it by putting "
            f"averages (the variables {first_of(averages[used[0].node], 2)} at the first) in place of the moments"
        )
    elif by_moving:
        batch, moving = batchwise(own, by_moving, meta), own
        line = (
            "the graph was written for tests, without a switch: is_training=True is made from it by putting "
            "moments of the batch in place of the averages"
        )
    elif by_batch:
        raise _no_averages(meta, by_batch)
    else:
        return Modes(own, own, (), known, ("the graph has no BatchNorm on the way to its logits",))
    switched = pair(find_sites(batch), find_sites(moving))
    return Modes(batch, moving, switched.layers, known, (line, *lines_of(guessed, needed.nodes, switched, batch, cut)))


def _no_averages(meta: MetaGraph, by_batch: Sequence[Site]) -> FinetuneError:
    """The error for a graph of which only one mode can be made."""
    return FinetuneError(
        f"{meta.path} has no training switch, and normalises by the moments of a batch alone (the first at node "
        f"'{by_batch[0].node}'): nothing in it assigns an average of them to a variable, so is_training=False cannot "
        "be made from it. Give the graph that was written for tests, with this checkpoint: --meta-graph TEST.meta "
        "--checkpoint PREFIX; or name the tensor that switches with --is-training"
    )


def movingwise(
    graph: Graph, sites: Sequence[Site], averages: Mapping[str, Average], whole: Graph, meta: MetaGraph
) -> Graph:
    """`graph` with the moments at each of `sites` replaced by the variables that `averages` gives for them.

    The variables come from `whole`. Nothing is run, but TensorFlow infers the shapes, so `graph` must have passed
    `graphdef.refuse`. FinetuneError where moments are still read afterwards, as batch renormalisation does.
    """
    inferred = tf.Graph()
    with inferred.as_default():
        import_graph(graph, meta)
    for index, site in enumerate(sites):
        variables = [whole.nodes[name] for name in averages[site.node]]
        graph = graph.with_nodes(variables)
        node, scope = graph.nodes[site.node], f"{_SCOPE}/{index}"
        if node.op in FUSED:
            graph = graph.with_nodes(_fused_moving(node, variables, scope))
        elif site.entries is not None:
            for (name, number), variable in zip((site.entries.mean, site.entries.variance), variables, strict=True):
                wanted = inferred.get_operation_by_name(name).inputs[number]
                added = _as_moment(variable, wanted, f"{scope}/{number}/{name}")
                reader = graph.nodes[name]
                inputs = (*reader.inputs[:number], Ref(added[-1].name), *reader.inputs[number + 1 :])
                graph = graph.with_nodes([*added, replace(reader, inputs=inputs)])
    graph = graph.only([LOGITS])
    _require_replaced(graph, sites, averages, meta)
    return graph


def _fused_moving(node: Node, variables: Sequence[Node], scope: str) -> list[Node]:
    """The fused operation in the form for tests, and what reads its statistics."""
    proto = tf.compat.v1.NodeDef()
    proto.CopyFrom(node.proto)
    proto.attr["is_training"].b = False
    reads = [_read(variable, f"{scope}/{number}") for number, variable in enumerate(variables)]
    return [*reads, replace(node, proto=proto, inputs=(*node.inputs[:3], *(Ref(read.name) for read in reads)))]


def _read(variable: Node, name: str) -> Node:
    kind = variable.attr["dtype"].type
    if variable.op == "VarHandleOp":
        return new_node(name, "ReadVariableOp", Ref(variable.name), dtype=kind)
    return new_node(name, "Identity", Ref(variable.name), T=kind)


def _as_moment(variable: Node, wanted: tf.Tensor, scope: str) -> list[Node]:
    """Nodes that read a variable in the type and the shape of the moment it replaces. The last one gives it."""
    nodes = [_read(variable, f"{scope}/read")]
    kind, dtype = tf.as_dtype(variable.attr["dtype"].type), wanted.dtype.base_dtype
    if kind != dtype:
        nodes.append(new_node(f"{scope}/cast", "Cast", Ref(nodes[-1].name), SrcT=kind, DstT=dtype))
    shape = wanted.shape.as_list() if wanted.shape.rank and wanted.shape.rank > 1 else []
    if shape:  # channels are on the last axis that may be longer than 1
        channels = max((axis for axis, side in enumerate(shape) if side != 1), default=len(shape) - 1)
        sides = constant(
            f"{scope}/shape", np.array([-1 if axis == channels else 1 for axis in range(len(shape))], np.int32)
        )
        attributes = {"T": dtype, "Tshape": tf.int32}
        nodes += [sides, new_node(f"{scope}/shaped", "Reshape", Ref(nodes[-1].name), Ref(sides.name), **attributes)]
    return nodes


def _require_replaced(graph: Graph, sites: Sequence[Site], averages: Mapping[str, Average], meta: MetaGraph) -> None:
    """FinetuneError where a site does not normalise by its averages, or where moments of the batch are still read."""
    found = {site.node: (site.mean, site.variance) for site in find_sites(graph)}
    moments = {(site.node, output) for site in sites for output in (1, 2) if graph.nodes[site.node].op in FUSED}
    read = {tuple(ref) for node in graph.nodes.values() for ref in node.inputs}
    for site in sites:
        if found.get(site.node) != tuple(averages[site.node]) or read & moments:
            raise _unknown_form(meta, f"its node '{site.node}', as with renorm", "by the moments of a batch")


def _unknown_form(meta: MetaGraph, where: str, by: str) -> FinetuneError:
    """The error for a graph whose other mode cannot be made, though it has BatchNorm."""
    return FinetuneError(
        f"{meta.path} has no training switch, and normalises {by} in a form that is not known (around {where}): its "
        "other mode cannot be made from it. Write the graph with is_training a placeholder "
        "(tf.compat.v1.placeholder_with_default(False, []))"
    )


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
            graph = graph.with_nodes(_fused_batch(node, scope))
            continue
        if site.entries is None:
            raise FinetuneError(
                f"{meta.path} normalises by the variables {site.mean} and {site.variance} in a form that is not known "
                f"(around its node '{site.node}'): its statistics cannot be replaced by those of a batch; examine the "
                "graph for training, or the .keras file it was exported from"
            )
        moments = _moments(site.x, site.entries, inferred, scope, meta.path)
        graph = graph.with_nodes(moments)
        for (name, number), moment in zip((site.entries.mean, site.entries.variance), moments[-2:], strict=True):
            reader = graph.nodes[name]
            inputs = (*reader.inputs[:number], Ref(moment.name), *reader.inputs[number + 1 :])
            graph = graph.with_nodes([replace(reader, inputs=inputs)])
    return graph


def _fused_batch(node: Node, scope: str) -> Iterator[Node]:
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
