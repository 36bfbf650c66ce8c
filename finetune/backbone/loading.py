"""From a name to a network with its weights, under the BatchNorm of this package.

A user may name a catalogue row, a model file or a Hub module.
"""

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras

from checkpoints import store
from checkpoints.catalog.lookup import BackboneSpec, find_row
from checkpoints.download.address import Progress
from checkpoints.errors import CheckpointError, UnknownBackbone
from checkpoints.formats import open_checkpoint
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.location import other_format, saved_model_directory
from checkpoints.matching import transfer
from checkpoints.matching.fit import fit_row
from checkpoints.matching.pairing import in_slim_scopes, of_head, pair
from checkpoints.matching.structures import Entry, structures
from finetune.backbone import keras_file, networks
from finetune.backbone.architecture_file import assembled
from finetune.backbone.file_names import network_entries, network_variables
from finetune.backbone.head import ORDER, check_classes
from finetune.backbone.hub import module_layer, signatures
from finetune.backbone.keras_2.legacy_directory import has_layers
from finetune.backbone.keras_file import SUFFIXES
from finetune.backbone.kerashub.preset_folder import PREFIX, is_preset, read
from finetune.backbone.networks.network import layers_by_stage
from finetune.batchnorm.surgery import UNCHANGED, BatchNormOptions, adopt
from finetune.errors import WrongUse
from finetune.text import ImageShape, ImageSize, shape_of

HUB = "hub:"


def find_backbone(name: str, *, output: str | None = None) -> BackboneSpec:
    """The spec of a backbone. Its `id` finds it again from any working directory.

    A catalogue name; `hub:HANDLE` or `hub:PATH`; `kerashub:PRESET` or `kerashub:PATH`; a path: a `.keras` or
    whole-model `.h5` file, a run directory (its `model.keras`), a SavedModel directory, the folder of a KerasHub
    preset. A name that the catalogue knows is that, whatever lies beside; `./NAME` is
    always a path. `output` names one of several outputs of a model. Raises UnknownBackbone with the nearest name,
    FinetuneError for files that are not valid models.
    """
    spec = _found(name, output)
    if output is not None and spec.source != "hub" and not spec.whole_model:
        raise WrongUse(f"--output {output} is for models with several outputs, not for {spec.id}: leave it out")
    return spec


def _found(name: str, output: str | None) -> BackboneSpec:
    if not name.strip():
        return find_row(name)  # says that there is no such backbone
    if name.startswith(HUB):
        return module_layer.find(name.removeprefix(HUB), output)
    if name.startswith(PREFIX):
        return keras_file.find_preset(name.removeprefix(PREFIX), output)
    if _is_path(name):
        return _of_path(Path(name).expanduser(), output)
    try:
        return find_row(name)
    except UnknownBackbone:
        if Path(name).exists():
            return _of_path(Path(name), output)
        raise


def unbiased(name: str) -> bool:
    """Whether moving variances are updated by n/(n-1) times the batch's variance: slim's networks do, Keras's do not.

    `name` is a spec's `id`; its file need not be there any more.
    """
    if name.startswith((HUB, PREFIX)) or _is_path(name):
        return False
    return find_row(name).source != "keras"


def published_preprocessing(name: str) -> str | None:
    """What the weights of a backbone were trained with; None where it has none, and for a model of the user's own,
    whose file may be gone."""
    if name.startswith(HUB):
        return module_layer.PREPROCESSING
    if name.startswith(PREFIX):  # not fetched for this
        folder = Path(name.removeprefix(PREFIX))
        return read(folder).preprocessing or None if is_preset(folder) else None
    spec = None if _is_path(name) else find_row(name)
    return None if spec is None or spec.unpublished else spec.preprocessing


def module_handle(name: str) -> str | None:
    """The Hub handle in a spec's `id`, None for every other kind of backbone."""
    return name.removeprefix(HUB) if name.startswith(HUB) else None


def _is_path(name: str) -> bool:
    """Whether a name is that of a file, by its beginning or its ending."""
    return name.startswith((".", "/", "~", os.sep)) or name.endswith(SUFFIXES)


def _of_path(path: Path, output: str | None) -> BackboneSpec:
    """The spec of a model file, a run or a SavedModel directory."""
    path = saved_model_directory(path) or path
    if path.is_dir() and (path / "model.keras").is_file():
        path = path / "model.keras"
    if is_preset(path):
        return keras_file.find_preset(str(path), output)
    if path.is_dir():
        if signatures.is_saved_model(path):
            return keras_file.find(path, output) if has_layers(path) else module_layer.find(str(path), output)
        raise WrongUse(
            f"--backbone {path} is a directory without saved_model.pb or model.keras: expected a SavedModel, a run, a "
            "KerasHub preset, or a .keras or .h5 file. A slim training directory is given as --backbone NAME "
            "--checkpoint DIR"
        )
    if path.is_file() and path.suffix not in SUFFIXES and (what := other_format(path)):
        raise WrongUse(f"--backbone {path} {what}")
    if path.is_file() and path.suffix not in SUFFIXES:
        raise WrongUse(
            f"--backbone {path} is neither .keras nor .h5: expected a whole Keras model. Weights of a network in the "
            "catalogue are given as --backbone NAME --checkpoint PATH"
        )
    return keras_file.find(path, output)


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
    image_size: ImageSize,
    checkpoint: Path | Checkpoint | None = None,
    head: Literal["published"] | int | None = None,
    features: str | None = None,
    from_scratch: bool = False,
    batchnorm: BatchNormOptions = UNCHANGED,
    progress: Progress | None = None,
) -> Backbone:
    """Build the network of a spec at `image_size` and load its weights, strictly.

    checkpoint: a file of the user, or what it opened as. Without it the published file is fetched, or the weights are
        those in the model file.
    head: None ends the network in its pooled features, "published" in the published logits, a number in the logits of
        the file, which must be that many; `LabelOutputs` where each is to be of a sigmoid of its own.
    features: the layer of a model file to end after, instead of its pooled features.
    from_scratch: keep the random initial weights.

    Raises CheckpointError for files, WrongUse for sizes, for a head of another size, and for options that this kind of
    source does not have.
    """
    check_image_size(spec, image_size)
    height, width, _ = shape_of(image_size)
    size = (height, width)
    with_head, keep_head = head is not None, None if head == "published" else head
    if spec.source == "kerashub" and with_head:
        raise WrongUse(f"--head keep: {spec.id} is a backbone that ends in features: leave it out for a new head")
    if (spec.whole_model or spec.source == "hub") and head == "published":
        raise WrongUse(f"{spec.id} is not a network of the catalogue, it has no published head")
    if spec.source == "hub" and checkpoint is not None:
        raise WrongUse(f"{spec.id} is not a network of the catalogue, it has its weights in it: leave out --checkpoint")
    options: dict[str, Any] = {"batchnorm": batchnorm, "features": features}
    if spec.source == "hub":
        return Backbone(spec, *module_layer.load(spec, image_size=size[0], **options, keep=with_head))
    if spec.whole_model:
        if checkpoint is not None and not from_scratch:
            weights = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
            options["assembled"] = assembled(keras_file.model_path(spec), weights.path), weights
        return Backbone(
            spec, *keras_file.load(spec, image_size=image_size, **options, keep=keep_head, weights=not from_scratch)
        )
    if features is not None:
        raise WrongUse(f"--features is for model files: {spec.id} ends in its pooled features; leave it out")
    # The file first: a missing or wrong checkpoint is reported before the graph is built, which takes seconds.
    opened = None if from_scratch else _open(spec, checkpoint, with_head=with_head, progress=progress)
    outputs = spec.outputs if head == "published" else keep_head
    if opened and keep_head is not None:
        check_classes(head_outputs(spec, opened), keep_head, name=str(opened.path))
    elif opened and outputs == 0:  # nothing is published: the head is that of the user's file
        outputs = head_outputs(spec, opened)
    network = networks.build(spec.family, image_size=size, outputs=outputs, arguments=spec.arguments)
    report = _assign(spec, opened, network.model, with_head=with_head) if opened else None
    model = adopt(network.model, unbiased=spec.source != "keras", options=batchnorm)
    words = "" if keep_head is None else f"head of the file kept: {keep_head} outputs{ORDER}"
    return Backbone(spec, model, network.scope, layers_by_stage(network), report, words)


def image_size_of(spec: BackboneSpec, asked: ImageSize | None = None) -> ImageSize:
    """The size of a network's images: `asked` with the channels that it takes, or its own.

    Raises WrongUse where other channels are asked for.
    """
    own = ImageShape(*spec.image_shape) if spec.image_shape else shape_of(spec.image_size)
    shape = own if asked is None else shape_of(asked)
    if shape.channels not in (3, own.channels):
        raise WrongUse(
            f"--image-size {asked}: {spec.id} takes {own.channels} channels, whatever the data: give "
            f"{shape.height}x{shape.width}"
        )
    return shape._replace(channels=own.channels).setting


def check_image_size(spec: BackboneSpec, image_size: ImageSize) -> None:
    """Raise WrongUse where the network's maps would shrink to nothing, or it takes no images of that shape."""
    shape = shape_of(image_size)
    if spec.source == "hub" and shape.height != shape.width:
        raise WrongUse(f"{spec.id} takes square images: give one side, --image-size {max(shape[:2])}")
    if min(shape[:2]) < spec.least_size:
        known = f"made for {spec.image_size}" if spec.unpublished else f"published at {spec.image_size}"
        raise WrongUse(
            f"image size {shape} is too small for {spec.id}: expected at least {spec.least_size} px "
            f"({known}); give --image-size {spec.least_size} or more"
        )


def head_outputs(spec: BackboneSpec, opened: Checkpoint) -> int:
    """The number of logits in a file of a catalogue network's weights. CheckpointError where it has none."""
    outputs = fit_row(opened, spec, structures().get(spec.id, ())).outputs
    if outputs is None:
        raise CheckpointError(f"{opened.path} has no head: expected the logits of {spec.id} ({', '.join(spec.head)})")
    return outputs


def _open(
    spec: BackboneSpec, checkpoint: Path | Checkpoint | None, *, with_head: bool, progress: Progress | None
) -> Checkpoint:
    """The user's file or the published one. CheckpointError where its kind is not the network's."""
    if isinstance(checkpoint, Checkpoint):
        opened = checkpoint
    else:
        opened = open_checkpoint(checkpoint or store.locate(spec, with_head=with_head, progress=progress))
    if spec.source == "keras":
        # A TF2 checkpoint, as tf.keras's save_weights writes it, has Keras's names.
        fits = not opened.kind.startswith("slim") or bool(opened.places)
        layout = "Keras weights (.h5, .weights.h5, .keras, or a TF2 checkpoint of save_weights)"
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
    """Load the weights of a catalogue network. Without `with_head` the head in the file is left out."""
    # The network still has stock layers here: Keras's keys count layers by their class.
    variables = network_variables(model, source=spec.source)
    entries = network_entries(model, source=spec.source)
    pairing = pair(opened, spec, entries)
    ignore = pairing.ignored
    if with_head:
        _check_head_size(spec, opened, entries, pairing.names)
    else:
        ignore.append(("old head", [glob.escape(name) for name in pairing.head]))
        ignore.append(("parts of a larger network", [glob.escape(name) for name in pairing.parts]))
    targets = {pairing.names[name]: variable for name, variable in variables.items()}
    return transfer.assign(opened, targets, ignore=ignore)


def _check_head_size(
    spec: BackboneSpec, opened: Checkpoint, entries: Sequence[Entry], names: Mapping[str, str]
) -> None:
    """Raise WrongUse for a head that takes the flattened map of images of another size, as Keras's VGG has it."""
    for entry in entries:
        shape = opened.shapes.get(names[entry.name], entry.shape)
        if of_head(spec, entry.name) and shape != entry.shape and shape[1:] == entry.shape[1:]:
            raise WrongUse(
                f"the head of {opened.path} takes the flattened map of images of another size: {entry.name} is "
                f"{list(shape)}, expected {list(entry.shape)}; give the size it was made for (published: --image-size "
                f"{spec.image_size}), or leave out --head keep for a new head"
            )
