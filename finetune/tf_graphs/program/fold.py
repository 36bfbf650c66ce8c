"""One way through a graph: what is known beforehand (the training switch) decides conditions, and the rest goes.

Afterwards `tf.cond` in both its forms (Switch and Merge, If), calls and `tf.where` are gone wherever their condition
follows from what is known, so that what is left can be read like straight-line code.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from tensorflow.python.framework import op_def_registry

from finetune.errors import FinetuneError
from finetune.tf_graphs.program.constants import SWITCHES, Values
from finetune.tf_graphs.program.graphdef import function_names, require_inputs
from finetune.tf_graphs.program.nodes import Graph, Node, Ref, constant

_MOST_NODES = 300_000
"""A training graph of ResNet-152 has a fifth of that."""
_INSIDE = ".body/"  # between a caller's name and its nodes': nothing else is called so
_IFS = ("If", "StatelessIf")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_MERGES = ("Merge", "RefMerge")


def fold(graph: Graph, known: Mapping[Ref, np.ndarray], roots: Iterable[str]) -> Graph:
    """The part of `graph` that `roots` need when the tensors of `known` have these values.

    Nodes of conditional branches that are taken keep their names (those of functions get their caller's in front).
    Raises FinetuneError where the graph calls itself without end.
    """
    roots = list(roots)
    kept = {ref: Ref(f"finetune_known/{index}") for index, ref in enumerate(known)}
    constants = [constant(kept[ref].node, np.asarray(value)) for ref, value in known.items()]
    graph = graph.with_nodes(constants).rewired(kept).only(roots)
    _require_size(graph)
    graph = _inlined(graph)
    graph = _straightened(graph.only(name for name in roots if name in graph.nodes))
    return graph.only(name for name in roots if name in graph.nodes)


def _require_size(graph: Graph) -> None:
    """FinetuneError where the functions, put in place of their calls, would never end or fill the memory."""
    functions = graph.functions
    calls = {
        name: [each for proto in function.node_def for each in function_names(proto.op, proto.attr, functions)]
        for name, function in functions.items()
    }
    try:
        order = [name for name in TopologicalSorter(calls).static_order() if name in functions]
    except CycleError as error:
        raise FinetuneError(
            f"the graph's function {error.args[1][0]} calls itself: it is damaged, or made to harm"
        ) from None
    sizes: dict[str, int] = {}
    for name in order:
        sizes[name] = len(functions[name].node_def) + sum(sizes.get(each, 0) for each in calls[name])
    called = [each for node in graph.nodes.values() for each in function_names(node.op, node.attr, functions)]
    if len(graph.nodes) + sum(sizes.get(name, 0) for name in called) > _MOST_NODES:
        raise FinetuneError(
            f"the graph has more than {_MOST_NODES:,} nodes, counting what its functions call: it is damaged, or made "
            "to harm"
        )


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
        require_inputs(nodes[-1], functions)
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
        elif node.op in SWITCHES:
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
