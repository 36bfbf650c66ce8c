"""A TF1 graph as plain data: what a node is, what it reads, who reads it. Nothing here runs anything."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from finetune.errors import FinetuneError

PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})
IMAGES, LOGITS = "finetune_images", "finetune_logits"
"""Nodes of ours in every graph that is folded: what is fed, what is fetched."""
# What gives its first input on unchanged, but for its shape or who may differentiate it.
_PASSING = frozenset(
    {
        "Identity", "IdentityN", "RefIdentity", "StopGradient", "PreventGradient", "Snapshot", "CheckNumerics",
        "EnsureShape", "Squeeze", "Reshape", "ExpandDims", "Enter", "RefEnter", "ReadVariableOp", "Cast",
    }
)  # fmt: skip


class Ref(NamedTuple):
    """One output of a node."""

    node: str
    output: int = 0

    def __str__(self) -> str:
        return f"{self.node}:{self.output}"


@dataclass(frozen=True)
class Node:
    """A node; `proto` is its NodeDef, of which only `attr` is looked at: name, op and inputs are the fields."""

    name: str
    op: str
    inputs: tuple[Ref, ...]
    control: tuple[str, ...]
    proto: Any = field(repr=False, compare=False)

    @property
    def attr(self) -> Any:
        """The NodeDef's attributes."""
        return self.proto.attr

    def identity(self, of: Ref) -> "Node":
        """A node of the same name and type that gives `of` on."""
        proto = tf.compat.v1.NodeDef()
        proto.attr["T"].type = data_type(self) or tf.float32.as_datatype_enum
        return Node(self.name, "Identity", (of,), (), proto)


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
        """Every reader of a key of `to` reads its value instead, also where it only waits for it."""
        whole = {old.node: new.node for old, new in to.items() if old.output == 0}
        nodes = {
            name: replace(
                node,
                inputs=tuple(to.get(ref, ref) for ref in node.inputs),
                control=tuple(whole.get(waited, waited) for waited in node.control),
            )
            for name, node in self.nodes.items()
        }
        return Graph(nodes, self.functions)

    def ancestors(self, roots: Iterable[str], *, control: bool = True) -> set[str]:
        """The nodes `roots` need, themselves included."""
        found: set[str] = set()
        waiting = list(roots)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                if name not in self.nodes:  # those of functions are looked at here for the first time
                    raise FinetuneError(f"the graph is damaged: it reads '{name}', which is not there; write it again")
                node = self.nodes[name]
                waiting += [ref.node for ref in node.inputs]
                if control:
                    waiting += node.control
        return found

    def only(self, roots: Iterable[str]) -> "Graph":
        """What `roots` need, in the graph's order."""
        needed = self.ancestors(roots)
        return Graph({name: node for name, node in self.nodes.items() if name in needed}, self.functions)

    def consumers(self, *, control: bool = False) -> dict[str, list[Node]]:
        """Node name -> the nodes that read it (with `control`, or wait for it)."""
        found: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            read = {ref.node for ref in node.inputs}
            for name in read | set(node.control) if control else read:
                found[name].append(node)
        return found

    def descendants(self, roots: Iterable[str], *, control: bool = False) -> set[str]:
        """The nodes that depend on `roots`, themselves included."""
        consumers, found, waiting = self.consumers(control=control), set[str](), list(roots)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += [node.name for node in consumers[name]]
        return found

    def ordered(self) -> list[Node]:
        """Inputs before their readers; the edges that close a loop (from NextIteration) do not count.

        FinetuneError where any other loop is in the graph: no graph that has run has one.
        """
        done: dict[str, bool] = {}
        order: list[Node] = []
        for start in self.nodes:
            stack = [(start, False)]
            while stack:
                name, left = stack.pop()
                if left:
                    if not done[name]:
                        done[name] = True
                        order.append(self.nodes[name])
                    continue
                if name in done:
                    continue
                done[name] = False
                stack.append((name, True))
                for before in reversed(self._before(name)):
                    if before not in done:
                        stack.append((before, False))
                    elif not done[before]:
                        raise FinetuneError(
                            f"the graph is damaged: its node '{before}' waits for itself; write it again"
                        )
        return order

    def _before(self, name: str) -> list[str]:
        node = self.nodes[name]
        if node.op in ("NextIteration", "RefNextIteration"):
            return []
        return [ref.node for ref in node.inputs] + list(node.control)

    def source(self, ref: Ref, on_the_way: Callable[[Node], Ref | None] | None = None) -> Ref:
        """Where a value comes from: back through what changes neither the numbers nor their order.

        `on_the_way(node)` may name the input to go on with at any other node.
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


def data_type(node: Node) -> int:
    """The DataType of a node's first output by its attributes, 0 where they do not say."""
    for key in ("dtype", "T", "DstT", "out_type", "output_type"):
        if key in node.attr and known_type(node.attr[key].type):
            return int(node.attr[key].type)
    return 0


def known_type(number: int) -> bool:
    """Whether this is a DataType that TensorFlow has."""
    try:
        return bool(number) and tf.as_dtype(number) is not None
    except TypeError:
        return False


def declared_shape(node: Node, output: int = 0) -> tuple[int | None, ...] | None:
    """The shape a node's attributes give an output, None where they give none."""
    for key in ("shape", "_output_shapes", "output_shapes"):
        if key not in node.attr:
            continue
        value = node.attr[key]
        shapes = [value.shape] if value.HasField("shape") else list(value.list.shape)
        if key == "shape" and shapes:
            output = 0
        if output < len(shapes) and not shapes[output].unknown_rank:
            return tuple(None if dim.size < 0 else int(dim.size) for dim in shapes[output].dim)
    return None


def constant(name: str, value: np.ndarray) -> Node:
    """A node that gives `value`."""
    proto = tf.compat.v1.NodeDef()
    proto.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    proto.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return Node(name, "Const", (), (), proto)


def placeholder(name: str, dtype: int, shape: tuple[int | None, ...] | None) -> Node:
    """A node to feed."""
    proto = tf.compat.v1.NodeDef()
    proto.attr["dtype"].type = dtype
    proto.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return Node(name, "Placeholder", (), (), proto)
