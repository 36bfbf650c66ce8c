"""A SavedModel read as data: its graph, its signature, and where its checkpoint keeps each variable. Nothing is run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from checkpoints.formats.operations import ASSIGNMENTS, VARIABLES
from checkpoints.formats.saved_model import parse_saved_model
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.fold import fold
from finetune.tf_graphs.program.graphdef import MetaGraph, Saved, parse_ref, read_graph
from finetune.tf_graphs.program.metagraph import places_saved
from finetune.tf_graphs.program.nodes import Graph, Ref, new_node

OUTPUT = "finetune_output"
"""The node that is added for the output of the signature."""
_SAVED = "finetune_saved"
_SIGNATURES = ("serving_default", "serve", "default", "image_feature_vector")
_OUTPUTS = ("logits", "default", "output_0", "probabilities")


@dataclass(frozen=True)
class SavedModel:
    """meta: the graph of the file, with `OUTPUT`; its path is the directory. signature, images: the function that is
    examined, and its argument.

    twins: where the copies of each variable are kept. Keras's `model.export` saves every variable twice: TensorFlow
    Serving restores one of them, `tf.saved_model.load` the other.
    """

    meta: MetaGraph
    signature: str
    images: Ref
    twins: Mapping[str, tuple[Saved, ...]]


def takes_training(directory: Path) -> bool:
    """Whether a SavedModel is called with an argument `training`, by the recorded signature of its `__call__`.

    CheckpointError where it is damaged.
    """
    objects = _serving(directory).object_graph_def
    if not objects.nodes:
        return False
    for child in objects.nodes[0].children:
        if child.local_name == "__call__" and child.node_id < len(objects.nodes):
            spec = objects.nodes[child.node_id].function.function_spec.fullargspec
            lists = [one.value.list_value for one in spec.named_tuple_value.values if one.key in ("args", "kwonlyargs")]
            return any(name.string_value == "training" for names in lists for name in names.values)
    return False


def read_saved_model(directory: Path) -> SavedModel:
    """Parse the SavedModel in `directory` and find the signature that takes images.

    CheckpointError where it is damaged. FinetuneError where no signature takes one tensor of images and gives one of
    classes.
    """
    path = directory / "saved_model.pb"
    proto = _serving(directory)
    graph = read_graph(proto.graph_def, path)
    name, signature = _signature(proto.signature_def, directory)
    (given,) = signature.inputs.values()
    output = _output(signature.outputs, f"the signature '{name}' of {directory}")
    images, end = parse_ref(given.name), parse_ref(output.name)
    for ref in (images, end):
        if ref.node not in graph.nodes:
            raise FinetuneError(f"{path} is damaged: its signature names '{ref}', which is not there; export it again")
    graph = graph.with_nodes([new_node(OUTPUT, "Identity", end, T=output.dtype)])
    saved = _places(graph, proto.saver_def)
    twins = {
        variable: tuple(place for copy in copies for place in saved.get(copy, ()))
        for variable, copies in _twins(graph).items()
    }
    # `tf.saved_model.save` of a Keras 3 model keeps only the copies, which the functions get when it is loaded.
    saved = twins | saved
    meta = MetaGraph(directory, graph, {}, saved, proto.graph_def.versions, proto.meta_info_def.stripped_op_list)
    return SavedModel(meta, name, images, twins)


def _serving(directory: Path) -> Any:
    """The MetaGraphDef that serves."""
    message = parse_saved_model(directory)
    for proto in message.meta_graphs:
        if "serve" in proto.meta_info_def.tags:
            return proto
    if len(message.meta_graphs) != 1:
        tags = " and ".join(str(list(one.meta_info_def.tags)) for one in message.meta_graphs) or "none"
        raise FinetuneError(f"{directory} has no graph with the tag 'serve' (it has {tags}): export it for serving")
    return message.meta_graphs[0]


def _signature(signatures: Mapping[str, Any], directory: Path) -> tuple[str, Any]:
    usable = {name: one for name, one in signatures.items() if len(one.inputs) == 1 and one.outputs and _pixels(one)}
    for name in _SIGNATURES:
        if name in usable:
            return name, usable[name]
    if len(usable) == 1:
        return usable.popitem()
    named = ", ".join(sorted(name for name in signatures if not name.startswith("__saved_model"))) or "none"
    raise FinetuneError(
        f"{directory} has {'several signatures' if usable else 'no signature'} that could take images alone (its "
        f"signatures: {named}): expected one called serving_default, with one argument [batch, height, width, 3] of "
        "numbers; export the model with it"
    )


def _pixels(signature: Any) -> bool:
    (given,) = signature.inputs.values()
    dtype = tf.as_dtype(given.dtype) if given.dtype else tf.string
    rank = None if given.tensor_shape.unknown_rank else len(given.tensor_shape.dim)
    return bool((dtype.is_floating or dtype.is_integer) and rank in (None, 2, 4))


def _output(outputs: Mapping[str, Any], where: str) -> Any:
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    chosen = next((outputs[name] for name in _OUTPUTS if name in outputs), None)
    if chosen is None or ("logits" not in outputs and "default" not in outputs and "probabilities" not in outputs):
        raise FinetuneError(
            f"{where} gives {', '.join(sorted(outputs))}: expected one output, or one called 'logits' or "
            "'probabilities', [batch, classes]; export the classifier alone"
        )
    return chosen


def _places(graph: Graph, saver: Any) -> dict[str, tuple[Saved, ...]]:
    """Where the model's own save function puts each variable. The function is read, not run."""
    ref = parse_ref(saver.save_tensor_name)
    if ref.node not in graph.nodes:
        return {}
    end = new_node(_SAVED, "Identity", ref, T=tf.string)
    return places_saved(fold(graph.with_nodes([end]), {}, [_SAVED]))


def _twins(graph: Graph) -> Mapping[str, tuple[str, ...]]:
    """Variables that are initialised with another one."""
    found: dict[str, tuple[str, ...]] = {}
    for node in graph.nodes.values():
        if node.op in ASSIGNMENTS and len(node.inputs) > 1:
            target, value = (graph.producer(graph.source(ref)) for ref in node.inputs[:2])
            if target.op in VARIABLES and value.op in VARIABLES and target.name != value.name:
                found[value.name] = (*found.get(value.name, ()), target.name)
    return found
