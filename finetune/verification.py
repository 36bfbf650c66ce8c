"""Prove a file of weights: it fills its network exactly, and classifies ImageNet photos as published."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from checkpoints.catalog import BackboneSpec
from checkpoints.transfer import LoadReport
from finetune import backbone
from finetune.batchnorm.statistics import KerasSubject
from finetune.data import pipeline
from finetune.data.dataset import Split
from finetune.data.preprocessing import find as find_preprocessing
from finetune.errors import FinetuneError
from finetune.evaluation import Evaluation, Evaluator
from finetune.freezing import LayerInfo, layer_infos
from finetune.progress import Display, Silent

_NAME = re.compile(r"(\d{3})_.*\.(jpe?g|png)$", re.IGNORECASE)


@dataclass(frozen=True)
class Verification:
    """What was loaded, and the score on photos where there were any."""

    spec: BackboneSpec
    report: LoadReport
    photos: Evaluation | None

    def to_json(self) -> dict[str, Any]:
        """For `backbones verify --json`."""
        photos = self.photos
        return {
            "backbone": self.spec.id,
            "load": self.report.to_json(),
            "photos": None
            if photos is None
            else {"examples": photos.examples, "top1": photos.correct, "top5": photos.correct_top5},
        }

    def summary(self) -> str:
        """Two lines a person reads."""
        lines = [f"{self.spec.id}: {self.report.summary()}"]
        if self.photos is not None:
            lines.append(
                f"photos: top-1 {self.photos.correct}/{self.photos.examples}, "
                f"top-5 {self.photos.correct_top5}/{self.photos.examples}"
            )
        return "\n".join(lines)


def verify(
    spec: BackboneSpec, *, checkpoint: Path | None, photos: Path | None, display: Display | None = None
) -> Verification:
    """Load weights with their published head, strictly; score `photos` at the published size, centre crop."""
    images = read_photos(photos, spec.image_size) if photos else None
    loaded = backbone.load(
        spec, image_size=spec.image_size, checkpoint=checkpoint, with_head=True, progress=(display or Silent()).download
    )
    assert loaded.report is not None
    if images is None:
        return Verification(spec, loaded.report, None)
    batches = pipeline.eval_batches(
        images, batch_size=25, image_size=spec.image_size, preprocessing=find_preprocessing(spec.preprocessing)
    )
    evaluator = Evaluator(KerasSubject(loaded.model), label_offset=spec.label_offset)
    return Verification(spec, loaded.report, evaluator.evaluate(batches))


def layers_with_variables(spec: BackboneSpec) -> dict[str, list[LayerInfo]]:
    """Stage -> its layers that have variables, as patterns see them; builds the graph, loads nothing."""
    loaded = backbone.load(spec, image_size=spec.image_size, from_scratch=True)
    rows: dict[str, list[LayerInfo]] = {}
    for info in layer_infos(loaded.model, loaded.stages, loaded.scope):
        rows.setdefault(info.stage, []).append(info)
    return rows


def read_photos(folder: Path, image_size: int) -> Split:
    """Photos named `NNN_*.jpg` (NNN the ImageNet class, 0 to 999) as uint8 `[n, image_size, image_size, 3]`.

    The centre square of `image_size` px is taken from photos whose short side is larger; smaller ones are enlarged
    first. Raises FinetuneError where there are none, or one cannot be read.
    """
    named = {path: match for path in sorted(folder.glob("*")) if (match := _NAME.match(path.name))}
    if not named:
        raise FinetuneError(f"{folder} holds no photos: expected files named like 207_golden_retriever.jpg")
    labels = np.array([int(match.group(1)) for match in named.values()], np.int64)
    return Split(np.stack([_centre(path, image_size) for path in named]), labels)


def _centre(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
            if min(image.size) < size:
                scale = size / min(image.size)
                image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
            left, top = ((side - size) // 2 for side in image.size)
            return np.asarray(image.crop((left, top, left + size, top + size)))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise FinetuneError(f"{path} cannot be read as an image ({error}): replace or remove it") from None
