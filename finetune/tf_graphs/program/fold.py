"""A graph for known values of some tensors, such as the training switch: they decide its conditions.

`tf.cond` in both its forms (Switch and Merge, If), calls and `tf.where` are removed wherever their condition follows
from the known values. The nodes that remain can be read like straight-line code.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np

from finetune.errors import FinetuneError
from finetune.tf_graphs.program.graphdef import function_names, op_signature, require_inputs, tensors
from finetune.tf_graphs.program.nodes import SWITCHES, Graph, Node, Ref, Values, constant, damaged

_MOST_NODES = 300_000
"""A training graph of ResNet-152 has a fifth of that."""
INSIDE = ".body/"
"""Between the name of a call and those of its function's nodes. No other node has it in its name."""
_IFS = ("If", "StatelessIf")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_MERGES = ("Merge", "RefMerge")


def fold(graph: Graph, known: Mapping[Ref, np.ndarray], roots: Iterable[str]) -> Graph:
    """The part of `graph` that `roots` need when the tensors of `known` have these values.

    Nodes of conditional branches that are taken keep their names. Nodes of functions get the caller's name in front.
    Raises FinetuneError where the graph calls itself without end.
    """
    roots = list(roots)
    kept = {ref: Ref(f"finetune_known/{index}") for index, ref in enumerate(known)}
    constants = [constant(kept[ref].node, np.asarray(value)) for ref, value in known.items()]
    graph = graph.with_nodes(constants).rewired(kept).only(roots)
    _require_size(graph)
    for step in (_inlined, _read, _straightened):
        graph = step(graph)
        graph = graph.only(name for name in roots if name in graph.nodes)
    return graph


def _read(graph: Graph) -> Graph:
    """What reads a variable whose value is known passes that on."""
    reads = (node for node in graph.nodes.values() if node.op == "ReadVariableOp")
    return graph.with_nodes(
        [node.identity(ref) for node in reads if graph.producer(ref := graph.source(node.inputs[0])).op == "Const"]
    )


def _require_size(graph: Graph) -> None:
    """FinetuneError where the functions, put in place of their calls, would never end or fill the memory."""
    functions = graph.functions
    calls = {name: [*function_names(function.node_def, functions)] for name, function in functions.items()}
    sizes: dict[str, int] = {}
    try:
        for name in TopologicalSorter(calls).static_order():
            sizes[name] = len(functions[name].node_def) + sum(sizes[each] for each in calls[name])
    except CycleError as error:
        raise FinetuneError(
            f"the graph's function {error.args[1][0]} calls itself: it is damaged, or made to harm"
        ) from None
    called = function_names(graph.nodes.values(), functions)
    if len(graph.nodes) + sum(sizes[name] for name in called) > _MOST_NODES:
        raise FinetuneError(
            f"the graph has more than {_MOST_NODES:,} nodes, counting what its functions call: it is damaged, or made "
            "to harm"
        )


def _inlined(graph: Graph) -> Graph:
    """Calls, and the branch of every If whose condition is known, replaced by the nodes of their functions."""
    while True:
        values = Values(graph)
        chosen = {node.name: name for node in graph.nodes.values() if (name := _body(node, values, graph.functions))}
        if not chosen:
            return graph
        outputs: dict[Ref, Ref] = {}
        ends: dict[str, tuple[str, ...]] = {}
        nodes = {}
        for node in graph.nodes.values():
            if node.name not in chosen:
                nodes[node.name] = node
                continue
            body, returned, ends[node.name] = _instance(node, graph.functions[chosen[node.name]], graph.functions)
            nodes.update({each.name: each for each in body})
            outputs.update({Ref(node.name, index): ref for index, ref in enumerate(returned)})
        waiting = {name: replace(node, control=_expanded(node.control, ends)) for name, node in nodes.items()}
        graph = Graph(waiting, graph.functions).rewired(outputs)


def _expanded(control: tuple[str, ...], ends: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Control inputs that wait for the last nodes of a function in place of the call."""
    while any(name in ends for name in control):
        control = tuple(each for name in control for each in ends.get(name, (name,)))
    return tuple(dict.fromkeys(control))


def _body(node: Node, values: Values, functions: Mapping[str, Any]) -> str | None:
    """The function of the file that a node calls, None where it calls none or the branch is not known."""
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
    caller: Node, function: Any, functions: Mapping[str, Any]
) -> tuple[list[Node], list[Ref], tuple[str, ...]]:
    """A function's nodes under its caller's name, what it returns, and the nodes that have run once it has."""
    arguments = caller.inputs[1:] if caller.op in _IFS else caller.inputs
    given = dict(zip((arg.name for arg in function.signature.input_arg), arguments, strict=False))
    offsets = {proto.name: _offsets(proto, functions) for proto in function.node_def}

    def ref(text: str) -> Ref:
        name, _, rest = text.partition(":")
        argument: Ref | None = given.get(name)
        if argument is not None:
            return argument
        output, _, index = rest.partition(":")
        try:
            return Ref(f"{caller.name}{INSIDE}{name}", offsets[name][output] + int(index or 0))
        except (KeyError, ValueError):
            raise damaged(f"its function {function.signature.name} reads '{text}', which is not there") from None

    nodes = []
    for proto in function.node_def:
        inputs = tuple(ref(text) for text in proto.input if not text.startswith("^"))
        control = tuple(f"{caller.name}{INSIDE}{text[1:]}" for text in proto.input if text.startswith("^"))
        nodes.append(Node(f"{caller.name}{INSIDE}{proto.name}", proto.op, inputs, control + caller.control, proto))
        require_inputs(nodes[-1], functions)
    returned = [ref(function.ret[arg.name]) for arg in function.signature.output_arg]
    ends = tuple(f"{caller.name}{INSIDE}{name}" for name in function.control_ret.values())
    return nodes, returned, ends + tuple(each.node for each in returned)


def _offsets(proto: Any, functions: Mapping[str, Any]) -> dict[str, int]:
    """Name of an output of an operation -> the number of its first tensor."""
    op_def = op_signature(proto.op, functions)
    offsets, count = {}, 0
    for arg in op_def.output_arg if op_def else ():
        offsets[arg.name] = count
        count += tensors(arg, proto.attr)
    return offsets


def _straightened(graph: Graph) -> Graph:
    """Switch, Merge and Select removed where their condition is known."""
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
    return Graph(nodes, graph.functions).rewired(aliases)


def _truth(value: np.ndarray | None) -> bool | None:
    """The value of a condition, None where it is not known."""
    return bool(value) if value is not None and value.size == 1 else None
