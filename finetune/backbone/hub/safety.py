"""A TF2 SavedModel read as data before TensorFlow loads it: its functions are run as they are and may only compute.

`tf.saved_model.load` runs functions of the file while it loads already (those that make and fill tables), and whatever
is called later. What a diagnosis does (cut the part that is run out of the graph) would lose the training behaviour.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from checkpoints.formats import operations
from checkpoints.formats.location import find_slim
from checkpoints.formats.saved_model import parse_saved_model
from checkpoints.formats.table import check_index
from finetune.errors import FinetuneError

_ALLOWED = (
    operations.COMPUTING
    | operations.RANDOM
    | operations.FUSED
    | operations.VARIABLES
    | operations.ASSIGNMENTS
    | operations.GRADIENTS
    | operations.IN_MODULES
)
_HARMLESS_ATTRIBUTES = {"_construction_context", "_input_shapes"}
"""Attributes of a function that is never called. Others can make it replace one that is (`api_implements`)."""


def of_objects(directory: Path) -> bool:
    """Whether a SavedModel is of TF2: one of TF1 has graphs, and no objects, and running it is another matter."""
    return any(graph.HasField("object_graph_def") for graph in parse_saved_model(directory).meta_graphs)


def require_harmless(directory: Path, handle: str) -> None:
    """Raise FinetuneError where a TF2 SavedModel has an operation that does more than compute.

    Functions that only write and read its checkpoints are exempt: they are never called. Raises CheckpointError where
    its variables are damaged.
    """
    if (directory / "saved_model.cpb").exists():
        raise FinetuneError(f"{handle} is split over several files (saved_model.cpb): expected one saved_model.pb")
    graphs = parse_saved_model(directory).meta_graphs
    if len(graphs) != 1:  # TensorFlow loads such a file as one of TF1, and runs what it says is for initialising
        raise FinetuneError(f"{handle} holds {len(graphs)} graphs, expected one: it is no SavedModel of TF2")
    functions = {function.signature.name: function for function in graphs[0].graph_def.library.function}
    unused = _savers(graphs[0], functions)
    for name, function in functions.items():
        if name in unused:
            continue
        for node in function.node_def:
            if node.op not in _ALLOWED and node.op not in functions:
                raise FinetuneError(
                    f"refused: {handle} has the operation {node.op} in its function '{name}', which "
                    f"{operations.reason(node.op)}: operations of a file are only run if they compute and do nothing "
                    "else; export the module without"
                )
    if (directory / "variables" / "variables.index").is_file():
        index, *shards = find_slim(directory / "variables" / "variables").files
        check_index(index, tuple(shards))


def _savers(graph: Any, functions: Mapping[str, Any]) -> set[str]:
    """The functions that `saver_def` names and nothing else in the file reaches."""
    named = {graph.saver_def.save_tensor_name.partition(":")[0], graph.saver_def.restore_op_name}
    calls = {node.name: set(_called([node], functions)) for node in graph.graph_def.node}
    saving = {function for node in named for function in calls.get(node, ())}
    saving = {one for one in saving if set(functions[one].attr) <= _HARMLESS_ATTRIBUTES}
    library = graph.graph_def.library
    roots = set(functions) - saving
    roots |= {one.gradient_func for one in (*library.gradient, *library.registered_gradients)}
    roots |= set(graph.object_graph_def.concrete_functions) | set(graph.meta_info_def.function_aliases)
    reached, waiting = set[str](), [one for one in roots if one in functions]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += _called(functions[name].node_def, functions)
    return saving - reached


def _called(nodes: Iterable[Any], functions: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes:
        if node.op in functions:
            yield node.op
        for value in node.attr.values():
            named = [value.func.name] if value.HasField("func") else [one.name for one in value.list.func]
            yield from (name for name in named if name in functions)
