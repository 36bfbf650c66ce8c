"""A TF1 graph as plain data: its nodes, what each reads, and the values of its small constants. Nothing is run."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from finetune.errors import FinetuneError

PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})
IMAGES, LOGITS = "finetune_images", "finetune_logits"
"""Nodes that this package adds to every graph before it is folded: what is fed, what is fetched."""
SWITCHES = ("Switch", "RefSwitch")
_MOST_VALUES = 64
"""Elements of the largest tensor worked out: a condition, or a list of axes."""
# These pass their first input on. They may change its shape or stop its gradient, never its numbers.
_PASSING = frozenset(
    {
        "Identity", "IdentityN", "RefIdentity", "StopGradient", "PreventGradient", "Snapshot", "CheckNumerics",
        "EnsureShape", "Squeeze", "Reshape", "ExpandDims", "Enter", "RefEnter", "ReadVariableOp", "Cast",
    }
)  # fmt: skip

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


def damaged(what: str, where: object = "the graph") -> FinetuneError:
    """The error for a file that contradicts itself."""
    return FinetuneError(f"{where} is damaged: {what}; write it again")


def first_of(names: Iterable[str], most: int = 4) -> str:
    """The first `most` names and how many more there are, for a sentence."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def reached(starts: Iterable[str], following: Callable[[str], Iterable[str]]) -> dict[str, None]:
    """Every name reached from `starts` by `following`, the starts included, in the order they are found."""
    found: dict[str, None] = {}
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += following(name)
    return found


class Ref(NamedTuple):
    """One output of a node."""

    node: str
    output: int = 0

    def __str__(self) -> str:
        return f"{self.node}:{self.output}"


@dataclass(frozen=True)
class Node:
    """A node. `proto` is its NodeDef, used only for `attr`: name, operation and inputs are fields of their own."""

    name: str
    op: str
    inputs: tuple[Ref, ...]
    control: tuple[str, ...]
    proto: Any = field(repr=False, compare=False)

    @property
    def attr(self) -> Any:
        """The NodeDef's attributes."""
        return self.proto.attr

    @property
    def needs(self) -> list[str]:
        """The nodes it reads, then those it waits for."""
        return [*(ref.node for ref in self.inputs), *self.control]

    def data_type(self, output: int = 0) -> int:
        """The DataType of an output by its operation and the node's attributes, 0 where they do not give it."""
        if kind := _single_type(self):
            return kind
        for key in ("output_types", "component_types", "dtypes"):
            if key in self.attr:
                types = self.attr[key].list.type
                return int(types[output]) if output < len(types) and known_type(types[output]) else 0
        for key in ("dtype", "T", "DstT", "out_type", "output_type", "element_dtype"):
            if key in self.attr and known_type(self.attr[key].type):
                return int(self.attr[key].type)
        return 0

    def declared_shape(self, output: int = 0) -> tuple[int | None, ...] | None:
        """The shape the node's attributes give an output, None where they give none."""
        for key in ("shape", "_output_shapes", "output_shapes"):
            if key not in self.attr:
                continue
            value = self.attr[key]
            shapes = [value.shape] if value.HasField("shape") else list(value.list.shape)
            if key == "shape" and shapes:
                output = 0
            if output < len(shapes) and not shapes[output].unknown_rank:
                return tuple(None if dim.size < 0 else int(dim.size) for dim in shapes[output].dim)
        return None

    @property
    def constant_value(self) -> np.ndarray | None:
        """The value of a Const node, None where it is not numeric or has more than 64 elements."""
        proto = self.attr["value"].tensor
        if not known_type(proto.dtype):
            return None
        dtype = tf.as_dtype(proto.dtype)
        count = int(np.prod([float(dim.size) for dim in proto.tensor_shape.dim]))
        if not (dtype.is_floating or dtype.is_integer or dtype.is_bool) or not 0 <= count <= _MOST_VALUES:
            return None
        try:
            return np.asarray(tf.make_ndarray(proto))
        except (ValueError, TypeError):
            return None

    def identity(self, of: Ref) -> "Node":
        """A node of the same name and type that passes `of` on."""
        return new_node(self.name, "Identity", of, T=self.data_type() or tf.float32)


@dataclass(frozen=True)
class Graph:
    """Nodes by name, and the functions they call (FunctionDef by name)."""

    nodes: Mapping[str, Node]
    functions: Mapping[str, Any]

    def producer(self, ref: Ref) -> Node:
        """The node an edge comes from."""
        return self.nodes[ref.node]

    def with_nodes(self, nodes: Iterable[Node]) -> "Graph":
        """The same graph with some nodes added or replaced."""
        return Graph({**self.nodes, **{node.name: node for node in nodes}}, self.functions)

    def rewired(self, to: Mapping[Ref, Ref]) -> "Graph":
        """Every reader of a key of `to` reads its value instead, also where it only waits for that node.

        A value that is itself a key is followed further.
        """

        def resolved(ref: Ref) -> Ref:
            for _ in to:  # as many steps at most: a damaged graph may lead in a circle
                if ref not in to:
                    break
                ref = to[ref]
            return ref

        ends = {old: resolved(old) for old in to}
        waited = {old.node: new.node for old, new in ends.items()}
        nodes = {
            name: replace(
                node,
                inputs=tuple(ends.get(ref, ref) for ref in node.inputs),
                control=tuple(dict.fromkeys(waited.get(each, each) for each in node.control)),
            )
            for name, node in self.nodes.items()
        }
        return Graph(nodes, self.functions)

    def ancestors(self, roots: Iterable[str], *, control: bool = True) -> set[str]:
        """The nodes `roots` need, themselves included."""

        def needed(name: str) -> list[str]:
            node = self.nodes.get(name)
            if node is None:  # the inputs of a function's nodes are followed here for the first time
                raise damaged(f"it reads '{name}', which is not there")
            return node.needs if control else [ref.node for ref in node.inputs]

        return set(reached(roots, needed))

    def only(self, roots: Iterable[str]) -> "Graph":
        """What `roots` need, in the graph's order."""
        needed = self.ancestors(roots)
        return Graph({name: node for name, node in self.nodes.items() if name in needed}, self.functions)

    def consumers(self, *, control: bool = False) -> dict[str, list[Node]]:
        """Node name -> the nodes that read it (with `control`, or wait for it)."""
        found: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name in set(node.needs) if control else {ref.node for ref in node.inputs}:
                found[name].append(node)
        return found

    def descendants(self, roots: Iterable[str], *, control: bool = False) -> set[str]:
        """The nodes that depend on `roots`, themselves included."""
        consumers = self.consumers(control=control)
        return set(reached(roots, lambda name: [node.name for node in consumers[name]]))

    def ordered(self) -> list[Node]:
        """Inputs before their readers; the edges that close a loop (from NextIteration) do not count.

        FinetuneError where any other loop is in the graph: no graph that has run has one.
        """
        finished: dict[str, bool] = {}
        order: list[Node] = []
        stack = list(self.nodes)[::-1]
        while stack:
            name = stack[-1]
            node = self.nodes[name]
            if name in finished:
                stack.pop()
                if not finished[name]:
                    finished[name] = True
                    order.append(node)
                continue
            finished[name] = False
            for before in reversed([] if node.op in ("NextIteration", "RefNextIteration") else node.needs):
                if before not in finished:
                    stack.append(before)
                elif not finished[before]:
                    raise damaged(f"its node '{before}' waits for itself")
        return order

    def source(self, ref: Ref, on_the_way: Callable[[Node], Ref | None] | None = None) -> Ref:
        """Where a value comes from: back through nodes that change neither its numbers nor their order.

        At any other node, `on_the_way(node)` may name the input to follow.
        """
        for _ in range(len(self.nodes)):
            node = self.producer(ref)
            if node.op in _PASSING:
                ref = node.inputs[ref.output if node.op == "IdentityN" and ref.output < len(node.inputs) else 0]
            elif on_the_way and (further := on_the_way(node)) is not None:
                ref = further
            else:
                break
        return ref


def _single_type(node: Node) -> int:
    """The DataType of all outputs of an operation that declares a single one; 0 for others, resources and functions."""
    defined = op_def_registry.get(node.op)
    if defined is None or len(defined.output_arg) != 1:
        return 0
    arg = defined.output_arg[0]
    kinds = [attr.default_value.type for attr in defined.attr if attr.name == arg.type_attr]  # 0 without a default
    if arg.type_attr in node.attr:
        kinds = [node.attr[arg.type_attr].type]
    kind = int(arg.type or (kinds or [0])[0])
    return kind if kind != tf.resource.as_datatype_enum and known_type(kind) else 0


def known_type(number: int) -> bool:
    """Whether this is a DataType that TensorFlow has."""
    try:
        return bool(number) and tf.as_dtype(number) is not None
    except TypeError:
        return False


def new_node(name: str, op: str, *inputs: Ref, **attributes: Any) -> Node:
    """A node whose attributes are bools, DataTypes (or their numbers), shapes (TensorShape) or arrays."""
    proto = tf.compat.v1.NodeDef()
    for key, value in attributes.items():
        if isinstance(value, bool):
            proto.attr[key].b = value
        elif isinstance(value, np.ndarray):
            proto.attr[key].tensor.CopyFrom(tf.make_tensor_proto(value))
        elif isinstance(value, tf.TensorShape):
            proto.attr[key].shape.CopyFrom(value.as_proto())
        else:
            # The number of a DataType is kept as it is: one in a damaged file may not exist.
            proto.attr[key].type = value if isinstance(value, int) else tf.as_dtype(value).as_datatype_enum
    return Node(name, op, inputs, (), proto)


def constant(name: str, value: np.ndarray) -> Node:
    """A node that gives `value`."""
    return new_node(name, "Const", dtype=value.dtype, value=value)


class Values:
    """The values of small tensors of a graph, where they follow from its constants alone."""

    def __init__(self, graph: Graph) -> None:
        self._nodes = graph.nodes
        self._seen: dict[Ref, np.ndarray | None] = {}

    def of(self, ref: Ref, depth: int = 0) -> np.ndarray | None:
        """The value of a tensor, None where it is not known or has more than 64 elements."""
        if ref not in self._seen:
            self._seen[ref] = None  # the value inside a loop is never known
            self._seen[ref] = self._work_out(self._nodes[ref.node], ref, depth) if depth < 100 else None
        return self._seen[ref]

    def _work_out(self, node: Node, ref: Ref, depth: int) -> np.ndarray | None:
        if node.op == "Const":
            return node.constant_value
        if node.op in ("Identity", "StopGradient", "Cast", "ReadVariableOp", *SWITCHES):
            value = self.of(node.inputs[0], depth + 1)
            if value is None or node.op != "Cast":
                return value
            target = node.attr["DstT"].type
            return value.astype(tf.as_dtype(target).as_numpy_dtype) if known_type(target) else None
        if node.op == "All" and (packed := self._nodes[node.inputs[0].node]).op == "Pack":  # one part may be enough
            parts = [self.of(each, depth + 1) for each in packed.inputs]
            return np.asarray(False) if any(part is not None and not part.all() for part in parts) else None
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
