"""Weights of a catalogue network from one format into another: slim V2, Keras `.weights.h5`, Keras `.keras`.

Nothing is computed: every array is written bit for bit, under its name in the other format. Only one shape changes:
a dense head `[channels, classes]` and slim's 1x1 convolution `[1, 1, channels, classes]` are the same numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from checkpoints.catalog.lookup import BackboneSpec, find_row
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.slim import OBJECT_GRAPH, everything, write_slim
from checkpoints.matching import transfer
from checkpoints.matching.fit import Fit, best_fit, fit_row
from checkpoints.matching.pairing import Pairing, of_head, pair
from checkpoints.matching.structures import Entry, structures
from finetune.backbone import networks
from finetune.backbone.file_names import network_entries, network_variables
from finetune.backbone.keras_file import write_model
from finetune.backbone.networks.names import slim_variables
from finetune.errors import FinetuneError, WrongUse
from finetune.files import room_for

Format = Literal["slim-v2", "keras-weights-h5", "keras-zip"]


@dataclass(frozen=True)
class Conversion:
    """What was written.

    path, kind: what was read. out, format: what was written; for slim-v2 `out` is the prefix.
    backbone: the network whose names were used; None where a TF checkpoint was copied whole, whatever it holds.
    variables: how many were written. outputs: of the head that went along; None without a head, or not known.
    not_carried: reason -> names in `path` that the network has no variable for.
    """

    path: str
    kind: str
    out: str
    format: Format
    backbone: str | None
    variables: int
    outputs: int | None
    not_carried: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """For `checkpoint convert --json`."""
        return asdict(self)

    def summary(self) -> str:
        """A few lines a person reads."""
        if self.backbone is None:
            head = "as they are"
        else:
            head = f"of {self.backbone}, " + ("without a head" if self.outputs is None else f"{self.outputs} outputs")
        lines = [f"{self.out} ({self.format}): {self.variables} variables {head}, from {self.path} ({self.kind})"]
        for reason, names in self.not_carried.items():
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            lines.append(f"not carried over: {len(names)} {reason} ({some})")
        return "\n".join(lines)


def convert(path: Path, out: Path, *, backbone: str | None = None) -> Conversion:
    """Write the weights in `path` to `out` in the format its ending says; the head and its classes come along.

    `.weights.h5` and `.keras` are Keras's, any other name is the prefix of a slim V2 checkpoint. `backbone` names the
    catalogue row where the file fits several, or none as a whole. A TF checkpoint that becomes one is copied with
    everything in it, unless `backbone` says to keep that network's variables only.
    Raises WrongUse for an `out` that is there already or cannot be meant, CheckpointError for a file that does not
    fit, FinetuneError where the other format has no place for a part of it.
    """
    target = format_of(out)
    check_free(out, target)
    opened = open_checkpoint(path)
    if target == "slim-v2" and opened.kind.startswith("slim") and backbone is None and _named(opened):
        arrays = everything(opened)
        with room_for(out):
            write_slim(out, arrays)
        return Conversion(str(opened.path), opened.kind, str(out), target, None, len(arrays), None, {})
    return transcribe(opened, _fit(opened, backbone), out)


def transcribe(opened: Checkpoint, found: Fit, out: Path) -> Conversion:
    """Write an opened file, read as the network that `found` says, to `out`, which is free; as `convert` otherwise."""
    target, spec = format_of(out), found.spec
    if target == "slim-v2" and spec.source == "keras":
        raise FinetuneError(
            f"{opened.path} holds {spec.id}, which has no slim names: only slim's networks become slim "
            "checkpoints; give an OUT that ends in .weights.h5 or .keras"
        )
    # A `.keras` file takes images of the published size, and so does the head of Keras's VGG.
    model, report = load_stock(opened, found, image_size=spec.image_size)
    with room_for(out):
        if target == "slim-v2":
            write_slim(out, {name: np.asarray(variable) for name, variable in slim_variables(model).items()})
        else:
            write_model(model, out)
    return Conversion(
        str(opened.path), opened.kind, str(out), target, spec.id, len(report.assigned), found.outputs, report.ignored
    )


def format_of(out: Path) -> Format:
    """The format that a name's ending asks for. Raises WrongUse for endings that are something else."""
    if out.name.endswith(".weights.h5"):
        return "keras-weights-h5"
    if out.suffix == ".keras":
        return "keras-zip"
    if out.suffix in (".h5", ".hdf5", ".index", ".meta", ".pb", ".npz", ".gz", ".tgz", ".zip"):
        raise WrongUse(
            f"{out} ends in {out.suffix}, which is not written: expected NAME.weights.h5, NAME.keras, or the prefix of "
            "a slim V2 checkpoint such as model.ckpt"
        )
    return "slim-v2"


def check_free(out: Path, target: Format = "slim-v2") -> None:
    """Raise WrongUse where something is at `out` already, or a directory could not be made for it."""
    written = [Path(f"{out}.index"), Path(f"{out}.data-00000-of-00001")] if target == "slim-v2" else []
    for place in (out, *written):
        if place.exists() or place.is_symlink():
            raise WrongUse(f"{place} is already there and is not overwritten: give another name")
    there = next(place for place in out.absolute().parents if place.exists())
    if not there.is_dir():
        raise WrongUse(f"cannot write {out}: {there} is a file, not a directory; give another name")


def load_stock(
    opened: Checkpoint, found: Fit, *, image_size: int | tuple[int, int]
) -> tuple[keras.Model, transfer.LoadReport]:
    """The network of `found` in stock layers with the weights in `opened`, head included, and what was assigned.

    Raises CheckpointError where the file does not fill it exactly, FinetuneError for a head of another form.
    """
    spec = found.spec
    network = networks.build(spec.family, image_size=image_size, outputs=found.outputs, arguments=spec.arguments)
    variables = network_variables(network.model, source=spec.source)
    of_network = network_entries(network.model, source=spec.source)
    pairing = pair(opened, spec, of_network)
    names, shapes = _with_head(opened, spec, of_network, pairing)
    dtypes: dict[str, np.dtype[Any]] = {}

    def read(name: str) -> np.ndarray:
        array = opened.read(name)
        dtypes[name] = array.dtype
        return array.reshape(shapes[name]) if name in shapes else array

    file = replace(opened, shapes={**opened.shapes, **shapes}, read=read)
    targets = {names[name]: variable for name, variable in variables.items()}
    report = transfer.assign(file, targets, ignore=pairing.ignored)
    for name, variable in variables.items():
        is_float32 = dtypes[names[name]] == np.float32
        if not is_float32 and not np.array_equal(file.read(names[name]), np.asarray(variable)):
            raise CheckpointError(
                f"{opened.path} holds {names[name]} as {dtypes[names[name]]}, which float32 cannot keep: it is not "
                "converted, for it would come back changed"
            )
    return network.model, report


def _fit(opened: Checkpoint, backbone: str | None) -> Fit:
    if backbone is not None:
        spec = find_row(backbone)
        return fit_row(opened, spec, structures().get(spec.id, ()))
    return best_fit(opened)


def _with_head(
    opened: Checkpoint, spec: BackboneSpec, of_network: list[Entry], pairing: Pairing
) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """(network's name -> the file's, the file's name -> the network's shape) with the head in its place.

    A user's own head has other names; as a dense layer it also has another shape than slim's convolution.
    """
    names = dict(pairing.names)
    logits = [entry for entry in of_network if of_head(spec, entry.name)]
    if logits and not all(names[entry.name] in opened.shapes for entry in logits):
        kernels = [name for name in pairing.head if len(opened.shapes[name]) > 1]
        biases = [name for name in pairing.head if len(opened.shapes[name]) == 1]
        if (len(kernels), len(biases)) != (1, 1):
            raise FinetuneError(
                f"the head of {opened.path} is {', '.join(pairing.head)}: expected one layer of weights and biases, "
                f"which is all the network of {spec.id} has a place for; train without --hidden"
            )
        for entry in logits:
            names[entry.name] = (kernels if len(entry.shape) > 1 else biases)[0]
    shapes = {names[entry.name]: entry.shape for entry in logits}
    same_size = {name: shape for name, shape in shapes.items() if math.prod(opened.shapes[name]) == math.prod(shape)}
    return names, same_size


def _named(opened: Checkpoint) -> bool:
    """Whether a TF checkpoint goes by names, as slim's do, not by TF2's objects."""
    return not tf.train.load_checkpoint(str(opened.path)).has_tensor(OBJECT_GRAPH)
