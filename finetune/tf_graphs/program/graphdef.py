"""Nodes out of a GraphDef, checked so far that following them cannot go wrong."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from checkpoints.formats.operations import VARIABLES
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.nodes import Graph, Node, Ref

_KINDS = {"int": "i", "float": "f", "bool": "b", "string": "s"}
"""Types of attributes in an OpDef by the field of an AttrValue that holds them; the others are called the same."""


def read_nodes(protos: Iterable[Any], functions: Mapping[str, Any], path: object) -> dict[str, Node]:
    """Nodes of a GraphDef. FinetuneError where two share a name, one reads what is not there, or too few or many."""
    nodes = {}
    for proto in protos:
        data, control = parse_inputs(proto.input)
        if proto.name in nodes:
            raise FinetuneError(f"{path} is damaged: it has two nodes called '{proto.name}'; write it again")
        nodes[proto.name] = Node(proto.name, proto.op, data, control, proto)
        require_inputs(nodes[proto.name], functions)
    for node in nodes.values():
        for needed in (*(ref.node for ref in node.inputs), *node.control):
            if needed not in nodes:
                raise FinetuneError(
                    f"{path} is damaged: its node '{node.name}' reads '{needed}', which is not there; write it again"
                )
    return nodes


def require_inputs(node: Node, functions: Mapping[str, Any]) -> None:
    """FinetuneError where a node has not as many inputs as its operation reads."""
    op_def = functions[node.op].signature if node.op in functions else op_def_registry.get(node.op)
    if op_def is None:
        return
    expected = 0
    for arg in op_def.input_arg:
        if arg.type_list_attr:
            expected += len(node.attr[arg.type_list_attr].list.type)
        else:
            expected += int(node.attr[arg.number_attr].i) if arg.number_attr else 1
    if len(node.inputs) != expected:
        raise FinetuneError(
            f"the graph is damaged: its node '{node.name}' has {len(node.inputs)} inputs, but {node.op} reads "
            f"{expected}; write it again"
        )


def require_attributes(proto: Any, where: str) -> None:
    """FinetuneError where a NodeDef inside a function lacks an attribute, or has one of another kind.

    TensorFlow looks at these of a graph's own nodes only; in a function they can end the process.
    """
    op_def = op_def_registry.get(proto.op)
    for attr in op_def.attr if op_def else ():
        held = proto.attr[attr.name].WhichOneof("value") if attr.name in proto.attr else None
        expected = "list" if attr.type.startswith("list(") else _KINDS.get(attr.type, attr.type)
        if held != expected and not (held is None and attr.HasField("default_value")):
            raise FinetuneError(
                f"the graph is damaged: its node '{where}' has no valid attribute '{attr.name}' of {proto.op}; write "
                "it again"
            )


def parse_inputs(inputs: Iterable[str]) -> tuple[tuple[Ref, ...], tuple[str, ...]]:
    """The data inputs and the control inputs of a NodeDef outside a function."""
    data, control = [], []
    for text in inputs:
        if text.startswith("^"):
            control.append(text[1:])
        else:
            data.append(parse_ref(text))
    return tuple(data), tuple(control)


def parse_ref(text: str) -> Ref:
    """`name:2`, or `name` for its first output."""
    name, colon, output = text.rpartition(":")
    return Ref(name, int(output)) if colon and output.isdigit() else Ref(text)


def to_graph_def(graph: Graph, versions: Any) -> Any:
    """A GraphDef to import: no device (a GPU that is not here), no colocation, no other hints."""
    graph_def = tf.compat.v1.GraphDef()
    graph_def.versions.CopyFrom(versions)
    for node in graph.nodes.values():
        proto = graph_def.node.add()
        proto.name, proto.op = node.name, node.op
        proto.input.extend([str(ref) for ref in node.inputs] + [f"^{name}" for name in node.control])
        for key, value in node.attr.items():
            if not key.startswith("_") or key == "_lower_using_switch_merge":
                proto.attr[key].CopyFrom(value)
        if node.op in VARIABLES:
            # Both ways through the graph, imported side by side, have one set of variables.
            proto.attr["shared_name"].s = node.name.encode()
            proto.attr["container"].s = b""
    graph_def.library.function.extend(graph.functions[name] for name in called(graph))
    return graph_def


def called(graph: Graph) -> list[str]:
    """Every function the nodes call, and those these call."""
    found: dict[str, None] = {}
    waiting = [name for node in graph.nodes.values() for name in function_names(node.op, node.attr, graph.functions)]
    while waiting:
        name = waiting.pop()
        if name not in found and name in graph.functions:
            found[name] = None
            for proto in graph.functions[name].node_def:
                waiting += function_names(proto.op, proto.attr, graph.functions)
    return list(found)


def function_names(op: str, attr: Any, functions: Mapping[str, Any]) -> Iterator[str]:
    """The functions a NodeDef names."""
    if op in functions:
        yield op
    for value in attr.values():
        if value.HasField("func"):
            yield value.func.name
        for item in value.list.func:
            yield item.name
