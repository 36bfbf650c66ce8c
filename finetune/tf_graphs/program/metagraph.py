"""A `.meta` file read as data: graph, collections, and under which names its Saver keeps the variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import variable_pb2

from checkpoints.formats.location import newest_checkpoint
from checkpoints.formats.operations import VARIABLES
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.constants import constant_value
from finetune.tf_graphs.program.graphdef import read_nodes
from finetune.tf_graphs.program.nodes import Graph, Node, Ref

_EXPECTED = "expected the .meta file that tf.compat.v1.train.Saver writes beside a checkpoint (model.ckpt-1000.meta)"
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Saved:
    """Where a checkpoint keeps a variable: the tensor's name, and the part of it (`shape start,length:...`)."""

    key: str
    part: str = ""


@dataclass(frozen=True)
class MetaGraph:
    """path: the file. collections: names of nodes or tensors by collection. saved: variable -> where Savers keep it.

    versions, stripped: the GraphDef's versions and the operations it was stripped by, for the import.
    """

    path: Path
    graph: Graph
    collections: Mapping[str, tuple[str, ...]]
    saved: Mapping[str, tuple[Saved, ...]]
    versions: Any
    stripped: Any


def locate(meta: Path, checkpoint: Path | None) -> tuple[Path, Path]:
    """The `.meta` and the checkpoint that are meant: by the file, by a checkpoint's prefix, or by a training directory.

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


def read(path: Path) -> MetaGraph:
    """Parse `path`, binary or as text. FinetuneError where it is no MetaGraphDef, or not a whole one."""
    proto = _parse(path)
    if not proto.graph_def.node:
        raise FinetuneError(f"{path} holds no graph: {_EXPECTED}")
    functions = {function.signature.name: function for function in proto.graph_def.library.function}
    graph = Graph(read_nodes(proto.graph_def.node, functions, path), functions)
    graph.ordered()
    return MetaGraph(
        path,
        graph,
        {name: tuple(_names(value)) for name, value in proto.collection_def.items()},
        places_saved(graph),
        proto.graph_def.versions,
        proto.meta_info_def.stripped_op_list,
    )


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
    """Node and tensor names, and those of the variables that a collection keeps as messages."""
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
    """What the graph's own save operations say, which are never run."""
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
    node: Node = graph.producer(ref)
    if node.op != "Const" or constant_value(node) is not None:
        return []
    return [text.decode("utf-8", "replace") for text in node.attr["value"].tensor.string_val]
