"""From a spec to a network with its weights, under the BatchNorm of this package."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import keras

from checkpoints import store
from checkpoints.catalog.lookup import BackboneSpec
from checkpoints.download.transport import Progress
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.keras_zip import snake_case
from checkpoints.matching import transfer
from checkpoints.matching.fit import fit_row
from checkpoints.matching.leftovers import TRAINING_LEFTOVERS, Ignore
from checkpoints.matching.pairing import in_slim_scopes, pair
from checkpoints.matching.structures import Entry, structures
from finetune.backbone import networks, own_model
from finetune.backbone.head import ORDER, check_classes
from finetune.backbone.hub import module
from finetune.backbone.networks.names import keras_variables, slim_variables
from finetune.backbone.networks.network import layers_by_stage
from finetune.batchnorm.surgery import UNCHANGED, BatchNormOptions, adopt
from finetune.errors import WrongUse


@dataclass(frozen=True)
class Backbone:
    """A pretrained network under the BatchNorm of this package, ready for a head.

    model: preprocessed float32 `[batch, height, width, 3]` to features `[batch, channels]`, or to logits
        `[batch, outputs]` where it was loaded with a head.
    stages: stage name -> layer names, from the input to the output.
    report: what was assigned and ignored; None for random weights.
    words: which layer of a file was chosen as its head, for the user to read; "" where there was no choice.
    """

    spec: BackboneSpec
    model: keras.Model
    scope: str
    stages: dict[str, list[str]]
    report: transfer.LoadReport | None
    words: str = ""


def load_backbone(
    spec: BackboneSpec,
    *,
    image_size: int,
    checkpoint: Path | Checkpoint | None = None,
    head: Literal["published"] | int | None = None,
    features: str | None = None,
    from_scratch: bool = False,
    batchnorm: BatchNormOptions = UNCHANGED,
    progress: Progress | None = None,
) -> Backbone:
    """Build the network of a spec at `image_size` px and load its weights, strictly.

    checkpoint: a file of the user, or what it opened as. Without it the published file is fetched.
    head: None ends the network in its pooled features, "published" in the published logits, a number in the logits of
        the file, which must be that many.
    features: the layer of a model file to end after, instead of its pooled features.
    from_scratch: keep the random initial weights.

    Raises CheckpointError for files, WrongUse for sizes, for a head of another size, and for options that this kind of
    source does not have.
    """
    check_image_size(spec, image_size)
    with_head, keep_head = head is not None, None if head == "published" else head
    if spec.source in ("file", "hub") and (checkpoint is not None or head == "published"):
        what = "has no published head" if head == "published" else "has its weights in it: leave out --checkpoint"
        raise WrongUse(f"{spec.id} is not a network of the catalogue, it {what}")
    if spec.source == "hub":
        model, scope, stages, held = module.load(
            spec, image_size=image_size, batchnorm=batchnorm, features=features, keep=with_head
        )
        return Backbone(spec, model, scope, stages, held)
    if spec.source == "file":
        model, scope, stages, report, words = own_model.load(
            spec, image_size=image_size, weights=not from_scratch, features=features, keep=keep_head
        )
        return Backbone(spec, adopt(model, unbiased=False, options=batchnorm), scope, stages, report, words)
    if features is not None:
        raise WrongUse(f"--features is for model files: {spec.id} ends in its pooled features; leave it out")
    # The file first: a missing or wrong checkpoint is reported before the graph is built, which takes seconds.
    opened = None if from_scratch else _open(spec, checkpoint, with_head=with_head, progress=progress)
    if opened and keep_head is not None:
        check_classes(head_outputs(spec, opened), keep_head, name=str(opened.path))
    network = networks.build(
        spec.family,
        image_size=image_size,
        outputs=_published_outputs(spec, opened) if head == "published" else keep_head,
        arguments=spec.arguments,
    )
    report = _assign(spec, opened, network.model, with_head=with_head) if opened else None
    model = adopt(network.model, unbiased=spec.source != "keras", options=batchnorm)
    words = "" if keep_head is None else f"head of the file kept: {keep_head} outputs{ORDER}"
    return Backbone(spec, model, network.scope, layers_by_stage(network), report, words)


def check_image_size(spec: BackboneSpec, image_size: int) -> None:
    """Raise WrongUse where the network's maps would shrink to nothing."""
    if image_size < spec.least_size:
        known = f"made for {spec.image_size}" if spec.unpublished else f"published at {spec.image_size}"
        raise WrongUse(
            f"image size {image_size} px is too small for {spec.id}: expected at least {spec.least_size} px "
            f"({known}); give --image-size {spec.least_size} or more"
        )


def _published_outputs(spec: BackboneSpec, opened: Checkpoint | None) -> int:
    """The number of logits of the published head; where nothing is published, of the head in the user's file."""
    return head_outputs(spec, opened) if opened and not spec.outputs else spec.outputs


def head_outputs(spec: BackboneSpec, opened: Checkpoint) -> int:
    """The number of logits in a file of a catalogue network's weights. CheckpointError where it has none."""
    outputs = fit_row(opened, spec, structures().get(spec.id, ())).outputs
    if outputs is None:
        raise CheckpointError(f"{opened.path} has no head: expected the logits of {spec.id} ({', '.join(spec.head)})")
    return outputs


def _open(
    spec: BackboneSpec, checkpoint: Path | Checkpoint | None, *, with_head: bool, progress: Progress | None
) -> Checkpoint:
    if isinstance(checkpoint, Checkpoint):
        opened = checkpoint
    else:
        opened = open_checkpoint(checkpoint or store.locate(spec, with_head=with_head, progress=progress))
    if spec.source == "keras":
        fits, layout = not opened.kind.startswith("slim"), "Keras weights (.h5, .weights.h5 or .keras)"
    else:
        fits = not opened.kind.startswith("keras") or in_slim_scopes(opened)
        layout = "a TF-slim checkpoint or a SavedModel"
    if not fits:
        raise CheckpointError(
            f"{opened.path} is a {opened.kind} file, but {spec.id} is loaded from {layout}: give the file that "
            f"belongs to {spec.id} with --checkpoint, or choose a backbone of the file's kind"
        )
    return opened


def _assign(spec: BackboneSpec, opened: Checkpoint, model: keras.Model, *, with_head: bool) -> transfer.LoadReport:
    ignore: list[Ignore] = [*TRAINING_LEFTOVERS, ("auxiliary head", spec.auxiliary)]
    # The network still has stock layers here: Keras's keys count layers by their class.
    variables = network_variables(model, source=spec.source)
    pairing = pair(opened, spec, network_entries(model, source=spec.source))
    if not with_head:
        ignore.append(("old head", [glob.escape(name) for name in pairing.head]))
    targets = {pairing.names[name]: variable for name, variable in variables.items()}
    return transfer.assign(opened, targets, ignore=ignore)


def network_variables(model: keras.Model, *, source: str) -> dict[str, keras.Variable]:
    """Map the names in published files of a source to the variables of a network of stock layers."""
    return keras_variables(model) if source == "keras" else slim_variables(model)


def network_entries(model: keras.Model, *, source: str) -> list[Entry]:
    """The variables of a network of stock layers, as a file of that source names them."""
    named = network_variables(model, source=source)
    keys = weights_file_variables(model)
    return [Entry(name, tuple(variable.shape), key) for (name, variable), key in zip(named.items(), keys, strict=True)]


def weights_file_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Map Keras 3's keys in a `.weights.h5` file to variables: `layers/batch_normalization_1/vars/0`.

    A layer is its class, counted among the model's layers. So the model must have stock layers: a class of this
    package has another key. Source: keras/src/saving/saving_lib.py, `_save_container_state`.
    """
    used: dict[str, int] = {}
    variables = {}
    for layer in model.layers:
        stem = snake_case(type(layer).__name__)
        count = used[stem] = used.get(stem, -1) + 1
        group = f"layers/{stem}_{count}" if count else f"layers/{stem}"
        variables.update({f"{group}/vars/{index}": variable for index, variable in enumerate(layer.weights)})
    return variables
