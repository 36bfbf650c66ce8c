"""A network of the catalogue with weights of the user's own: a slim training directory or checkpoint, a Keras file."""

from pathlib import Path

from checkpoints.formats import open_checkpoint
from checkpoints.formats.checkpoint import Averaged, Checkpoint, averaged
from checkpoints.formats.slim import everything, write_slim
from finetune.backbone import find_backbone, head_outputs, load_backbone
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Snapshot
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.origin import read_history
from finetune.diagnosis.targets.target import Target, check_classes, read_data
from finetune.errors import FinetuneError, WrongUse

_STATISTICS = ("moving_mean", "moving_variance")


def open_catalogued(request: TargetOptions) -> Target:
    """`request.backbone` with the weights and the head of `request.checkpoint`, which also shows the number of classes.

    Raises WrongUse where one of the two is missing, CheckpointError where the file does not fit the network.
    """
    if not request.backbone or request.checkpoint is None:
        raise WrongUse("--backbone NAME and --checkpoint PATH go together: the network, and your weights for it")
    spec = find_backbone(request.backbone)
    if spec.source in ("file", "hub"):
        raise WrongUse(f"--backbone {request.backbone} has its weights in it: give it alone, as the model to examine")
    opened = open_checkpoint(request.checkpoint)
    outputs = head_outputs(spec, opened)
    averages = averaged(opened) if request.ema else None
    data = read_data(request, image_size=spec.image_size, preprocess=spec.preprocessing)
    check_classes(str(opened.path), outputs, data)
    image_size = data.config.image_size or spec.image_size
    loaded = load_backbone(
        spec, image_size=image_size, checkpoint=averages.checkpoint if averages else opened, head=outputs
    )
    subject = KerasSubject(loaded.model)
    step = int(opened.read("global_step")) if opened.shapes.get("global_step") == () else None
    raw = sum(name.endswith(_STATISTICS) for name in averages.without) if averages else 0
    facts = Facts(
        decay=request.bn_decay,
        updates=step,
        weights_moved=True if step else None,
        weights_averaged=raw > 0,
        expected_preprocessing=spec.preprocessing,
    )
    notes = [f"{opened.path} ({opened.kind}): a head of {outputs} outputs"]
    if averages:
        without = f"; {raw} moving statistics have none and are read as they are" if raw else ""
        notes.append(f"--ema: {len(averages.replaced)} variables read from their moving averages{without}")
    return Target(
        name=str(request.checkpoint),
        subject=subject,
        data=data,
        commands=request.commands(spec.id),
        write=lambda out: _write(out, opened, averages, subject.snapshot()),
        copy=opened.path.with_name(f"{opened.path.name}-recalibrated"),
        suffix=None if opened.kind.startswith("slim") else opened.path.suffix,
        notes=tuple(notes),
        history=read_history(request.source_checkpoint, subject, facts),
    )


def _write(out: Path, opened: Checkpoint, averages: Averaged | None, statistics: Snapshot) -> None:
    """Write the checkpoint with other moving statistics, in place of their averages where those were read."""
    if not opened.kind.startswith("slim"):
        raise FinetuneError(
            f"{opened.path} is a {opened.kind} file of weights: recalibrate-bn writes slim checkpoints and whole Keras "
            "models; convert it with 'finetune checkpoint convert' first"
        )
    arrays = everything(opened)
    for layer, pair in statistics.items():
        for kind, value in zip(_STATISTICS, pair, strict=True):
            name = f"{layer.replace('.', '/')}/{kind}"
            place = averages.place(name) if averages else name
            arrays[place] = value.astype(arrays[place].dtype)
    write_slim(out, arrays)
