"""A Keras classifier of the user's own: `.keras`, `.h5`, or a SavedModel that can be called for training."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from checkpoints.atomic import replacing
from finetune.backbone import find_backbone, open_model
from finetune.backbone.head import as_logits
from finetune.batchnorm.flatten import flat, originals
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import adopt
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.origin import read_history
from finetune.diagnosis.targets.target import Data, Target, check_classes, read_data
from finetune.errors import FinetuneError


def open_keras_model(request: TargetOptions) -> Target:
    """The model of `request.target`. The BatchNorm of models inside it is examined as well.

    Raises FinetuneError where it is no image classifier with as many outputs as the data has classes.
    """
    path = Path(str(request.target))
    original = open_model(path)
    spec = find_backbone(str(path))
    image_size = request.image_size or spec.image_size
    if spec.own_size and image_size != spec.image_size:
        raise FinetuneError(f"{path} takes images of {spec.image_size} px: leave out --image-size {image_size}")
    model = adopt(as_logits(flat(original, image_size=image_size), name=str(path)), unbiased=False)
    data = read_data(request, image_size=image_size, preprocess=spec.preprocessing)

    def write(out: Path) -> None:
        layers = originals(original)
        for name, (mean, variance) in KerasSubject(model).snapshot().items():
            layers[name].moving_mean.assign(mean)
            layers[name].moving_variance.assign(variance)
        with replacing(out) as temporary:
            original.save(temporary)

    return keras_target(request, model, data, _facts(path, original, request), write)


def keras_target(
    request: TargetOptions, model: keras.Model, data: Data, facts: Facts, write: Callable[[Path], None]
) -> Target:
    """The target of an adopted model that was read from `request.target`, on `data`."""
    path = Path(str(request.target))
    check_classes(str(path), int(model.output_shape[-1]), data)
    subject = KerasSubject(model)
    return Target(
        name=str(path),
        subject=subject,
        data=data,
        commands=request.commands(str(path)),
        write=write,
        copy=path.with_name(f"{path.stem}-recalibrated{path.suffix}"),
        suffix=None if path.is_dir() else path.suffix,
        history=read_history(request.source_checkpoint, subject, facts),
    )


def _facts(path: Path, model: keras.Model, request: TargetOptions) -> Facts:
    """What the file records of its training: the decay, the optimizer's steps, whether the weights are averages."""
    bn = [one for one in model._flatten_layers() if isinstance(one, keras.layers.BatchNormalization)]
    decay = request.bn_decay or (float(np.median([one.momentum for one in bn])) if bn else None)
    steps, averaged = _training(path) if path.suffix == ".keras" else (None, None)
    frozen = bool(bn) and not any(one.trainable for one in bn)
    return Facts(
        decay=decay,
        updates=0 if frozen else steps,
        trained_with="moving" if frozen else None,
        weights_averaged=averaged,
        weights_moved=True if steps else None,
    )


def _training(path: Path) -> tuple[int | None, bool | None]:
    """(steps of the optimizer, whether it replaced the weights by their average) of a compiled `.keras` file."""
    with zipfile.ZipFile(path) as file:
        config: dict[str, Any] = json.loads(file.read("config.json"))
        optimizer = ((config.get("compile_config") or {}).get("optimizer") or {}).get("config") or {}
        if "model.weights.h5" not in file.namelist():
            return None, None
        with h5py.File(io.BytesIO(file.read("model.weights.h5")), "r") as weights:
            steps = weights.get("optimizer/vars/0")
            count = int(steps[()]) if isinstance(steps, h5py.Dataset) and steps.shape == () else None
    return count or None, bool(optimizer["use_ema"]) if "use_ema" in optimizer else None
