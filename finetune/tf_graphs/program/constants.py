"""What small tensors of a graph are, worked out from its constants without running it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.tf_graphs.program.nodes import Graph, Node, Ref, known_type

SWITCHES = ("Switch", "RefSwitch")
_MOST_VALUES = 64

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
        if node.op in ("Identity", "StopGradient", *SWITCHES):
            return self.of(node.inputs[0], depth + 1)
        if node.op == "Cast":
            value = self.of(node.inputs[0], depth + 1)
            target = node.attr["DstT"].type
            if value is None or not known_type(target):
                return None
            return value.astype(tf.as_dtype(target).as_numpy_dtype)
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
    if not known_type(proto.dtype):
        return None
    dtype = tf.as_dtype(proto.dtype)
    count = int(np.prod([float(dim.size) for dim in proto.tensor_shape.dim]))
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool) or not 0 <= count <= most:
        return None
    try:
        return np.asarray(tf.make_ndarray(proto))
    except (ValueError, TypeError):
        return None
