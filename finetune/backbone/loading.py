"""From a spec to a network with its weights, under our BatchNorm."""

from dataclasses import dataclass
from pathlib import Path

import keras

from checkpoints import store, transfer
from checkpoints.catalog import BackboneSpec
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from checkpoints.formats.checkpoint import Checkpoint
from finetune import networks
from finetune.batchnorm.surgery import adopt
from finetune.errors import WrongUse
from finetune.networks.names import keras_variables, slim_variables
from finetune.networks.stages import layers_by_stage

Progress = store.Progress


@dataclass(frozen=True)
class Backbone:
    """A pretrained network under our BatchNorm, ready for a head.

    model: preprocessed float32 `[batch, height, width, 3]` to features `[batch, channels]`, or to the published
        logits `[batch, outputs]` where it was loaded with its head.
    stages: stage name -> layer names, from the input to the output.
    report: what was assigned and ignored; None for random weights.
    """

    spec: BackboneSpec
    model: keras.Model
    scope: str
    stages: dict[str, list[str]]
    report: transfer.LoadReport | None


def load(
    spec: BackboneSpec,
    *,
    image_size: int,
    checkpoint: Path | None = None,
    with_head: bool = False,
    from_scratch: bool = False,
    bn_epsilon: float | None = None,
    progress: Progress | None = None,
) -> Backbone:
    """Build the network of a catalogue row at `image_size` px and load its weights, strictly.

    `checkpoint` is a file of the user's in place of the published one (fetched or cached otherwise);
    `from_scratch` leaves the random initial weights. Raises CheckpointError for files, WrongUse for sizes.
    """
    check_image_size(spec, image_size)
    # The file first: a missing or foreign checkpoint is said before seconds go into building the graph.
    opened = None if from_scratch else _open(spec, checkpoint, with_head=with_head, progress=progress)
    network = networks.build(
        spec.family,
        image_size=image_size,
        outputs=spec.outputs if with_head else None,
        arguments=spec.arguments,
    )
    report = _assign(spec, opened, network.model, with_head=with_head) if opened else None
    model = adopt(network.model, unbiased=spec.source != "keras", epsilon=bn_epsilon)
    return Backbone(spec, model, network.scope, layers_by_stage(network), report)


def check_image_size(spec: BackboneSpec, image_size: int) -> None:
    """Raise WrongUse where the network's maps would vanish."""
    if image_size < spec.least_size:
        raise WrongUse(
            f"image size {image_size} px is too small for {spec.id}: expected at least {spec.least_size} px "
            f"(published at {spec.image_size}); give --image-size {spec.least_size} or more"
        )


def _open(spec: BackboneSpec, checkpoint: Path | None, *, with_head: bool, progress: Progress | None) -> Checkpoint:
    opened = open_checkpoint(checkpoint or store.locate(spec, with_head=with_head, progress=progress))
    expected = "keras" if spec.source == "keras" else "slim"
    if not opened.kind.startswith(expected):
        layout = {"keras": "weights in Keras's .h5 layout", "slim": "a TF-slim checkpoint"}[expected]
        raise CheckpointError(
            f"{opened.path} is a {opened.kind} file, but {spec.id} is loaded from {layout}: give the file that "
            f"belongs to {spec.id} with --checkpoint, or choose a backbone of the file's kind"
        )
    return opened


def _assign(spec: BackboneSpec, opened: Checkpoint, model: keras.Model, *, with_head: bool) -> transfer.LoadReport:
    ignore = [*transfer.TRAINING_LEFTOVERS, ("auxiliary head", spec.auxiliary)]
    if not with_head:
        ignore.append(("old head", spec.head))
    if spec.source == "keras":
        targets = transfer.align_by_layer_order(opened, keras_variables(model))
    else:
        targets = slim_variables(model)
    return transfer.assign(opened, targets, ignore=ignore)
