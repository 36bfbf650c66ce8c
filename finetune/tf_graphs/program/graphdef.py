"""From a GraphDef to nodes and back, and which of its operations may run.

Nodes are checked so far that following their inputs cannot fail. A graph in a file is a program of somebody else's: it
can hold operations that read and write files, call Python or open connections. So only the part of it that is run is
given to TensorFlow, without its input pipeline and its own save and restore operations, and only if every operation of
that part computes and does nothing else.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from checkpoints.formats.operations import ASSIGNMENTS, COMPUTING, FUSED, RANDOM, VARIABLES, reason
from finetune.errors import FinetuneError
from finetune.text import first_line
from finetune.tf_graphs.program.nodes import Graph, Node, Ref, damaged, reached

ALLOWED = COMPUTING | RANDOM | FUSED | VARIABLES
"""Operations that compute and do nothing else."""
STALE = "_output_shapes"
"""Shapes that the writing TensorFlow inferred: those of 1.11 and 1.12 contradict this one's."""
_SCALARS = 24
"""The version of GraphDefs since which a placeholder of no axes is a scalar. Before, its shape is not known."""
_HINTS = ("_lower_using_switch_merge",)
_KINDS = {"int": "i", "float": "f", "bool": "b", "string": "s"}
"""Types of attributes in an OpDef -> the field of an AttrValue that holds them, where the two names differ."""


@dataclass(frozen=True)
class Saved:
    """Where a checkpoint keeps a variable: the tensor's name, and the part of it (`shape start,length:...`)."""

    key: str
    part: str = ""


@dataclass(frozen=True)
class MetaGraph:
    """A graph with what its file says about it.

    collections: names of nodes or tensors by collection. saved: variable -> where Savers keep it. versions, stripped:
    the GraphDef's versions and the operations it was stripped by, for the import.
    """

    path: Path
    graph: Graph
    collections: Mapping[str, tuple[str, ...]]
    saved: Mapping[str, tuple[Saved, ...]]
    versions: Any
    stripped: Any


def read_graph(graph_def: Any, path: object) -> Graph:
    """The graph of a GraphDef.

    FinetuneError where two nodes share a name, one has missing inputs or too few or many, or one waits for itself.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    nodes: dict[str, Node] = {}
    for proto in graph_def.node:
        if proto.op == "Placeholder" and graph_def.versions.producer < _SCALARS and not proto.attr["shape"].shape.dim:
            proto.attr["shape"].shape.unknown_rank = True
        if proto.name in nodes:
            raise damaged(f"it has two nodes called '{proto.name}'", path)
        data = tuple(parse_ref(text) for text in proto.input if not text.startswith("^"))
        control = tuple(text[1:] for text in proto.input if text.startswith("^"))
        nodes[proto.name] = Node(proto.name, proto.op, data, control, proto)
        require_inputs(nodes[proto.name], functions)
    for node in nodes.values():
        for needed in node.needs:
            if needed not in nodes:
                raise damaged(f"its node '{node.name}' reads '{needed}', which is not there", path)
    graph = Graph(nodes, functions)
    graph.ordered()
    return graph


def op_signature(op: str, functions: Mapping[str, Any]) -> Any:
    """The OpDef of an operation or of a function that is called like one, None where TensorFlow has none."""
    return functions[op].signature if op in functions else op_def_registry.get(op)


def tensors(arg: Any, attr: Any) -> int:
    """How many tensors one argument of an OpDef is, by the attributes of a node."""
    if arg.type_list_attr:
        return len(attr[arg.type_list_attr].list.type)
    return int(attr[arg.number_attr].i) if arg.number_attr else 1


def require_inputs(node: Node, functions: Mapping[str, Any]) -> None:
    """FinetuneError where a node has not as many inputs as its operation reads."""
    op_def = op_signature(node.op, functions)
    expected = len(node.inputs) if op_def is None else sum(tensors(arg, node.attr) for arg in op_def.input_arg)
    if len(node.inputs) != expected:
        raise damaged(f"its node '{node.name}' has {len(node.inputs)} inputs, but {node.op} reads {expected}")


def require_attributes(proto: Any, where: str) -> None:
    """FinetuneError where a NodeDef inside a function lacks an attribute, or has one of another kind.

    TensorFlow checks these for a graph's own nodes only; in a function they can end the process.
    """
    op_def = op_def_registry.get(proto.op)
    for attr in op_def.attr if op_def else ():
        held = proto.attr[attr.name].WhichOneof("value") if attr.name in proto.attr else None
        expected = "list" if attr.type.startswith("list(") else _KINDS.get(attr.type, attr.type)
        if held != expected and not (held is None and attr.HasField("default_value")):
            raise damaged(f"its node '{where}' has no valid attribute '{attr.name}' of {proto.op}")


def parse_ref(text: str) -> Ref:
    """`name:2`, or `name` for its first output."""
    name, colon, output = text.rpartition(":")
    return Ref(name, int(output)) if colon and output.isdigit() else Ref(text)


def import_graph(graph: Graph, meta: MetaGraph, name: str = "") -> None:
    """Import `graph`, a part of `meta`, under `name` into TensorFlow's default graph.

    Devices (a GPU that is not here), colocation, other hints, shapes that another TensorFlow inferred, and attributes
    that this one does not have are left out. FinetuneError where TensorFlow does not take it.
    """
    graph_def = tf.compat.v1.GraphDef()
    graph_def.versions.CopyFrom(meta.versions)
    for node in graph.nodes.values():
        proto = graph_def.node.add()
        proto.name, proto.op = node.name, node.op
        proto.input.extend([str(ref) for ref in node.inputs] + [f"^{name}" for name in node.control])
        known = _known_attributes(node.op)
        for key, value in node.attr.items():
            if key in _HINTS or (not key.startswith("_") and (known is None or key in known)):
                proto.attr[key].CopyFrom(value)
        if node.op in VARIABLES:
            # Both modes of a graph are imported side by side and share one set of variables.
            proto.attr["shared_name"].s = node.name.encode()
            proto.attr["container"].s = b""
    graph_def.library.function.extend(graph.functions[each] for each in called(graph))
    for function in graph_def.library.function:
        for proto in function.node_def:
            proto.attr.pop(STALE, None)
    stripped = meta.stripped if meta.stripped.op else None
    try:
        tf.import_graph_def(graph_def, name=name, producer_op_list=stripped)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise FinetuneError(
            f"TensorFlow {tf.__version__} does not take the graph of {meta.path} ({first_line(error)}): it was written "
            "by another version, or is damaged"
        ) from None


def _known_attributes(op: str) -> set[str] | None:
    """The attributes that an operation has here, None for functions and operations that are not known."""
    op_def = op_def_registry.get(op)
    return None if op_def is None else {attr.name for attr in op_def.attr}


def called(graph: Graph) -> list[str]:
    """Every function the nodes call, and those these call."""
    functions = graph.functions
    starts = function_names(graph.nodes.values(), functions)
    return list(reached(starts, lambda name: function_names(functions[name].node_def, functions)))


def function_names(nodes: Iterable[Any], functions: Mapping[str, Any]) -> Iterator[str]:
    """The functions of the file that each of these Nodes or NodeDefs calls."""
    for node in nodes:
        if node.op in functions:
            yield node.op
        for value in node.attr.values():
            named = [value.func.name] if value.HasField("func") else [item.name for item in value.list.func]
            yield from (name for name in named if name in functions)


def refuse(graph: Graph, path: object, *, updating: bool = False) -> None:
    """FinetuneError naming the first operation of `graph`, or of the functions it calls, that may not run.

    `updating` allows assignments to variables as well.
    """
    for op, name in _operations(graph):
        if op in ALLOWED or (updating and op in ASSIGNMENTS) or op in graph.functions:
            continue
        if op in ASSIGNMENTS:
            raise FinetuneError(
                f"{path} changes a variable on the way to the logits, in its node '{name}' ({op}): a diagnosis would "
                "change what it measures; give logits that do not depend on it with --logits"
            )
        raise FinetuneError(
            f"{path} has the operation {op} in its node '{name}' on the way to the logits, which {reason(op)}: "
            "operations of a file are only run if they compute and do nothing else; cut the graph behind it with "
            "--input or --logits, or write it without"
        )


def _operations(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes.values():
        yield node.op, node.name
    for name in called(graph):
        for proto in graph.functions[name].node_def:
            require_attributes(proto, f"{name}/{proto.name}")
            yield proto.op, f"{name}/{proto.name}"
