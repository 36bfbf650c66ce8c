"""Any TF1 graph with its checkpoint, and any SavedModel that only infers."""

from pathlib import Path

import numpy as np

from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.origin import read_history
from finetune.diagnosis.targets.target import Target, check_classes, read_data
from finetune.errors import FinetuneError
from finetune.tf_graphs import GraphFacts, open_exported, open_graph

ANY_SIZE = 32
"""Side in px for graphs that take images of any size, where none is given: CIFAR's."""


def open_tf_graph(request: TargetOptions) -> Target:
    """The graph of `request.meta_graph`, or the SavedModel of `request.target`. FinetuneError where it does not fit the
    data."""
    path = Path(str(request.meta_graph or request.target))
    if request.meta_graph:
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
        facts, original = _facts(subject.facts, subject.decay, request), subject.checkpoint
    else:
        subject = open_exported(path)
        facts, original = Facts(decay=request.bn_decay), path
    height, width = subject.input_size or (request.image_size or ANY_SIZE,) * 2
    if height != width:
        raise FinetuneError(f"{path} takes images of {height} x {width} px: expected square ones")
    if request.image_size and request.image_size != height:
        raise FinetuneError(f"{path} takes images of {height} px: leave out --image-size {request.image_size}")
    raw = "raw" if subject.takes_pixels or subject.scales_pixels else None
    data = read_data(request, image_size=height, preprocess=raw, batch_size=subject.batch_size)
    check_classes(str(path), subject.outputs, data)
    return Target(
        name=str(path),
        subject=subject,
        data=data,
        commands=request.commands(),
        write=subject.write,
        copy=original.with_name(f"{original.name}-recalibrated"),
        suffix=None,
        notes=subject.lines,
        history=read_history(request.source_checkpoint, subject, facts),
    )


def _facts(found: GraphFacts, decay: dict[str, float | None], request: TargetOptions) -> Facts:
    decays = [value for value in decay.values() if value is not None]
    return Facts(
        decay=request.bn_decay or (float(np.median(decays)) if decays else None),
        updates=found.updates,
        updates_enabled=found.wiring.train_op_runs_updates,
        why_disabled=found.wiring.sentence,
        weights_moved=True if found.step else None,
        weights_averaged=found.averages.used and any("moving_" in name for name in found.averages.without),
    )
