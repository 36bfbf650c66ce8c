"""A `.meta` file or a SavedModel read as data: its graph, collections or signature, and where its variables are kept.

Nothing is run: the variables are found without the graph's own restore operations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import variable_pb2

from checkpoints.formats import Checkpoint
from checkpoints.formats.location import newest_checkpoint, other_format
from checkpoints.formats.operations import ASSIGNMENTS, VARIABLES
from checkpoints.formats.saved_model import parse_saved_model
from finetune.errors import FinetuneError, WrongUse
from finetune.tf_graphs.program.endings import Ending
from finetune.tf_graphs.program.fold import fold
from finetune.tf_graphs.program.graphdef import MetaGraph, Saved, parse_ref, read_graph
from finetune.tf_graphs.program.nodes import Graph, Node, Ref, first_of, new_node
from finetune.tf_graphs.program.training_call import ending_of_call, moving_in_training

_EXPECTED = "expected the .meta file that tf.compat.v1.train.Saver writes beside a checkpoint (model.ckpt-1000.meta)"
_LARGEST = 2**31 - 1
_AVERAGE = "/ExponentialMovingAverage"
OUTPUT = "finetune_output"
"""The node that is added for the output of the signature."""
_SAVED = "finetune_saved"
_SIGNATURES = ("serving_default", "serve", "default", "image_feature_vector")
_OUTPUTS = ("logits", "default", "probabilities")


def locate_graph(meta: Path, checkpoint: Path | None) -> tuple[Path, Path]:
    """The `.meta` and the checkpoint that a file, a checkpoint's prefix or a training directory stands for.

    Raises FinetuneError where there is no .meta, CheckpointError where a directory has no checkpoint.
    """
    if meta.is_dir():
        prefix = newest_checkpoint(meta)
        meta = prefix.with_name(prefix.name + ".meta")
    elif not meta.is_file() and meta.with_name(meta.name + ".meta").is_file():
        meta = meta.with_name(meta.name + ".meta")
    if not meta.is_file():
        raise FinetuneError(f"there is no graph {meta}: {_EXPECTED}")
    if meta.suffix != ".meta" and (what := other_format(meta)):
        raise FinetuneError(f"{meta} {what}")
    if checkpoint is None:
        if meta.suffix != ".meta":
            raise FinetuneError(f"{meta} does not end in .meta, so its checkpoint is not known: give --checkpoint")
        checkpoint = meta.with_suffix("")
    return meta, checkpoint


def read_meta_graph(path: Path) -> MetaGraph:
    """Parse `path`, binary or as text. FinetuneError where it is not a whole MetaGraphDef."""
    proto = _parse(path)
    if not proto.graph_def.node:
        raise FinetuneError(f"{path} holds no graph: {_EXPECTED}")
    graph = read_graph(proto.graph_def, path)
    collections = {name: tuple(_names(value)) for name, value in proto.collection_def.items()}
    stripped = proto.meta_info_def.stripped_op_list
    return MetaGraph(path, graph, collections, places_saved(graph), proto.graph_def.versions, stripped)


def _parse(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST:
            raise FinetuneError(f"{path} is larger than a meta graph can be (2 GB): {_EXPECTED}")
        content = path.read_bytes()
    except OSError as error:
        raise FinetuneError(f"cannot read {path}: {error.strerror}") from None
    proto = tf.compat.v1.MetaGraphDef()
    try:
        proto.ParseFromString(content)
        return proto
    except DecodeError:
        pass
    try:
        text_format.Parse(content.decode("utf-8"), proto)
    except (text_format.ParseError, UnicodeDecodeError, RecursionError):
        raise FinetuneError(f"{path} is not a meta graph, or was cut off: {_EXPECTED}") from None
    return proto


def _names(value: Any) -> list[str]:
    """Names of nodes and tensors, and of the variables that a collection keeps as messages."""
    names = list(value.node_list.value)
    for content in value.bytes_list.value:
        variable = variable_pb2.VariableDef()
        try:
            variable.ParseFromString(content)
        except DecodeError:
            continue
        if variable.variable_name:
            names.append(variable.variable_name)
    return [name for name in names if name]


def places_saved(graph: Graph) -> dict[str, tuple[Saved, ...]]:
    """Where the graph's own save operations put each variable. They are read, never run."""
    found: dict[str, list[Saved]] = {}
    for node in graph.nodes.values():
        if node.op not in ("SaveV2", "SaveSlices", "Save"):
            continue
        first = 3 if node.op != "Save" else 2
        keys = _texts(graph, node.inputs[1])
        parts = _texts(graph, node.inputs[2]) if node.op != "Save" else [""] * len(keys)
        for key, part, tensor in zip(keys, parts, node.inputs[first:], strict=False):
            variable = graph.producer(graph.source(tensor))
            if variable.op in VARIABLES:
                found.setdefault(variable.name, []).append(Saved(key, part))
    return {name: tuple(dict.fromkeys(places)) for name, places in found.items()}


def _texts(graph: Graph, ref: Ref) -> list[str]:
    """The texts of a constant, none where it holds numbers or is computed."""
    node = graph.producer(ref)
    if node.op != "Const" or node.constant_value is not None:
        return []
    return [text.decode("utf-8", "replace") for text in node.attr["value"].tensor.string_val]


@dataclass(frozen=True)
class Averages:
    """Exponential moving averages of weights in a checkpoint.

    averaged: variables that have one. without: variables on the way to the logits that have none.
    used: whether the averages were read in place of the weights.
    """

    averaged: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    used: bool = False

    def lines(self) -> list[str]:
        """One or two lines for people, none where there are no averages."""
        if not self.averaged:
            return []
        used = "used" if self.used else "not used"
        lines = [f"averages of {len(self.averaged)} variables in the checkpoint, {used}"]
        if self.used and self.without:
            lines.append(f"without an average, so read as they are: {first_of(self.without)}")
        return lines


def held(meta: MetaGraph, checkpoint: Checkpoint, name: str) -> Saved | None:
    """Where `checkpoint` keeps a variable: under its own name, else where a Saver of the graph keeps it."""
    savers = meta.saved.get(name, ())
    own = [saved for saved in savers if saved.key == name]
    return next((saved for saved in (*own, Saved(name), *savers) if saved.key in checkpoint.shapes), None)


def find_variables(
    meta: MetaGraph, checkpoint: Checkpoint, variables: Mapping[str, Node], *, use_averages: bool = False
) -> tuple[dict[str, Saved], Averages]:
    """Where `checkpoint` keeps each of `variables` (nodes by name), and which of them have averages.

    A variable is found by its own name, else where a Saver of the graph keeps it. Raises FinetuneError where one is
    missing or has another shape, or where averages are asked for and there are none.
    """
    found: dict[str, Saved] = {}
    missing = []
    for name in variables:
        if kept := held(meta, checkpoint, name):
            found[name] = kept
        else:
            missing.append(name)
    if missing:
        raise FinetuneError(
            f"{checkpoint.path} does not hold {first_of(missing, 6)} of {meta.path}: it is not the "
            "checkpoint of this graph; give the right one with --checkpoint"
        )
    averaged = tuple(name for name, saved in found.items() if saved.key + _AVERAGE in checkpoint.shapes)
    if use_averages:
        if not averaged:
            raise FinetuneError(f"{checkpoint.path} holds no averages of weights (*{_AVERAGE}): leave out --ema")
        found.update({name: replace(found[name], key=found[name].key + _AVERAGE) for name in averaged})
    for name, saved in found.items():
        wanted, kept_shape = variables[name].declared_shape(), checkpoint.shapes[saved.key]
        if not (saved.part or wanted is None or None in wanted or tuple(wanted) == tuple(kept_shape)):
            raise FinetuneError(
                f"{saved.key} is {list(kept_shape)} in {checkpoint.path}, but {list(wanted)} in the graph: it is the "
                "checkpoint of another network (another number of classes, for the last layer); give the right one "
                "with --checkpoint"
            )
    without = tuple(name for name in found if name not in averaged) if averaged else ()
    return found, Averages(averaged, without, use_averages)


def cuts(saved: Saved, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of a tensor of `shape` that is the variable (`4,8 0,2:0,8` in a Saver).

    FinetuneError where there is no such part.
    """
    if not saved.part:
        return tuple(slice(None) for _ in shape)
    *_, spans = saved.part.split(" ")
    try:
        parts = [span.partition(",") for span in spans.split(":")]
        found = [
            slice(None) if start == "-" else slice(int(start), int(start) + int(length)) for start, _, length in parts
        ]
    except ValueError:
        found = []
    if len(found) != len(shape) or any((each.stop or 0) > side for each, side in zip(found, shape, strict=True)):
        raise FinetuneError(
            f"the graph's Saver takes the part '{saved.part}' of {saved.key}, which is {list(shape)}: graph and "
            "checkpoint do not belong together"
        )
    return tuple(found)


def variables_of(graph: Graph) -> dict[str, Node]:
    """A graph's variables by name."""
    return {name: node for name, node in graph.nodes.items() if node.op in VARIABLES}


def global_step(meta: MetaGraph, checkpoint: Checkpoint) -> int | None:
    """The global step, by the graph's name for it or the usual one; else the number at the end of the file's name.

    Where the step is still 0, nothing counted it. The number in the file's name is used then as well.
    """
    names = [*(name.partition(":")[0] for name in meta.collections.get("global_step", ())), "global_step"]
    counted = next((int(checkpoint.read(name)) for name in names if checkpoint.shapes.get(name) == ()), None)
    _, _, number = checkpoint.path.name.rpartition("-")
    return counted or (int(number) if number.isdigit() else counted)


@dataclass(frozen=True)
class SavedModel:
    """meta: the graph of the file, with `OUTPUT`; its path is the directory. signature, images: the function that is
    examined, and its argument.

    frozen: the moving means that normalise in training as well (`training_call`).
    twins: where the copies of each variable are kept. Keras's `model.export` saves every variable twice: TensorFlow
    Serving restores one of them, `tf.saved_model.load` the other.
    """

    meta: MetaGraph
    signature: str
    images: Ref
    frozen: frozenset[str]
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


def called_ending(directory: Path, output: str | None = None) -> Ending:
    """What a SavedModel gives that is called with an argument `training`: its result, or the one of the key `output`.

    CheckpointError or FinetuneError where it is damaged.
    """
    proto = _serving(directory)
    return ending_of_call(proto, read_graph(proto.graph_def, directory / "saved_model.pb"), output)


def read_saved_model(directory: Path, output: str | None = None) -> SavedModel:
    """Parse the SavedModel in `directory` and find the signature that takes images; `output` is one of its outputs.

    CheckpointError where it is damaged. FinetuneError where no signature takes one tensor of images, or it has several
    outputs and none is named; WrongUse where it has no such output.
    """
    path = directory / "saved_model.pb"
    proto = _serving(directory)
    graph = read_graph(proto.graph_def, path)
    name, signature = _signature(proto.signature_def, directory)
    (given,) = signature.inputs.values()
    chosen = _output(signature.outputs, f"the signature '{name}' of {directory}", output)
    images, end = parse_ref(given.name), parse_ref(chosen.name)
    for ref in (images, end):
        if ref.node not in graph.nodes:
            raise FinetuneError(f"{path} is damaged: its signature names '{ref}', which is not there; export it again")
    graph = graph.with_nodes([new_node(OUTPUT, "Identity", end, T=chosen.dtype)])
    saved = _places(graph, proto.saver_def)
    twins = {
        variable: tuple(place for copy in copies for place in saved.get(copy, ()))
        for variable, copies in _twins(graph).items()
    }
    # `tf.saved_model.save` of a Keras 3 model keeps only the copies, which the functions get when it is loaded.
    saved = twins | saved
    meta = MetaGraph(directory, graph, {}, saved, proto.graph_def.versions, proto.meta_info_def.stripped_op_list)
    return SavedModel(meta, name, images, moving_in_training(proto, graph), twins)


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
    """The signature that takes images alone, with its name: a usual name, or the only one. FinetuneError if none."""
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
    """Whether the one input of a signature can be images: numbers with two axes (rows), three or four."""
    (given,) = signature.inputs.values()
    dtype = tf.as_dtype(given.dtype) if given.dtype else tf.string
    rank = None if given.tensor_shape.unknown_rank else len(given.tensor_shape.dim)
    return bool((dtype.is_floating or dtype.is_integer) and rank in (None, 2, 3, 4))


def _output(outputs: Mapping[str, Any], where: str, wanted: str | None) -> Any:
    """The output that holds logits or probabilities: the one of that name, the only one, or one of a usual name.

    WrongUse where there is no output `wanted`, FinetuneError where several could be meant.
    """
    if wanted is not None:
        if wanted not in outputs:
            raise WrongUse(
                f"--output {wanted}: {where} has no such output: expected one of {', '.join(sorted(outputs))}"
            )
        return outputs[wanted]
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    usual = [name for name in _OUTPUTS if name in outputs]
    if not usual:
        sides = {name: [int(side.size) for side in one.tensor_shape.dim] for name, one in outputs.items()}
        ranked = sorted(sides, key=lambda name: (len(sides[name]) != 2, name))
        found = ", ".join(f"{name} {sides[name]}".replace("-1", "?") for name in ranked)
        raise FinetuneError(f"{where} gives {len(outputs)} outputs: {found}; choose one with --output {ranked[0]}")
    return outputs[usual[0]]


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
