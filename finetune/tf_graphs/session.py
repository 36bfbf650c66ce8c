"""A TF1 graph in a session that somebody else holds: it is written to files as it is, and given statistics back.

Nothing is added to the graph, which may be finalized: only what is in it is run.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager.context import eager_mode
from tensorflow.python.framework import tensor_shape

from checkpoints.formats.operations import VARIABLES
from checkpoints.formats.slim import write_slim
from finetune.errors import FinetuneError


@contextmanager
def outside_graphs() -> Iterator[None]:
    """Inside, TensorFlow 2 runs eagerly, also in a program that has disabled that or whose default graph is its own."""
    shapes_of_v1 = tensor_shape._TENSORSHAPE_V2_OVERRIDE is False
    if shapes_of_v1:
        tf.compat.v1.enable_v2_tensorshape()
    try:
        with eager_mode():
            yield
    finally:
        if shapes_of_v1:
            tf.compat.v1.disable_v2_tensorshape()


def write_session(session: Any, prefix: Path) -> None:
    """Write the graph of a `tf.compat.v1.Session` as `prefix.meta` and its variables' values as the checkpoint
    `prefix`. Variables without a value are left out; FinetuneError where none has one."""
    with session.graph.as_default():
        tf.compat.v1.train.export_meta_graph(f"{prefix}.meta", graph=session.graph)
    values = _values(session, _readers(session.graph))
    if not values:
        raise FinetuneError("no variable of the session has a value: initialise or restore them first")
    with outside_graphs():
        write_slim(prefix, values)


def load_variables(session: Any, values: Mapping[str, np.ndarray]) -> None:
    """Give variables of the session values, by the operations that initialise them."""
    for name, value in values.items():
        assign = session.graph.get_operation_by_name(f"{name}/Assign")
        given = assign.inputs[1]
        shaped = np.asarray(value, given.dtype.as_numpy_dtype)
        session.run(assign, {given: shaped.reshape(given.shape) if given.shape.is_fully_defined() else shaped})


def _readers(graph: Any) -> dict[str, Any]:
    """For each variable a tensor of the graph that reads it."""
    found = {}
    for operation in graph.get_operations():
        if operation.type not in VARIABLES:
            continue
        tensor = operation.outputs[0]
        if operation.type == "VarHandleOp":
            reads = [one for one in tensor.consumers() if one.type == "ReadVariableOp" and not one.control_inputs]
            if not reads:
                continue
            tensor = reads[0].outputs[0]
        found[operation.name] = tensor
    return found


def _values(session: Any, readers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The value of each variable that has one."""
    try:
        return dict(session.run(readers))
    except tf.errors.FailedPreconditionError:
        found = {}
        for name, tensor in readers.items():
            try:
                found[name] = session.run(tensor)
            except tf.errors.FailedPreconditionError:  # this one has no value
                continue
        return found
