"""Which operations of somebody else's graph are run: those that compute, and no others.

A `.meta` file can hold operations that read and write files, call Python or open connections. So a graph is looked
through before TensorFlow is given any of it, and only the part that is run is given: not its input pipeline, not its
own save and restore operations.
"""

from collections.abc import Iterator
from typing import Any

from checkpoints.formats.operations import ASSIGNMENTS, COMPUTING, FUSED, RANDOM, VARIABLES, reason
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.graphdef import called, require_attributes
from finetune.tf_graphs.program.nodes import Graph

_ALLOWED = COMPUTING | RANDOM | FUSED | VARIABLES


def allowed(op: str) -> bool:
    """Whether an operation only computes."""
    return op in _ALLOWED


def refuse(graph: Graph, path: object, *, updating: bool = False) -> None:
    """FinetuneError naming the first operation of `graph`, or of the functions it calls, that is not run.

    `updating` allows assignments to variables as well.
    """
    for op, name in _operations(graph):
        if op in _ALLOWED or (updating and op in ASSIGNMENTS) or op in graph.functions:
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
        function: Any = graph.functions[name]
        for proto in function.node_def:
            require_attributes(proto, f"{name}/{proto.name}")
            yield proto.op, f"{name}/{proto.name}"
