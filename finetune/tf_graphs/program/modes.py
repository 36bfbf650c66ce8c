"""The two ways through a graph, by batch and by moving statistics, and the switch that chooses between them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from checkpoints.formats.operations import FUSED
from finetune.errors import FinetuneError, WrongUse
from finetune.tf_graphs.program.allowed import allowed
from finetune.tf_graphs.program.bn_layers import NormLayer, pair
from finetune.tf_graphs.program.dropout import Undropped, without_dropout
from finetune.tf_graphs.program.fold import fold
from finetune.tf_graphs.program.nodes import (
    IMAGES,
    LOGITS,
    PLACEHOLDERS,
    Graph,
    Node,
    Ref,
    data_type,
    declared_shape,
    placeholder,
)
from finetune.tf_graphs.program.roles import Input, describe, listed
from finetune.tf_graphs.program.sites import find_sites

_KEEP = re.compile(r"keep", re.IGNORECASE)
_DROP = re.compile(r"drop", re.IGNORECASE)
_SHOWN = 4


@dataclass(frozen=True)
class Ways:
    """batch, moving: the graph folded by either value of the switch, without dropout.

    `training` is the switch's value under which the batch's statistics normalise.
    """

    batch: Undropped
    moving: Undropped
    paired: NormLayer
    switch: Ref
    training: np.ndarray
    known: Mapping[Ref, np.ndarray]
    lines: tuple[str, ...]


def fed(graph: Graph, images: Input, logits: Ref) -> Graph:
    """`graph` with a placeholder of ours for the images, wherever they came from, and a node of ours for `logits`."""
    own = placeholder(IMAGES, images.dtype, images.shape)
    end = replace(graph.producer(logits), name=LOGITS).identity(logits)
    return graph.with_nodes([own, end]).rewired({images.ref: Ref(IMAGES)})


def find_ways(graph: Graph, switch: Ref | None, known: Mapping[Ref, np.ndarray]) -> Ways:
    """Both ways to the logits of `graph` (already `fed`), by `switch` or by the one placeholder that switches.

    Raises FinetuneError where there is no BatchNorm, no switch, or more than one; or a placeholder that has no value.
    """
    needed = graph.only([LOGITS])
    if switch is not None:
        if switch.node not in needed.nodes:
            raise WrongUse(f"--is-training {switch}: the logits do not depend on it; they take {listed(needed)}")
        ways = _by(needed, switch, known, "as given")
        if ways is None:
            _require_batchnorm(needed, known)
            raise FinetuneError(
                f"--is-training {switch} switches no BatchNorm between batch and moving statistics; the logits "
                f"take {listed(needed)}"
            )
        return ways
    found = [ways for ref in _switches(needed, known) if (ways := _by(needed, ref, known, "found"))]
    if len(found) > 1:
        names = ", ".join(str(ways.switch) for ways in found)
        raise FinetuneError(
            f"several placeholders switch BatchNorm: {names}. Choose one by --is-training, feed the others"
        )
    if not found:
        _require_batchnorm(needed, known)
        raise FinetuneError(
            "the graph has no training switch: no placeholder on the way to the logits changes BatchNorm from batch to "
            f"moving statistics (its placeholders are {listed(graph)}). Name another tensor by --is-training, or "
            "write the graph with is_training a placeholder (tf.compat.v1.placeholder_with_default(False, []))"
        )
    return found[0]


def _switches(graph: Graph, known: Mapping[Ref, np.ndarray]) -> list[Ref]:
    """Scalar placeholders that can say yes or no, those of type bool first."""
    scalars = [
        node
        for node in graph.nodes.values()
        if node.op in PLACEHOLDERS and declared_shape(node) in ((), None) and Ref(node.name) not in known
    ]
    kinds: dict[bool, list[Ref]] = {True: [], False: []}
    for node in scalars:
        dtype = tf.as_dtype(data_type(node) or tf.string)
        if dtype.is_bool or ((dtype.is_integer or dtype.is_floating) and declared_shape(node) == ()):
            kinds[dtype.is_bool].append(Ref(node.name))
    return kinds[True] + kinds[False]


def _by(graph: Graph, switch: Ref, known: Mapping[Ref, np.ndarray], how: str) -> Ways | None:
    """The ways by one tensor, None where it switches nothing."""
    dtype = tf.as_dtype(data_type(graph.producer(switch)) or tf.bool).as_numpy_dtype
    yes, no = np.asarray(True, dtype), np.asarray(False, dtype)
    with_yes, with_no = (way(graph, {**known, switch: value}) for value in (yes, no))
    guessed, said = _guesses({**with_yes.graph.nodes, **with_no.graph.nodes})
    if guessed:
        with_yes, with_no = (way(graph, {**known, **guessed, switch: value}) for value in (yes, no))
    for batch, moving, training in ((with_yes, with_no, yes), (with_no, with_yes, no)):
        paired = pair(find_sites(batch.graph), find_sites(moving.graph))
        if paired.layers:
            _require_values(batch.graph, moving.graph)
            means = "True" if training else "False"
            lines = [f"training switch {describe(graph.producer(switch))}: {how}; {means} is batch statistics"]
            lines += said
            lines += _lines(paired, batch)
            return Ways(batch, moving, paired, switch, training, {**known, **guessed}, tuple(lines))
    return None


def way(graph: Graph, known: Mapping[Ref, np.ndarray]) -> Undropped:
    """What is run for the logits when the tensors of `known` have these values."""
    folded = fold(graph, known, [LOGITS])
    return without_dropout(computing(folded).only([LOGITS]), [LOGITS])


def computing(graph: Graph) -> Graph:
    """`graph` with nothing that only happens beside the computation: updates of averages, checks, printing.

    A node that waits for another one is left waiting only where a condition or a loop is still in the graph: there
    it is how TensorFlow knows that a branch is not taken.
    """
    conditions = any(node.op in ("Switch", "RefSwitch", "Enter", "RefEnter") for node in graph.nodes.values())
    kept = {name for name, node in graph.nodes.items() if conditions and node.op != "NoOp" and allowed(node.op)}
    nodes = {
        name: Node(name, node.op, node.inputs, tuple(each for each in node.control if each in kept), node.proto)
        for name, node in graph.nodes.items()
    }
    return Graph(nodes, graph.functions)


def _guesses(nodes: Mapping[str, Node]) -> tuple[dict[Ref, np.ndarray], list[str]]:
    """Values of what turns dropout on, with a line for each: the share kept is 1, the share dropped 0, a switch off."""
    guessed, said = {}, []
    for node in nodes.values():
        if node.op not in PLACEHOLDERS or node.name == IMAGES or declared_shape(node) not in ((), None):
            continue
        dtype = tf.as_dtype(data_type(node) or tf.string)
        value: object = None
        if dtype.is_bool and node.op != "PlaceholderWithDefault":
            value = False
        elif dtype.is_floating and (_KEEP.search(node.name) or _DROP.search(node.name)):
            value = 1.0 if _KEEP.search(node.name) else 0.0
        if value is not None:
            guessed[Ref(node.name)] = np.asarray(value, dtype.as_numpy_dtype)
            said.append(f"{describe(node)} = {value}: guessed; --feed {node.name}=VALUE says otherwise")
    return guessed, said


def _require_values(*graphs: Graph) -> None:
    missing = {
        node.name: node
        for graph in graphs
        for node in graph.nodes.values()
        if node.op in ("Placeholder", "PlaceholderV2") and node.name != IMAGES
    }
    if missing:
        names = ", ".join(describe(node) for node in list(missing.values())[:_SHOWN])
        raise FinetuneError(
            f"the logits depend on {names} as well: give it a value by --feed {next(iter(missing))}=VALUE"
        )


def _require_batchnorm(graph: Graph, known: Mapping[Ref, np.ndarray]) -> None:
    """FinetuneError where there is no normalisation at all."""
    names = {node.op for node in graph.nodes.values()}
    for function in graph.functions.values():
        names |= {proto.op for proto in function.node_def}
    sites = find_sites(way(graph, known).graph)
    if not sites and not names & FUSED:
        raise FinetuneError(
            "the graph has no BatchNorm on the way to its logits: there is nothing for diagnose-bn to examine"
        )


def _lines(paired: NormLayer, batch: Undropped) -> list[str]:
    lines = []
    if batch.cut:
        lines.append(f"dropout off in both modes: cut at {', '.join(_first(batch.cut))}")
    if batch.random:
        lines.append(
            f"still random with the switch on, which makes its figures vary: {', '.join(_first(batch.random))}"
        )
    for nodes, always in ((paired.always_batch, "batch"), (paired.always_moving, "moving")):
        if nodes:
            many = f"{len(nodes)} BN layers use" if len(nodes) > 1 else "1 BN layer uses"
            lines.append(f"{many} {always} statistics whatever the switch says: {', '.join(_first(nodes))}")
    return lines


def _first(names: tuple[str, ...]) -> list[str]:
    return [*names[:_SHOWN], *([f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])]
