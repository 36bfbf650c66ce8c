"""The data a run is configured for, and whether it still is what the run read; no TensorFlow."""

from pathlib import Path
from typing import Any

from finetune.config import RunConfig
from finetune.data.dataset import Dataset
from finetune.data.lazy import LazyImages
from finetune.data.sources import load_dataset
from finetune.errors import FinetuneError
from finetune.rundir import RunDir

_DATA = "data.json"


def load_data(config: RunConfig, *, progress: Any = None, looking: Any = None) -> Dataset:
    """The data a run is configured for; the same seed gives the same split. `progress` and `looking` as in
    `load_dataset`."""
    return load_dataset(
        config.data,
        data_dir=Path(config.data_dir) if config.data_dir else None,
        examples=config.examples,
        shots=config.few_shot,
        validation=config.validation,
        seed=config.seed,
        test=config.test,
        skip_bad_images=config.skip_bad_images,
        progress=progress,
        looking=looking,
    )


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """For `data.json`: what a run read, so that it is noticed when it is no longer that."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "class_names": list(dataset.class_names),
        "images": _counts(dataset),
        "image_shape": _native(dataset),
        "remarks": list(dataset.remarks),
        "skipped": list(dataset.skipped),
    }


def check_unchanged(run: RunDir, dataset: Dataset, *, advice: str) -> None:
    """FinetuneError, ending in `advice`, where the data has other classes or numbers of images than the run read."""
    if not (run.path / _DATA).is_file():
        return
    then = run.read(_DATA, "class_names", "images")
    if then["class_names"] != list(dataset.class_names):
        was, now = (", ".join(names[:5]) for names in (then["class_names"], dataset.class_names))
        raise FinetuneError(
            f"the data has changed since the run was started: its classes were {was}, now {now}: {advice}"
        )
    for split, count in _counts(dataset).items():
        if then["images"].get(split) != count:
            raise FinetuneError(
                f"the data has changed since the run was started: {then['images'].get(split)} {split} images then, "
                f"{count} now ({dataset.source}): {advice}"
            )


def image_shape(run: RunDir, config: RunConfig) -> tuple[int, int] | None:
    """(height, width) in px of the images a run was made for; None for photos, each of a size of its own.

    Runs of earlier versions did not note it: their data is opened.
    """
    noted = run.read(_DATA) if (run.path / _DATA).is_file() else {}
    shape = noted["image_shape"] if "image_shape" in noted else _native(load_data(config))
    if shape is None:
        return None
    if not isinstance(shape, list) or [type(side) for side in shape] != [int, int] or min(shape) < 1:
        raise FinetuneError(f"{run.path / _DATA} has image_shape {shape!r}: it is damaged; restore it from a copy")
    return shape[0], shape[1]


def _native(dataset: Dataset) -> list[int] | None:
    images = dataset.test.images
    return None if isinstance(images, LazyImages) else [int(side) for side in images.shape[1:3]]


def _counts(dataset: Dataset) -> dict[str, int]:
    return {
        "training": len(dataset.train),
        "validation": len(dataset.validation) if dataset.validation else 0,
        "test": len(dataset.test),
    }
