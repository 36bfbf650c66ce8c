"""A `.meta` file read as data: its graph, its collections, and where a checkpoint keeps its variables.

The variables are read without running the graph's own restore operations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import variable_pb2

from checkpoints.formats import Checkpoint
from checkpoints.formats.location import newest_checkpoint
from checkpoints.formats.operations import VARIABLES
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.graphdef import MetaGraph, Saved, read_graph
from finetune.tf_graphs.program.nodes import Graph, Node, Ref, constant_value, declared_shape, first_of

_EXPECTED = "expected the .meta file that tf.compat.v1.train.Saver writes beside a checkpoint (model.ckpt-1000.meta)"
_LARGEST = 2**31 - 1
_AVERAGE = "/ExponentialMovingAverage"


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
    node = graph.producer(ref)
    if node.op != "Const" or constant_value(node) is not None:
        return []
    return [text.decode("utf-8", "replace") for text in node.attr["value"].tensor.string_val]


@dataclass(frozen=True)
class Averages:
    """Exponential moving averages of weights in a checkpoint.

    averaged: variables that have one. without: variables on the way to the logits that have none.
    used: whether the averages were read in place of the weights.
    """

    averaged: tuple[str, ...]
    without: tuple[str, ...]
    used: bool


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
        own = [saved for saved in meta.saved.get(name, ()) if saved.key == name]
        kept = [saved for saved in (*own, Saved(name), *meta.saved.get(name, ())) if saved.key in checkpoint.shapes]
        if kept:
            found[name] = kept[0]
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
        _require_shape(variables[name], saved, checkpoint)
    without = tuple(name for name in found if name not in averaged) if averaged else ()
    return found, Averages(averaged, without, use_averages)


def _require_shape(variable: Node, saved: Saved, checkpoint: Checkpoint) -> None:
    wanted, kept = declared_shape(variable), checkpoint.shapes[saved.key]
    if saved.part or wanted is None or None in wanted or tuple(wanted) == tuple(kept):
        return
    raise FinetuneError(
        f"{saved.key} is {list(kept)} in {checkpoint.path}, but {list(wanted)} in the graph: it is the checkpoint of "
        "another network (another number of classes, for the last layer); give the right one with --checkpoint"
    )


def load_variables(checkpoint: Checkpoint, places: Mapping[str, Saved]) -> dict[str, np.ndarray]:
    """The values of variables by name. FinetuneError where the part a Saver names does not fit."""
    whole = {name: (saved, checkpoint.read(saved.key)) for name, saved in places.items()}
    return {name: value[cuts(saved, value.shape)] for name, (saved, value) in whole.items()}


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
    counted = None
    for name in (*(name.partition(":")[0] for name in meta.collections.get("global_step", ())), "global_step"):
        if counted is None and checkpoint.shapes.get(name) == ():
            counted = int(checkpoint.read(name))
    _, _, number = checkpoint.path.name.rpartition("-")
    return counted or (int(number) if number.isdigit() else counted)


def all_initial(arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether all moving statistics are still 0 and 1."""
    return all(bool(np.all(mean == 0) and np.all(variance == 1)) for mean, variance in arrays.values())
