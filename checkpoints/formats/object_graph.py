"""The variables' own names in an object-based checkpoint of TF2, whose keys are paths through Python objects."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The key of the graph (tensorflow/core/protobuf/trackable_object_graph.proto)."""

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_OPTIMIZER = re.compile(r"(^|/)_?optimizer/|/\.OPTIMIZER_SLOT/")


def variable_names(reader: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Map each variable's name to its key among `shapes`.

    A variable saved under two keys (Keras's `model.export` does) is one. Where two variables share a name, and for
    what has none, the key stands without its ending. What belongs to an optimizer gets `optimizer/` in front.
    """
    by_name: dict[str, list[str]] = {}
    for key, name in _own_names(reader, shapes).items():
        by_name.setdefault(name, []).append(key)
    names = {}
    for name, keys in by_name.items():
        if name and (len(keys) == 1 or _all_equal(reader, keys, shapes)):
            names[name] = keys[0]
        else:
            names.update({key.removesuffix(_SUFFIX): key for key in keys})
    return names


def _own_names(reader: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Key -> `full_name`, in the order of the graph; "" where the graph does not say."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(OBJECT_GRAPH))
    attributes = (attribute for node in graph.nodes for attribute in node.attributes)
    names = {attribute.checkpoint_key: attribute.full_name.removesuffix(":0") for attribute in attributes}
    found = {key: name for key, name in names.items() if key in shapes} | {
        key: "" for key in shapes if key not in names
    }
    return {
        key: f"optimizer/{name}" if name and _OPTIMIZER.search(key) and not name.startswith("optimizer/") else name
        for key, name in found.items()
    }


def _all_equal(reader: Any, keys: list[str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    if len({shapes[key] for key in keys}) > 1:
        return False
    first = reader.get_tensor(keys[0])
    return all(np.array_equal(first, reader.get_tensor(key), equal_nan=first.dtype.kind == "f") for key in keys[1:])
