"""One way through a graph: what is known beforehand (the training switch) decides conditions, and the rest goes.

Afterwards `tf.cond` in both its forms (Switch and Merge, If), calls and `tf.where` are gone wherever their condition
follows from what is known, so that what is left can be read like straight-line code.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from finetune.diagnosis.graph.nodes import Graph, Node, Ref, constant
from finetune.errors import FinetuneError

_MOST_NODES = 1_000_000
_MOST_VALUES = 64
_INSIDE = ".body/"  # between a caller's name and its nodes': nothing else is called so
_IFS = ("If", "StatelessIf")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_SWITCHES, _MERGES = ("Switch", "RefSwitch"), ("Merge", "RefMerge")

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "LogicalNot": np.logical_not,
    "LogicalAnd": np.logical_and,
    "LogicalOr": np.logical_or,
    "Equal": np.equal,
    "NotEqual": np.not_equal,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Add": np.add,
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "RealDiv": np.true_divide,
    "Neg": np.negative,
    "Squeeze": np.squeeze,
}


class Values:
    """What small tensors of a graph are, where that follows from its constants alone."""

    def __init__(self, graph: Graph) -> None:
        self._nodes = graph.nodes
        self._seen: dict[Ref, np.ndarray | None] = {}

    def of(self, ref: Ref, depth: int = 0) -> np.ndarray | None:
        """The value, or None where it is not known (or larger than a condition or a list of axes)."""
        if ref not in self._seen:
            self._seen[ref] = None  # a loop knows nothing of itself
            self._seen[ref] = self._work_out(self._nodes[ref.node], ref, depth) if depth < 100 else None
        return self._seen[ref]

    def _work_out(self, node: Node, ref: Ref, depth: int) -> np.ndarray | None:
        if node.op == "Const":
            return constant_value(node)
        if node.op in ("Identity", "StopGradient", *_SWITCHES):
            return self.of(node.inputs[0], depth + 1)
        if node.op == "Cast":
            value = self.of(node.inputs[0], depth + 1)
            dtype = tf.as_dtype(node.attr["DstT"].type).as_numpy_dtype
            return None if value is None else value.astype(dtype)
        if node.op not in _ARITHMETIC:
            return None
        inputs = [self.of(each, depth + 1) for each in node.inputs]
        if node.op in ("LogicalAnd", "LogicalOr"):  # one side may be enough
            decisive = np.asarray(node.op == "LogicalOr")
            if any(value is not None and value.shape == () and value == decisive for value in inputs):
                return decisive
        if any(value is None for value in inputs):
            return None
        with np.errstate(all="ignore"):
            return np.asarray(_ARITHMETIC[node.op](*inputs))


def constant_value(node: Node, most: int = _MOST_VALUES) -> np.ndarray | None:
    """What a Const holds, if it is numbers and few of them."""
    proto = node.attr["value"].tensor
    dtype = tf.as_dtype(proto.dtype) if proto.dtype else tf.string
    count = int(np.prod([float(dim.size) for dim in proto.tensor_shape.dim]))
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool) or not 0 <= count <= most:
        return None
    try:
        return np.asarray(tf.make_ndarray(proto))
    except (ValueError, TypeError):
        return None


def fold(graph: Graph, known: Mapping[Ref, np.ndarray], roots: Iterable[str]) -> Graph:
    """The part of `graph` that `roots` need when the tensors of `known` have these values.

    Nodes of conditional branches that are taken keep their names (those of functions get their caller's in front).
    Raises FinetuneError where the graph calls itself without end.
    """
    roots = list(roots)
    kept = {ref: Ref(f"finetune_known/{index}") for index, ref in enumerate(known)}
    constants = [constant(kept[ref].node, np.asarray(value)) for ref, value in known.items()]
    graph = graph.with_nodes(constants).rewired(kept).only(roots)
    graph = _inlined(graph)
    graph = _straightened(graph.only(name for name in roots if name in graph.nodes))
    return graph.only(name for name in roots if name in graph.nodes)


def _inlined(graph: Graph) -> Graph:
    """Calls, and the branch of every If whose condition is known, put in place."""
    while True:
        values = Values(graph)
        chosen = {node.name: name for node in graph.nodes.values() if (name := _body(node, values, graph.functions))}
        if not chosen:
            return graph
        outputs: dict[Ref, Ref] = {}
        waits: dict[str, tuple[str, ...]] = {}
        nodes = {}
        for node in graph.nodes.values():
            if node.name not in chosen:
                nodes[node.name] = node
                continue
            arguments = node.inputs[1:] if node.op in _IFS else node.inputs
            body, returned, ends = _instance(node, graph.functions[chosen[node.name]], arguments, graph.functions)
            nodes.update({each.name: each for each in body})
            outputs.update({Ref(node.name, index): ref for index, ref in enumerate(returned)})
            waits[node.name] = ends
        if len(nodes) > _MOST_NODES:
            raise FinetuneError("the graph's functions call one another without end: it is damaged, or made to harm")
        graph = Graph({name: _reconnected(node, outputs, waits) for name, node in nodes.items()}, graph.functions)


def _body(node: Node, values: Values, functions: Mapping[str, Any]) -> str | None:
    """The function that a node stands for."""
    name = None
    if node.op in _IFS:
        decided = _truth(values.of(node.inputs[0]))
        name = None if decided is None else node.attr["then_branch" if decided else "else_branch"].func.name
    elif node.op in _CALLS:
        name = node.attr["f"].func.name
    elif node.op in functions:
        name = node.op
    return name if name in functions else None


def _instance(
    caller: Node, function: Any, arguments: tuple[Ref, ...], functions: Mapping[str, Any]
) -> tuple[list[Node], list[Ref], tuple[str, ...]]:
    """A function's nodes under its caller's name, what it returns, and what must have run when it has."""
    given = dict(zip((arg.name for arg in function.signature.input_arg), arguments, strict=False))
    offsets = {proto.name: _offsets(proto, functions) for proto in function.node_def}

    def ref(text: str) -> Ref:
        name, _, rest = text.partition(":")
        argument: Ref | None = given.get(name)
        if argument is not None:
            return argument
        output, _, index = rest.partition(":")
        try:
            return Ref(f"{caller.name}{_INSIDE}{name}", offsets[name][output] + int(index or 0))
        except (KeyError, ValueError):
            raise FinetuneError(
                f"the function {function.signature.name} of the graph reads '{text}', which is not there: "
                "the file is damaged; write it again"
            ) from None

    nodes = []
    for proto in function.node_def:
        inputs = tuple(ref(text) for text in proto.input if not text.startswith("^"))
        waits = tuple(f"{caller.name}{_INSIDE}{text[1:]}" for text in proto.input if text.startswith("^"))
        nodes.append(Node(f"{caller.name}{_INSIDE}{proto.name}", proto.op, inputs, waits + caller.control, proto))
    returned = [ref(function.ret[arg.name]) for arg in function.signature.output_arg]
    ends = tuple(f"{caller.name}{_INSIDE}{name}" for name in function.control_ret.values())
    return nodes, returned, ends + tuple(each.node for each in returned)


def _offsets(proto: Any, functions: Mapping[str, Any]) -> dict[str, int]:
    """Name of an output of an operation -> the number of its first tensor."""
    op_def = functions[proto.op].signature if proto.op in functions else op_def_registry.get(proto.op)
    offsets, count = {}, 0
    for arg in op_def.output_arg if op_def else ():
        offsets[arg.name] = count
        if arg.type_list_attr:
            count += len(proto.attr[arg.type_list_attr].list.type)
        else:
            count += int(proto.attr[arg.number_attr].i) if arg.number_attr else 1
    return offsets


def _reconnected(node: Node, outputs: Mapping[Ref, Ref], waits: Mapping[str, tuple[str, ...]]) -> Node:
    def resolved(ref: Ref) -> Ref:
        for _ in range(len(outputs) + 1):
            if ref not in outputs:
                break
            ref = outputs[ref]
        return ref

    control: list[str] = list(node.control)
    while any(name in waits for name in control):
        control = [each for name in control for each in waits.get(name, (name,))]
    return replace(node, inputs=tuple(map(resolved, node.inputs)), control=tuple(dict.fromkeys(control)))


def _straightened(graph: Graph) -> Graph:
    """Switch, Merge and Select gone where it is known which way they go."""
    values = Values(graph)
    dead: set[Ref] = set()
    asleep: set[str] = set()
    aliases: dict[Ref, Ref] = {}
    nodes = dict(graph.nodes)
    for node in graph.ordered():
        if node.op in _MERGES:
            forward = [ref for ref in node.inputs if graph.producer(ref).op != "NextIteration"]
            alive = [ref for ref in forward if ref not in dead and ref.node not in asleep]
            if not alive:
                asleep.add(node.name)
            elif len(alive) == 1 and len(forward) == len(node.inputs):
                nodes[node.name] = node.identity(alive[0])
            continue
        if any(ref in dead or ref.node in asleep for ref in node.inputs) or any(w in asleep for w in node.control):
            asleep.add(node.name)
        elif node.op in _SWITCHES:
            decided = _truth(values.of(node.inputs[1]))
            if decided is not None:
                dead.add(Ref(node.name, 0 if decided else 1))
                aliases[Ref(node.name, 1 if decided else 0)] = node.inputs[0]
        elif node.op in ("Select", "SelectV2"):
            decided = _truth(values.of(node.inputs[0]))
            taken = None if decided is None else node.inputs[1 if decided else 2]
            if taken is not None and graph.producer(taken).op != "Const":  # a constant may be spread over the shape
                nodes[node.name] = node.identity(taken)
    nodes = {name: node for name, node in nodes.items() if name not in asleep}
    return _without_switches(Graph(nodes, graph.functions), aliases)


def _without_switches(graph: Graph, aliases: Mapping[Ref, Ref]) -> Graph:
    def resolved(ref: Ref) -> Ref:
        while ref in aliases:
            ref = aliases[ref]
        return ref

    passed = {ref.node: resolved(ref).node for ref in aliases}
    nodes = {}
    for node in graph.nodes.values():
        control = tuple(dict.fromkeys(passed.get(name, name) for name in node.control))
        nodes[node.name] = replace(node, inputs=tuple(map(resolved, node.inputs)), control=control)
    return Graph(nodes, graph.functions)


def _truth(value: np.ndarray | None) -> bool | None:
    return bool(value) if value is not None and value.size == 1 else None
