"""What the output of a graph is: logits, or a softmax or sigmoids of them."""

from dataclasses import dataclass
from typing import Literal

from checkpoints.formats.operations import FUSED, VARIABLES
from finetune.tf_graphs.program.nodes import Graph, Node, Ref, Values

ACTIVATIONS = ("Relu", "Relu6", "Tanh", "Elu", "Selu", "Softplus")
"""What no classifier ends in."""
_ENDS: dict[str, Literal["softmax", "sigmoid"]] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
_LINEAR = ("MatMul", "BiasAdd", "Conv2D", *FUSED)
_MIXING = ("Add", "AddV2", "AddN", "Mul", "RealDiv", "Mean", "Sum", "Pack", "Concat", "ConcatV2", "Maximum", "Minimum")
_DEEPEST = 8


@dataclass(frozen=True)
class Ending:
    """kind: what an output is; "unknown" where its graph does not show whether it went through a softmax.

    node: the operation that makes it so. None for a mean of several softmaxes or sigmoids, as of an ensemble, which
    remain in the graph.
    """

    kind: Literal["logits", "softmax", "sigmoid", "unknown"] = "logits"
    node: Node | None = None

    @property
    def mixed(self) -> bool:
        """Whether the output is a mixture of probabilities, whose logits are not in the graph."""
        return self.node is None and self.kind in ("softmax", "sigmoid")


def find_ending(graph: Graph, output: Ref, depth: int = 0) -> Ending:
    """What `output` is, by what computes it, back through what changes only its shape, type or name."""
    node = graph.producer(graph.source(output))
    if node.op in _ENDS:
        return Ending(_ENDS[node.op], node)
    if node.op in _LINEAR:
        return Ending("logits", node)
    if node.op in _MIXING and depth < _DEEPEST:
        values = Values(graph)
        mixed = [ref for ref in node.inputs if values.of(ref) is None]
        kinds = {find_ending(graph, ref, depth + 1).kind for ref in mixed if not _is_variable(graph, ref)}
        if len(kinds) == 1:
            return Ending(kinds.pop())
    return Ending("unknown", node)


def _is_variable(graph: Graph, ref: Ref) -> bool:
    return graph.producer(graph.source(ref)).op in VARIABLES
