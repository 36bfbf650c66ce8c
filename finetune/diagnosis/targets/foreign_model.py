"""A model of the user's own that is no run.

It is one of four kinds:

- a network of the catalogue with other weights: a slim training directory or checkpoint, a Keras file of weights;
- a Keras classifier, `.keras` or `.h5`;
- a SavedModel: called for training where it takes that argument (Keras 2, Hub modules), else read as a graph;
- any TF1 graph with its checkpoint.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from checkpoints.formats import open_checkpoint
from checkpoints.formats.aliases import STATISTICS, averaged, raw_statistics
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.hdf5_copy import write_keras_copy
from checkpoints.formats.keras_metadata import Recorded, recorded
from checkpoints.formats.location import saved_model_directory
from checkpoints.formats.slim import everything, key_of, write_slim
from checkpoints.matching.fit import measurable
from checkpoints.matching.pairing import pair
from checkpoints.matching.structures import structures
from finetune.backbone import (
    SUFFIXES,
    BackboneSpec,
    describe_model,
    find_backbone,
    has_layers,
    head_outputs,
    image_size_of,
    legacy_subject,
    load_backbone,
    needs_keras_2,
    open_model,
    write_back,
)
from finetune.backbone.architecture_file import assembled
from finetune.backbone.outputs import as_logits, choose_output
from finetune.batchnorm.flatten import flat, originals
from finetune.batchnorm.live import normalisations
from finetune.batchnorm.scores import Scores, sum_to_one
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Snapshot, Subject
from finetune.batchnorm.surgery import adopt
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.targets.compiled import trained_on_binary, training_of
from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.target import Target, read_data, read_history
from finetune.errors import FinetuneError, WrongUse
from finetune.text import ImageShape, ImageSize, shape_of
from finetune.tf_graphs import Ending, GraphSubject, called_ending, open_exported, open_graph, takes_training

ANY_SIZE = 32
"""Side in px for graphs that take images of any size, where none is given: CIFAR's."""

_SLIM_DEFAULTS = {"resnet_v2": "vgg"}
"""Family -> what slim's `preprocessing_factory` takes for it, where the published weights were made with another."""


def open_catalogued(request: TargetOptions) -> Target:
    """`request.backbone` with the weights and the head of `request.checkpoint`, which also shows the number of classes.

    Raises WrongUse where one of the two is missing, CheckpointError where the file does not fit the network.
    """
    if not request.backbone or request.checkpoint is None:
        raise WrongUse("--backbone NAME and --checkpoint PATH go together: the network, and your weights for it")
    spec = find_backbone(request.backbone)
    if spec.source == "hub":
        raise WrongUse(f"--backbone {request.backbone} has its weights in it: give it alone, as the model to examine")
    opened = measurable(open_checkpoint(request.checkpoint), spec)
    notes = list(opened.remarks)
    outputs, averages = head_outputs(spec, opened), averaged(opened) if request.ema else None
    if averages:
        opened = averages.checkpoint
        notes.append(f"--ema: {averages.summary()}")
    image_size = image_size_of(spec, request.image_size)
    data = read_data(
        request, str(opened.path), outputs, image_size=image_size, preprocess=spec.preprocessing, spec=spec
    )
    subject = KerasSubject(load_backbone(spec, image_size=image_size, checkpoint=opened, head=outputs).model)
    ending = next((one for one in (".weights.h5", *SUFFIXES) if opened.path.name.endswith(one)), "")
    step = int(opened.read("global_step")) if opened.shapes.get("global_step") == () else None
    facts = Facts(
        decay=request.bn_decay,
        updates=None if opened.absent else step,
        weights_moved=True if step else None,
        weights_averaged=bool(raw_statistics(opened)),
        statistics_absent=bool(opened.absent),
        expected_preprocessing=spec.preprocessing,
        usual_preprocessing=_SLIM_DEFAULTS.get(spec.family),
    )
    return Target(
        name=str(request.checkpoint),
        subject=subject,
        data=data,
        commands=request.commands(spec.id, unwritable=_unwritable(opened)),
        write=lambda out: _write_weights(out, opened, spec, subject.snapshot()),
        copy=opened.path.with_name(f"{opened.path.name.removesuffix(ending)}-recalibrated{ending}"),
        suffix=ending or None,
        notes=(f"{opened.path} ({opened.kind}): a head of {outputs} outputs", *notes),
        history=read_history(request.source_checkpoint, subject, facts),
    )


def _unwritable(opened: Checkpoint) -> str:
    """Why no copy of a file of weights can be written, "" where one can."""
    if opened.kind.startswith("slim") or opened.places:
        return ""
    return f"no copy of a {opened.kind} can be written: save the model as .keras or .h5, and recalibrate that"


def _write_weights(out: Path, opened: Checkpoint, spec: BackboneSpec, statistics: Snapshot) -> None:
    """Write the checkpoint with other moving statistics, in place of their averages where those were read."""
    if reason := _unwritable(opened):
        raise FinetuneError(f"{opened.path}: {reason}")
    names = pair(opened, spec, structures()[spec.id]).names
    values = {
        names[f"{layer.replace('.', '/')}/{kind}"]: value
        for layer, both in statistics.items()
        for kind, value in zip(STATISTICS, both, strict=True)
    }
    if not opened.kind.startswith("slim"):
        write_keras_copy(out, opened, values)
        return
    arrays = everything(opened)
    for name, value in values.items():
        place = key_of(opened, name)
        arrays[place] = value.astype(arrays[place].dtype) if place in arrays else value
    write_slim(out, arrays)


def open_keras_model(request: TargetOptions) -> Target:
    """The model of `request.target`. The BatchNorm of models inside it is examined as well.

    Raises FinetuneError where it is no image classifier with as many outputs as the data has classes.
    """
    path = Path(str(request.target))
    form = request.architecture
    original = assembled(form, path) if form else open_model(path)
    chosen = choose_output(original, request.output, name=str(path))
    spec = describe_model(path, model=chosen) if form else find_backbone(str(path), output=request.output)
    image_size = image_size_of(spec, request.image_size)
    if spec.own_size and image_size != image_size_of(spec):
        own = shape_of(image_size_of(spec))
        raise FinetuneError(f"{path} takes images of {own}: leave out --image-size {request.image_size}")
    binary = trained_on_binary(form or path, request.output)
    scored = as_logits(flat(chosen, image_size=image_size), name=str(path), binary=binary)
    words, ours = scored.words, KerasSubject(adopt(scored.model, unbiased=False), scored.scores)
    theirs = None if form else legacy_subject(path, original, chosen, scored)

    def write(out: Path) -> None:
        layers = originals(chosen)
        for name, (mean, variance) in ours.snapshot().items():
            layers[name].moving_mean.assign(mean)
            layers[name].moving_variance.assign(variance)
        write_back(theirs.model if theirs else original, None if form else path, out)

    steps, averages = (None, None) if form else training_of(path)
    facts = keras_facts(chosen, decay=request.bn_decay, steps=steps, averages=averages)
    target = _keras_target(request, theirs or ours, spec.preprocessing, image_size, facts, write)
    dataset = target.data.dataset
    if scored.scores.units == 1 and dataset is not None:
        words += f"; it is '{dataset.class_names[1]}'"
    notes = (words,) if words else ()
    if theirs:
        notes = (*notes, "run by Keras 2: Keras 3 has no renorm and no virtual_batch_size")
    if form:
        copy = path.with_name(f"{path.stem}-recalibrated.keras")
        return replace(target, notes=(f"{form} with the weights of {path}", *notes), copy=copy, suffix=".keras")
    return replace(target, notes=notes)


def open_saved_model(request: TargetOptions) -> Target:
    """The SavedModel of `request.target`: what Keras wrote, and what takes no `training` argument, is read as data, and
    the batch mode is added to its graph. Modules of TensorFlow Hub are called for training, and give logits.

    Raises FinetuneError where its BatchNorm is out of reach.
    """
    path = Path(str(request.target))
    path = saved_model_directory(path) or path
    model = None if (path / "tfhub_module.pb").is_file() else recorded(path)
    if model is not None or not takes_training(path):
        return _exported_target(request, path, model)
    if request.input_layout:
        raise WrongUse("--input-layout is for graphs, but this SavedModel is called with images: leave it out")
    spec = find_backbone(str(path), output=request.output)
    image_size = image_size_of(spec, request.image_size)
    network = load_backbone(spec, image_size=image_size).model
    scores = _module_scores(network, called_ending(path, request.output))

    unwritable = (
        "no copy of a SavedModel that is called for training can be written: recalibrate the .keras file or the slim "
        "checkpoint that it was made from"
    )

    def write(out: Path) -> None:
        raise FinetuneError(f"{path}: {unwritable}")

    subject = KerasSubject(network, scores)
    target = _keras_target(request, subject, None, image_size, Facts(decay=request.bn_decay), write)
    notes = ("its outputs are probabilities: the loss is theirs",) if scores.probabilities else ()
    notes = (*notes, *([scores.words] if scores.words else []))
    return replace(target, commands=request.commands(str(path), unwritable=unwritable), notes=notes)


def _module_scores(network: keras.Model, ending: Ending) -> Scores:
    """What the outputs of a module are: by its graph, or by what it gives for noise where the graph does not say."""
    units = int(network.output_shape[-1])
    if ending.kind == "unknown" and units > 1:
        noise = np.random.default_rng(0).uniform(0, 1, (8, *network.input_shape[1:])).astype(np.float32)
        return Scores(units, probabilities=sum_to_one(network(noise, training=False)))
    return Scores(
        units,
        probabilities=ending.kind in ("softmax", "sigmoid"),
        per_label=ending.kind == "sigmoid" and units > 1,
        softmax=ending.kind == "softmax",
    )


def _exported_target(request: TargetOptions, path: Path, model: Recorded | None) -> Target:
    """The target of a SavedModel that is read as a graph. `model`: what Keras 2 recorded of it."""
    subject = open_exported(path, request.output, request.input_layout)
    found, momenta = subject.facts, model.momenta if model else ()
    facts = Facts(
        decay=request.bn_decay or (float(np.median(momenta)) if momenta else None),
        updates=0 if found.trained_with else found.step,
        trained_with=found.trained_with,
        by_design=found.trained_with == "moving",
        weights_moved=True if found.step else None,
    )
    backbone = str(path) if model is not None and has_layers(path) else None
    target = _graph_target(request, path, subject, facts, path, backbone)
    if model is None or not needs_keras_2(model.config):
        return target
    plain = (
        "trained with renorm or virtual_batch_size, which its graph does not hold: is_training=True is plain BatchNorm "
        "here. As .h5 or .keras, Keras 2 runs it: model.save('model.h5')"
    )
    return replace(target, notes=(*target.notes, plain))


def _keras_target(
    request: TargetOptions,
    subject: Subject,
    preprocess: str | None,
    image_size: ImageSize,
    facts: Facts,
    write: Callable[[Path], None],
) -> Target:
    """The target of an adopted model that was read from `request.target`."""
    path = Path(str(request.target))
    return Target(
        name=str(path),
        subject=subject,
        data=read_data(
            request,
            str(path),
            subject.outputs,
            image_size=image_size,
            preprocess=preprocess,
            batch_size=subject.batch_size,
        ),
        commands=request.commands(None if request.architecture else str(path)),
        write=write,
        copy=path.with_name(f"{path.stem}-recalibrated{path.suffix}"),
        suffix=None if path.is_dir() else path.suffix,
        history=read_history(request.source_checkpoint, subject, facts),
    )


def keras_facts(
    model: Any, *, decay: float | None = None, steps: int | None = None, averages: bool | None = None
) -> Facts:
    """What a model of Keras 3 or 2 says of its training; steps: of its optimizer, averages: whether it replaced the
    weights by their averages. `decay` is used in place of the layers' momentum."""
    bn = normalisations(model)
    frozen = bool(bn) and not any(one.trainable for one in bn)
    layers = list(_from_the_input(model))
    last = max((number for number, one in enumerate(layers) if one in bn), default=0)
    base_frozen = frozen and not any(one.trainable_weights for one in layers[:last])
    return Facts(
        decay=decay or (float(np.median([one.momentum for one in bn])) if bn else None),
        updates=0 if frozen else steps,
        trained_with="moving" if frozen else None,
        weights_averaged=averages,
        weights_moved=True if steps else None,
        base_moved=False if base_frozen else None,
    )


def _from_the_input(model: Any) -> Iterator[Any]:
    """The layers of a model and of the models in it, those nearer to the input first."""
    for layer in model.layers:
        yield from _from_the_input(layer) if hasattr(layer, "layers") else (layer,)


def open_tf_graph(request: TargetOptions) -> Target:
    """The graph of `request.meta_graph`. FinetuneError where it does not fit the data."""
    path = Path(str(request.meta_graph))
    subject = open_graph(
        path,
        request.checkpoint,
        input=request.input,
        logits=request.logits,
        is_training=request.is_training,
        layout=request.input_layout,
        feeds=request.feed,
        use_averages=request.ema,
    )
    return _graph_target(request, path, subject, graph_facts(subject, request.bn_decay), subject.checkpoint)


def graph_facts(subject: GraphSubject, decay: float | None = None) -> Facts:
    """What a TF1 graph and its variables say of their training; `decay` is used in place of the one measured."""
    found, decays = subject.facts, [value for value in subject.decay.values() if value is not None]
    return Facts(
        decay=decay or (float(np.median(decays)) if decays else None),
        updates=found.updates,
        updates_enabled=found.wiring.train_op_runs_updates,
        why_disabled=found.wiring.sentence,
        weights_moved=True if found.step else None,
        weights_averaged=found.statistics_raw,
        statistics_absent=found.statistics_absent,
    )


def _graph_target(
    request: TargetOptions,
    path: Path,
    subject: GraphSubject,
    facts: Facts,
    original: Path,
    backbone: str | None = None,
) -> Target:
    """The target of a graph that was read from `path`, whose weights lie in `original`.

    `backbone`: what `finetune run` trains it by, None where it cannot.
    """
    asked = shape_of(request.image_size or ANY_SIZE)
    height, width = subject.input_size or (asked.height, asked.width)
    shape = ImageShape(height, width, subject.channels)
    if request.image_size and (asked.height, asked.width) != (height, width):
        raise FinetuneError(f"{path} takes images of {shape}: leave out --image-size {request.image_size}")
    raw = "raw" if subject.takes_pixels or subject.facts.scales_pixels else None
    data = read_data(
        request, str(path), subject.outputs, image_size=shape.setting, preprocess=raw, batch_size=subject.batch_size
    )
    return Target(
        name=str(path),
        subject=subject,
        data=data,
        commands=request.commands(backbone),
        write=subject.write,
        copy=original.with_name(f"{original.name}-recalibrated"),
        suffix=None,
        notes=subject.lines,
        history=read_history(request.source_checkpoint, subject, facts),
    )
