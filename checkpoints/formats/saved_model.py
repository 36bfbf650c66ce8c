"""The variables of a SavedModel by the names they were made with. Its graph is not loaded, its code not run."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from checkpoints.catalog.lookup import CATALOG
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.location import Slim, find_slim
from checkpoints.formats.slim import open_variables


def open_saved_model(directory: Path) -> Checkpoint:
    """Open a SavedModel; names are the variables' own (`resnet_v1_50/conv1/weights`), as a slim checkpoint has them.

    A scope the module puts in front of a catalogue network's own is left out.
    Raises CheckpointError for a TF1 Hub module, for a SavedModel without variables, and one that is not whole.
    """
    if (directory / "tfhub_module.pb").is_file():
        raise CheckpointError(
            f"{directory} is a TF1 Hub module: expected a TF2 SavedModel; take the newer version of the module "
            "(its handle ends in /4 or /5 in place of /1 or /3), or the network's checkpoint"
        )
    opened = open_variables(_stored(directory), directory, "savedmodel")
    scope = scope_in_front(opened.shapes)
    original = {name.removeprefix(scope): name for name in opened.shapes}
    if not scope or len(original) < len(opened.shapes):
        return opened
    shapes = {name: opened.shapes[theirs] for name, theirs in original.items()}
    return Checkpoint(directory, opened.kind, shapes, lambda name: opened.read(original[name]), opened.sha256)


def open_by_keys(directory: Path) -> Checkpoint:
    """Open the checkpoint in a SavedModel; names are its keys, `path` is its prefix. Raises as `open_saved_model`."""
    found = _stored(directory)
    return open_variables(found, found.prefix, "savedmodel", own_names=False)


def parse_saved_model(directory: Path) -> Any:
    """The SavedModel message of `saved_model.pb`, or of `saved_model.pbtxt` where there is no binary one.

    Raises CheckpointError where the file cannot be read, or is no whole message.
    """
    from tensorflow.core.protobuf import saved_model_pb2  # imports TensorFlow, which other readers do without

    message = saved_model_pb2.SavedModel()
    binary, text = directory / "saved_model.pb", directory / "saved_model.pbtxt"
    path = binary if binary.is_file() else text
    try:
        if path == binary:
            message.ParseFromString(path.read_bytes())
        else:
            text_format.Parse(path.read_text(encoding="utf-8"), message)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (DecodeError, text_format.ParseError, UnicodeDecodeError, RecursionError):
        raise CheckpointError(f"{path} is damaged or cut off: copy or fetch it again") from None
    return message


def _stored(directory: Path) -> Slim:
    prefix = directory / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        raise CheckpointError(
            f"{directory} is a SavedModel without variables (no variables/variables.index): expected the weights of "
            "a network. Copy the whole directory, or export it with its variables"
        )
    return find_slim(prefix)


def scope_in_front(names: Iterable[str]) -> str:
    """What stands in front of the scope of a catalogue network, with its slash; "" where nothing, or not one thing."""
    scopes = {spec.arguments["scope"] for spec in CATALOG if "scope" in spec.arguments}
    first = re.compile(rf"((?:[^/]*/)*?)(?:{'|'.join(map(re.escape, scopes))})(?:/|\Z)")
    found = {match[1] for name in names if (match := first.match(name))}
    return found.pop() if len(found) == 1 else ""
