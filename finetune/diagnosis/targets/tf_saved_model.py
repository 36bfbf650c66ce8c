"""A SavedModel: called for training where it takes that argument (Keras 2, Hub modules), else read as a graph."""

import shlex
from pathlib import Path

from finetune.backbone import find_backbone, load_backbone
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import bn_layers
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.targets.meta_graph import ANY_SIZE
from finetune.diagnosis.targets.options import TargetOptions, check_classes, read_data
from finetune.diagnosis.targets.origin import known
from finetune.diagnosis.targets.target import Target
from finetune.errors import FinetuneError
from finetune.tf_graphs import open_exported, takes_training


def open_target(request: TargetOptions) -> Target:
    """The SavedModel of `request.target`, whose output are logits.

    One without a `training` argument (`model.export` of Keras 3) is read as data and its batch way is made of its
    graph. Raises FinetuneError where its BatchNorm is out of reach.
    """
    path = Path(str(request.target))
    if not (path / "tfhub_module.pb").is_file() and not takes_training(path):
        return _exported(path, request)
    spec = find_backbone(str(path))
    image_size = request.image_size or spec.image_size
    model = load_backbone(spec, image_size=image_size).model
    if not bn_layers(model):
        raise FinetuneError(f"{path} has no BatchNormalization that can be reached: there is nothing to examine")
    data = read_data(request, image_size=image_size, preprocess=None)
    check_classes(str(path), int(model.output_shape[-1]), data)
    subject = KerasSubject(model)

    def write(out: Path) -> None:
        raise FinetuneError(
            f"{path} is a SavedModel, whose graph is not written anew: recalibrate the .keras file it was exported "
            "from, or its slim checkpoint"
        )

    return Target(
        name=str(path),
        subject=subject,
        test=data.test(),
        training=data.training,
        commands=Commands(request.command(), f"finetune run --backbone {shlex.quote(str(path))}{request.training()}"),
        write=write,
        copy=path.with_name(f"{path.name}-recalibrated"),
        suffix=None,
        **known(request.source_checkpoint, subject, Facts(decay=request.bn_decay)),
    )


def _exported(path: Path, request: TargetOptions) -> Target:
    subject = open_exported(path)
    height, width = subject.input_size or (request.image_size or ANY_SIZE,) * 2
    if height != width:
        raise FinetuneError(f"{path} takes images of {height} x {width} px: expected square ones")
    if request.image_size and request.image_size != height:
        raise FinetuneError(f"{path} takes images of {height} px: leave out --image-size {request.image_size}")
    prepares = subject.takes_pixels or subject.scales_pixels
    data = read_data(request, image_size=height, preprocess="raw" if prepares else None, batch_size=subject.batch_size)
    check_classes(str(path), subject.outputs, data)
    return Target(
        name=str(path),
        subject=subject,
        test=data.test(),
        training=data.training,
        commands=Commands(request.command()),
        write=subject.write_copy,
        copy=path.with_name(f"{path.name}-recalibrated"),
        suffix=None,
        notes=subject.facts.lines,
        **known(request.source_checkpoint, subject, Facts(decay=request.bn_decay)),
    )
