"""How a SavedModel is called, read and not run: how it normalises with `training=True`, and what its outputs are.

A frozen layer, or one in a model that is called as `base(x, training=False)`, uses its moving statistics in training as
well.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from finetune.tf_graphs.program.endings import Ending, find_ending
from finetune.tf_graphs.program.fold import fold
from finetune.tf_graphs.program.nodes import IMAGES, Graph, Node, Ref, new_node
from finetune.tf_graphs.program.sites import find_sites

_CALL, _END = "finetune_call", "finetune_call_end"


def moving_in_training(proto: Any, graph: Graph) -> frozenset[str]:
    """The variables of the moving means that normalise when a MetaGraphDef's model is called with `training=True`.

    `graph` has its functions. Empty where the model takes no such argument. FinetuneError where it is damaged.
    """
    name = _called(proto, training=True)
    if name not in graph.functions:
        return frozenset()
    whole = _folded(proto, graph, name, 0)
    return frozenset(site.mean for site in find_sites(whole) if site.mean is not None)


def ending_of_call(proto: Any, graph: Graph, output: str | None) -> Ending:
    """What a MetaGraphDef's model gives when it is called with `training=False`: the result, or the one of that key.

    "unknown" where it takes no such argument. FinetuneError where it is damaged.
    """
    name = _called(proto, training=False)
    if name not in graph.functions:
        return Ending("unknown")
    keys = sorted(proto.object_graph_def.concrete_functions[name].output_signature.dict_value.fields)
    wanted = output or ("default" if "default" in keys else None)
    number = keys.index(wanted) if wanted in keys else 0
    if number >= len(graph.functions[name].signature.output_arg):
        return Ending("unknown")
    return find_ending(_folded(proto, graph, name, number), Ref(_END))


def _folded(proto: Any, graph: Graph, name: str, output: int) -> Graph:
    """A graph that calls the function `name` with its variables, and gives its output of that number in `_END`."""
    held, given = proto.object_graph_def, graph.functions[name].signature.input_arg
    captured = list(held.concrete_functions[name].bound_inputs)
    nodes: dict[str, Node] = {}
    inputs = []
    for index, arg in enumerate(given):
        number = captured[index - len(given) + len(captured)] if index >= len(given) - len(captured) else -1
        variable = held.nodes[number].variable if 0 <= number < len(held.nodes) else None
        if variable is not None and variable.name:
            node = new_node(variable.name, "VarHandleOp", dtype=variable.dtype, shape=tf.TensorShape(variable.shape))
        else:
            node = new_node(f"{IMAGES}_{index}", "Placeholder", dtype=arg.type)
        nodes[node.name] = node
        inputs.append(Ref(node.name))
    nodes[_CALL] = Node(_CALL, name, tuple(inputs), (), new_node(_CALL, name).proto)
    end = new_node(_END, "Identity", Ref(_CALL, output))
    return fold(Graph({**nodes, end.name: end}, graph.functions), {}, [end.name])


def _called(proto: Any, *, training: bool) -> str:
    """The function that `__call__` runs in that mode, "" where there is none."""
    objects = proto.object_graph_def
    for child in objects.nodes[0].children if objects.nodes else ():
        if child.local_name == "__call__" and child.node_id < len(objects.nodes):
            for name in objects.nodes[child.node_id].function.concrete_functions:
                flags = set(_flags(objects.concrete_functions[name].canonicalized_input_signature))
                if flags and (True in flags) == training:
                    return str(name)
    return ""


def _flags(value: Any) -> Iterator[bool]:
    """Every bool among the arguments of a call."""
    kind = value.WhichOneof("kind")
    if kind == "bool_value":
        yield value.bool_value
    elif kind == "tuple_value":
        for one in value.tuple_value.values:
            yield from _flags(one)
    elif kind == "dict_value":
        for one in value.dict_value.fields.values():
            yield from _flags(one)
