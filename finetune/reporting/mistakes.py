"""The most confident mistakes of a model on its test images, as small pictures for a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data.dataset import Dataset
from finetune.data.lazy import LazyImages
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError, UserError
from finetune.evaluation.predictions import Predictions
from finetune.reporting.record import RunRecord
from finetune.runs.run_data import check_unchanged

SIDE = 128
"""Largest side of a shown photo, in px. Images in memory are shown at their own size."""


def most_confident_mistakes(predictions: Predictions, most: int) -> np.ndarray:
    """Positions, int64, of wrongly classified images, by the probability of the predicted class, the highest first."""
    wrong = np.flatnonzero(~predictions.correct & (predictions.classes >= 0))
    order = np.argsort(-predictions.confidences[wrong].astype(np.float64), kind="stable")
    return wrong[order][:most]


class Pictures:
    """The test images of several runs. Runs on the same data, one after another, share one reading of it."""

    def __init__(self, data_dir: Path | None) -> None:
        self._data_dir = data_dir
        self._last: tuple[str, Dataset] | None = None

    def data_uris(self, record: RunRecord, labels: np.ndarray, positions: Sequence[int]) -> list[str] | str:
        """A data URI for each of the test images at `positions`; or the reason why there are none.

        `labels` are those that the run was tested with.
        """
        try:
            dataset = self._dataset(record)
            if not np.array_equal(dataset.test.labels, labels):
                return "the test images are no longer those of the run"
            images = dataset.test.images
            images = images.at(SIDE) if isinstance(images, LazyImages) else images
            photos = isinstance(images, LazyImages)
            return [_data_uri(images[position : position + 1][0], photo=photos) for position in positions]
        except (UserError, OSError) as error:
            return str(error)

    def _dataset(self, record: RunRecord) -> Dataset:
        config = record.config
        names = ("data", "data_dir", "examples", "validation", "seed", "test", "skip_bad_images")
        key = repr([getattr(config, name) for name in names])
        if self._last is None or self._last[0] != key:
            self._last = None
            moved = replace(config, data_dir=str(self._data_dir)) if self._data_dir else config
            self._last = key, load_data(moved, progress=_refuse)
        if self._data_dir is None:
            check_unchanged(record.run, self._last[1], advice="give its place with --data-dir")
        return self._last[1]


def _refuse(done: int, total: int | None) -> None:
    raise FinetuneError("its data is not on this machine any more, and a report downloads nothing")


def _data_uri(pixels: np.ndarray, *, photo: bool) -> str:
    """Of uint8 `[height, width, 3]`: PNG, which is exact, for small images, JPEG for photos."""
    out = io.BytesIO()
    large = photo or max(pixels.shape) > SIDE
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if large:
        image.thumbnail((SIDE, SIDE))
        image.save(out, format="JPEG", quality=85)
    else:
        image.save(out, format="PNG", optimize=True)
    kind = "jpeg" if large else "png"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
