"""Any TF1 graph with its checkpoint, whatever wrote it."""

from pathlib import Path

import numpy as np

from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.targets.options import TargetOptions, check_classes, read_data
from finetune.diagnosis.targets.origin import known
from finetune.diagnosis.targets.target import Target
from finetune.errors import FinetuneError
from finetune.tf_graphs import GraphFacts, open_graph

ANY_SIZE = 32
"""Side in px for graphs that take images of any size, where nothing is said: CIFAR's."""


def open_target(request: TargetOptions) -> Target:
    """The graph of `request.meta_graph`. Raises FinetuneError where it does not fit the data."""
    meta = Path(str(request.meta_graph))
    subject = open_graph(
        meta,
        request.checkpoint,
        input=request.input,
        logits=request.logits,
        is_training=request.is_training,
        layout=request.input_layout,
        feeds=request.feed,
        use_averages=request.ema,
    )
    height, width = subject.input_size or (request.image_size or ANY_SIZE,) * 2
    if height != width:
        raise FinetuneError(f"{meta} takes images of {height} x {width} px: expected square ones")
    if request.image_size and request.image_size != height:
        raise FinetuneError(f"{meta} takes images of {height} px: leave out --image-size {request.image_size}")
    data = read_data(
        request, image_size=height, preprocess="raw" if subject.takes_pixels else None, batch_size=subject.batch_size
    )
    check_classes(str(meta), subject.outputs, data)
    prefix = Path(subject.checkpoint)
    return Target(
        name=str(meta),
        subject=subject,
        test=data.test(),
        training=data.training,
        commands=Commands(request.command()),
        write=lambda out: subject.write_checkpoint(out, subject.snapshot()),
        copy=prefix.with_name(f"{prefix.name}-recalibrated"),
        suffix=None,
        notes=subject.facts.lines,
        **known(request.source_checkpoint, subject, _facts(subject.facts, request)),
    )


def _facts(found: GraphFacts, request: TargetOptions) -> Facts:
    decays = [value for value in found.decay.values() if value is not None]
    raw = found.averages.used and any("moving_" in name for name in found.averages.without)
    return Facts(
        decay=request.bn_decay or (float(np.median(decays)) if decays else None),
        updates=found.updates,
        updates_enabled=found.train_op_runs_updates,
        why_disabled=found.wiring.sentence,
        weights_moved=True if found.step else None,
        weights_averaged=raw,
    )
