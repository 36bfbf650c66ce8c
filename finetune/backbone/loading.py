"""From a spec to a network with its weights, under our BatchNorm."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from checkpoints import store
from checkpoints.catalog.lookup import BackboneSpec
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.matching import transfer
from checkpoints.matching.fit import fit_row
from checkpoints.matching.pairing import in_slim_scopes, pair
from checkpoints.matching.structures import structures
from finetune.backbone import networks, own_model
from finetune.backbone.head import ORDER, check_classes
from finetune.backbone.hub import module
from finetune.backbone.networks.names import keras_variables, slim_variables
from finetune.backbone.networks.stages import layers_by_stage
from finetune.batchnorm.surgery import adopt
from finetune.errors import WrongUse
from tools.structures import entries

Progress = store.Progress


@dataclass(frozen=True)
class Backbone:
    """A pretrained network under our BatchNorm, ready for a head.

    model: preprocessed float32 `[batch, height, width, 3]` to features `[batch, channels]`, or to the published
        logits `[batch, outputs]` where it was loaded with its head.
    stages: stage name -> layer names, from the input to the output.
    report: what was assigned and ignored; None for random weights.
    words: what was taken for the head of a file, for the user to read; "" where there was nothing to decide.
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
    with_head: bool = False,
    keep_head: int | None = None,
    features: str | None = None,
    from_scratch: bool = False,
    bn_epsilon: float | None = None,
    bn_renorm: bool = False,
    bn_zero_debias: bool = False,
    progress: Progress | None = None,
) -> Backbone:
    """Build the network of a spec at `image_size` px and load its weights, strictly.

    `checkpoint` is a file of the user's, or what it opened as, in place of the published one, which is fetched;
    `from_scratch` leaves the random initial weights. `with_head` ends it in the published logits, `keep_head` in the
    file's own, which must be that many. `features` names the layer of a model file to end after.
    Raises CheckpointError for files, WrongUse for sizes, for a head of another size, and for what a kind of source
    does not have.
    """
    check_image_size(spec, image_size)
    if spec.source in ("file", "hub") and (checkpoint is not None or with_head):
        what = "has no published head" if with_head else "has its weights in it: leave out --checkpoint"
        raise WrongUse(f"{spec.id} is no network of the catalogue, it {what}")
    if spec.source == "hub":
        model, scope, stages, held = module.load(
            spec,
            image_size=image_size,
            bn_epsilon=bn_epsilon,
            bn_renorm=bn_renorm,
            bn_zero_debias=bn_zero_debias,
            features=features,
            keep=keep_head is not None,
        )
        return Backbone(spec, model, scope, stages, held)
    switches: dict[str, Any] = {"epsilon": bn_epsilon, "renorm": bn_renorm, "zero_debias": bn_zero_debias}
    if spec.source == "file":
        model, scope, stages, report, words = own_model.load(
            spec, image_size=image_size, weights=not from_scratch, features=features, keep=keep_head
        )
        return Backbone(spec, adopt(model, unbiased=False, **switches), scope, stages, report, words)
    if features is not None:
        raise WrongUse(f"--features is for model files: {spec.id} ends in its pooled features; leave it out")
    # The file first: a missing or foreign checkpoint is said before seconds go into building the graph.
    whole = with_head or keep_head is not None
    opened = None if from_scratch else _open(spec, checkpoint, with_head=whole, progress=progress)
    if opened and keep_head is not None:
        check_classes(head_outputs(spec, opened), keep_head, name=str(opened.path))
    network = networks.build(
        spec.family,
        image_size=image_size,
        outputs=_outputs(spec, opened) if with_head else keep_head,
        arguments=spec.arguments,
    )
    report = _assign(spec, opened, network.model, with_head=whole) if opened else None
    model = adopt(network.model, unbiased=spec.source != "keras", **switches)
    words = "" if keep_head is None else f"head of the file kept: {keep_head} outputs{ORDER}"
    return Backbone(spec, model, network.scope, layers_by_stage(network), report, words)


def check_image_size(spec: BackboneSpec, image_size: int) -> None:
    """Raise WrongUse where the network's maps would vanish."""
    if image_size < spec.least_size:
        known = f"made for {spec.image_size}" if spec.unpublished else f"published at {spec.image_size}"
        raise WrongUse(
            f"image size {image_size} px is too small for {spec.id}: expected at least {spec.least_size} px "
            f"({known}); give --image-size {spec.least_size} or more"
        )


def _outputs(spec: BackboneSpec, opened: Checkpoint | None) -> int:
    """The number of logits of the published head; where nothing is published, of the one in the user's file."""
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
    ignore: list[transfer.Ignore] = [*transfer.TRAINING_LEFTOVERS, ("auxiliary head", spec.auxiliary)]
    # The network is still of stock layers here: Keras's keys count layers by their class.
    named = keras_variables(model) if spec.source == "keras" else slim_variables(model)
    pairing = pair(opened, spec, entries(model, source=spec.source))
    if not with_head:
        ignore.append(("old head", [glob.escape(name) for name in pairing.head]))
    return transfer.assign(opened, {pairing.names[name]: variable for name, variable in named.items()}, ignore=ignore)
