"""A SavedModel that can be called for training: of Keras 2, or a Hub module with a head."""

from pathlib import Path

from finetune import backbone as backbones
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import bn_layers
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.reading import Commands
from finetune.errors import FinetuneError
from finetune.targets import source
from finetune.targets.request import Request, check_classes, read_data
from finetune.targets.target import Target


def open_target(request: Request) -> Target:
    """The SavedModel of `request.target`, whose output are logits.

    Raises FinetuneError where its BatchNorm is out of reach: without a `training` argument nothing can be examined.
    """
    path = Path(str(request.target))
    spec = backbones.find(str(path))
    image_size = request.image_size or spec.image_size
    model = backbones.load(spec, image_size=image_size).model
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
        commands=Commands(request.command(), f"finetune run --backbone {request.target}"),
        write=write,
        copy=path.with_name(f"{path.name}-recalibrated"),
        suffix=None,
        source=source.read(request.source_checkpoint, subject) if request.source_checkpoint else None,
        facts=Facts(decay=request.bn_decay),
    )
