"""How a SavedModel normalises in training: its call with `training=True` is read, not run.

A frozen layer, or one in a model that is called as `base(x, training=False)`, uses its moving statistics there as well.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from finetune.tf_graphs.program.fold import fold
from finetune.tf_graphs.program.nodes import IMAGES, Graph, Node, Ref, new_node
from finetune.tf_graphs.program.sites import find_sites

_CALL = "finetune_call"


def moving_in_training(proto: Any, graph: Graph) -> frozenset[str]:
    """The variables of the moving means that normalise when a MetaGraphDef's model is called with `training=True`.

    `graph` has its functions. Empty where the model takes no such argument. FinetuneError where it is damaged.
    """
    name = _trained(proto)
    if name not in graph.functions:
        return frozenset()
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
    end = new_node(f"{_CALL}_end", "Identity", Ref(_CALL))
    whole = fold(Graph({**nodes, end.name: end}, graph.functions), {}, [end.name])
    return frozenset(site.mean for site in find_sites(whole) if site.mean is not None)


def _trained(proto: Any) -> str:
    """The function that `__call__` runs with `training=True`, "" where there is none."""
    objects = proto.object_graph_def
    for child in objects.nodes[0].children if objects.nodes else ():
        if child.local_name == "__call__" and child.node_id < len(objects.nodes):
            for name in objects.nodes[child.node_id].function.concrete_functions:
                given = objects.concrete_functions[name].canonicalized_input_signature
                if name in objects.concrete_functions and True in _flags(given):
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
