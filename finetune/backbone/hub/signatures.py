"""TF2 SavedModels as functions from images to features: how they are found and loaded, and what arguments they take.

A file is read as data before TensorFlow loads it. `tf.saved_model.load` runs functions of the file while it loads
already (those that make and fill tables), and whatever is called later. What a diagnosis does (cut the part that is run
out of the graph) would lose the training behaviour. So its functions are run as they are and may only compute.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from checkpoints import store
from checkpoints.formats import operations
from checkpoints.formats.location import find_slim
from checkpoints.formats.saved_model import parse_saved_model
from checkpoints.formats.table import check_index
from finetune.batchnorm.module_parts import Loaded
from finetune.errors import FinetuneError, WrongUse

_EXPECTED = (
    "a TF2 SavedModel that is called with images and gives features, such as the feature vectors of "
    "https://www.kaggle.com/models?framework=tfHub in the format TF2"
)
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


def is_saved_model(path: Path) -> bool:
    """Whether a directory looks like a SavedModel."""
    return (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file()


def load(handle: str, output: str | None = None) -> Loaded:
    """Load a Hub handle (`store.locate_module`) or a SavedModel directory; what is fetched stays in the cache.

    output: which of its several results is meant.

    Raises FinetuneError where it is no TF2 SavedModel, does more than compute, or cannot be called with images alone;
    CheckpointError where it cannot be fetched, or its variables are damaged.
    """
    path = _resolved(handle)
    graphs = parse_saved_model(path).meta_graphs
    if (path / "tfhub_module.pb").is_file() or not any(graph.HasField("object_graph_def") for graph in graphs):
        raise FinetuneError(
            f"{handle} is a TF1 Hub module or another SavedModel of TF1: its training graph cannot be used from TF2; "
            f"expected {_EXPECTED} (of the ImageNet modules, versions 4 and 5)"
        )
    _require_harmless(path, graphs, handle)
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # the loader raises whatever its parts raise: protobuf, file system, graph
        raise FinetuneError(
            f"{handle} cannot be loaded as a SavedModel ({str(error).partition(chr(10))[0][:300]}): copy or fetch it "
            "again"
        ) from None
    function, arguments, side = _function(loaded, handle)
    held = _variables(loaded, function)
    trained = getattr(loaded, "trainable_variables", None)
    trainable = list(trained) if trained is not None else [one for one in held if one.trainable]
    # `arguments` lacks what a signature hides: it is used as it is.
    can_train = "training" in arguments
    takes_momentum = can_train and "batch_norm_momentum" in arguments

    def run(images: tf.Tensor, training: bool, momentum: float) -> tf.Tensor:
        given: dict[str, Any] = {"training": training} if can_train else {}
        if takes_momentum:
            given["batch_norm_momentum"] = momentum
        return _features(function(images, **given), handle, output)

    run._kept = loaded  # type: ignore[attr-defined]  # the functions refer to its variables weakly
    return Loaded(handle, held, trainable, run, can_train, takes_momentum, side)


def files(handle: str) -> list[Path]:
    """The files of a module that are its content: the graph and the variables."""
    path = _resolved(handle)
    return sorted(one for one in (*path.glob("saved_model.pb*"), *path.glob("variables/*")) if one.is_file())


def _resolved(handle: str) -> Path:
    """The directory of a handle, fetched where it is an address. Raises FinetuneError, CheckpointError."""
    if "://" not in handle:
        path = Path(handle).expanduser()
        if not path.exists():
            raise FinetuneError(
                f"there is no SavedModel {handle}: expected the path of a directory with saved_model.pb in it, or a "
                "handle such as https://tfhub.dev/google/imagenet/resnet_v1_50/feature_vector/5"
            )
        if not is_saved_model(path):
            raise FinetuneError(f"{handle} is no SavedModel: expected a directory with saved_model.pb in it")
        return path
    path = store.locate_module(handle)
    if not is_saved_model(path):
        raise FinetuneError(f"{handle} holds no saved_model.pb: expected {_EXPECTED}")
    return path


def _function(loaded: Any, handle: str) -> tuple[Callable[..., Any], set[str], int | None]:
    """What is called with images, the names of its arguments, and the images' side."""
    if callable(loaded):
        function = loaded.__call__
        specification = getattr(function, "function_spec", None)
        signature = specification.fullargspec if specification else inspect.getfullargspec(function)
        shapes = [
            one.shape
            for concrete in getattr(function, "concrete_functions", [])
            for one in concrete.structured_input_signature[0][:1]
            if isinstance(one, tf.TensorSpec)
        ]
        if shapes and not any(shape.rank in (None, 4) for shape in shapes):
            raise FinetuneError(f"{handle} takes {shapes[0]}: expected images [batch, height, width, 3]")
        return function, {*signature.args, *signature.kwonlyargs}, _side(shapes)
    signatures = dict(getattr(loaded, "signatures", {}))
    usable = {}
    for name, one in signatures.items():
        arguments = one.structured_input_signature[1]
        if len(arguments) == 1 and len(next(iter(arguments.values())).shape or []) == 4:
            usable[name] = (one, *arguments.popitem())
    chosen = next(
        (usable[name] for name in ("default", "image_feature_vector", "serving_default") if name in usable), None
    )
    if chosen is None and len(usable) == 1:
        (chosen,) = usable.values()
    if chosen is None:
        there = f"its signatures are {', '.join(signatures)}" if signatures else "it has no signature"
        raise FinetuneError(
            f"{handle} cannot be called with images ({there}): expected {_EXPECTED}, or one signature that takes "
            "[batch, height, width, 3]"
        )
    concrete, argument, spec = chosen
    return lambda images: concrete(**{argument: images}), set(), _side([spec.shape])


def _side(shapes: list[Any]) -> int | None:
    """The side in px that all of these shapes give, None where they differ or give none."""
    sides = {shape[1] for shape in shapes if shape.rank == 4 and shape[1] is not None}
    return int(sides.pop()) if len(sides) == 1 else None


def _variables(loaded: Any, function: Any) -> list[tf.Variable]:
    """Every variable, once: those the module lists, or those its functions use."""
    listed = getattr(loaded, "variables", None)
    if listed is None:
        concrete = [function] if hasattr(function, "variables") else getattr(function, "concrete_functions", [])
        listed = [one for each in concrete for one in each.variables]
        if not listed:
            listed = [one for each in dict(getattr(loaded, "signatures", {})).values() for one in each.variables]
    unique = {id(one): one for one in listed if one.dtype.is_floating or one.dtype.is_integer}
    return list(unique.values())


def _features(result: Any, handle: str, output: str | None) -> tf.Tensor:
    """The one tensor among a call's results that holds the features. WrongUse where there is no such output."""
    if isinstance(result, list | tuple):
        result = result[0] if len(result) == 1 else {f"output_{place}": one for place, one in enumerate(result)}
    if not isinstance(result, dict):
        if output is not None:
            raise WrongUse(f"--output {output}: {handle} has one output: leave it out")
        return result
    if output is not None and output not in result:
        raise WrongUse(f"--output {output}: {handle} has no such output: expected one of {', '.join(sorted(result))}")
    if output is None and len(result) == 1:
        return next(iter(result.values()))
    if output is None and "default" not in result:
        ranked = sorted(result, key=lambda name: (len(result[name].shape) != 2, name))
        found = ", ".join(f"{name} {list(result[name].shape)}" for name in ranked)
        raise FinetuneError(f"{handle} gives {len(result)} outputs: {found}; choose one with --output {ranked[0]}")
    return result[output or "default"]


def _require_harmless(directory: Path, graphs: Sequence[Any], handle: str) -> None:
    """Raise FinetuneError where a TF2 SavedModel has an operation that does more than compute.

    Functions that only write and read its checkpoints are exempt: they are never called. Raises CheckpointError where
    its variables are damaged.
    """
    if (directory / "saved_model.cpb").exists():
        raise FinetuneError(f"{handle} is split over several files (saved_model.cpb): expected one saved_model.pb")
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
    """The functions that nodes call, by name."""
    for node in nodes:
        if node.op in functions:
            yield node.op
        for value in node.attr.values():
            yield from (one.name for one in (value.func, *value.list.func) if one.name in functions)
