"""What Keras 2 records of a model in a SavedModel: its class and config, its layers, how it was compiled. Only data.

TensorFlow 2.5 and newer write `keras_metadata.pb` (tf_keras/protobuf/saved_metadata.proto), 2.0 to 2.4 the same JSON
into the object graph of `saved_model.pb`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import empty_pb2
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from checkpoints.errors import CheckpointError
from checkpoints.formats.saved_model import parse_saved_model

FILE = "keras_metadata.pb"
_NODE, _NODE_ID, _METADATA = 1, 2, 5
"""Numbers of fields in saved_metadata.proto."""
_WITH_GRAPH = ("Functional", "Sequential", "Model")
"""Classes whose config is the whole model. All others are subclasses, whose layers Python code calls."""
_NORMALISING = ("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization")


@dataclass(frozen=True)
class Recorded:
    """A model as Keras 2 recorded it.

    class_name: of the model, "" where it is not known. config: what its class is made from again, None for a model that
        is Python code.
    momenta: of its BatchNormalization layers. loss: as it was compiled, as JSON; "" where it was not. version: of the
        Keras that saved it, "" where it is not known.
    """

    class_name: str
    config: dict[str, Any] | None
    momenta: tuple[float, ...]
    loss: str
    version: str = ""


def recorded(directory: Path) -> Recorded | None:
    """The model a SavedModel records, None where Keras 2's `model.save` did not write it.

    CheckpointError where a file is damaged.
    """
    nodes = [one for one in _nodes(directory) if isinstance(one, dict)]
    root = nodes[0] if nodes else {}
    whole = root.get("model_config")
    if whole is None and "config" in root:  # a model of Keras's own layers that was never called
        whole = {"class_name": root.get("class_name"), "config": root["config"]}
    if not isinstance(whole, dict):
        saved = _is_keras(directory)  # `tf.saved_model.save` leaves the JSON out
        return Recorded("", None, (), "") if saved else None
    config, name = whole.get("config"), str(whole.get("class_name"))
    known = name in _WITH_GRAPH and isinstance(config, dict) and "layers" in config
    bn = [one.get("config") for one in nodes if one.get("class_name") in _NORMALISING]
    momenta = [one.get("momentum") for one in bn if isinstance(one, dict)]
    compiled = root.get("training_config")
    return Recorded(
        name,
        config if known else None,
        tuple(float(one) for one in momenta if isinstance(one, int | float)),
        json.dumps(compiled.get("loss")) if isinstance(compiled, dict) else "",
        str(root.get("keras_version", "")),
    )


def _is_keras(directory: Path) -> bool:
    """Whether the object that was saved is a model of Keras 2, by the name of its type."""
    graphs = (one.object_graph_def.nodes for one in parse_saved_model(directory).meta_graphs)
    return any(nodes[0].user_object.identifier.startswith("_tf_keras") for nodes in graphs if nodes)


def origin(directory: Path) -> str:
    """What a SavedModel is and which program saved it, for people: "a Sequential model saved by TensorFlow 2.9.1"."""
    model = recorded(directory)
    name = "SavedModel" if model is None else f"{model.class_name} model" if model.class_name else "Keras model"
    version = next((one.meta_info_def.tensorflow_version for one in parse_saved_model(directory).meta_graphs), "")
    return f"a {name} saved by TensorFlow {version}" if version else f"a {name}"


def _nodes(directory: Path) -> Iterator[Any]:
    """The JSON of the model, then of its layers."""
    path = directory / FILE
    try:
        if path.is_file():
            found = [dict(_fields(one)) for number, one in _fields(path.read_bytes()) if number == _NODE]
            found.sort(key=lambda one: int(one.get(_NODE_ID, 0)))
            texts = [bytes(one.get(_METADATA, b"")).decode("utf-8") for one in found]
        else:
            path = directory / "saved_model.pb"
            graphs = parse_saved_model(directory).meta_graphs
            texts = [
                one.user_object.metadata
                for graph in graphs[:1]
                for index, one in enumerate(graph.object_graph_def.nodes)
                if index == 0 or one.user_object.identifier == "_tf_keras_layer"
            ]
        yield from (json.loads(text) for text in texts if text)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (DecodeError, ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{path} is damaged or cut off: copy or fetch it again") from None


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of the fields of a message whose type is not compiled in."""
    message = empty_pb2.Empty.FromString(content)
    return ((one.field_number, one.data) for one in UnknownFieldSet(message))
