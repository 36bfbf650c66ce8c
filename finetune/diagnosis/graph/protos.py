"""A graph back as a GraphDef, with what it calls and nothing that is bound to another machine."""

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from checkpoints.formats.operations import VARIABLES
from finetune.tf_graphs.program.nodes import Graph


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
