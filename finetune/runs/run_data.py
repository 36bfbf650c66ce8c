"""The data of a run: its description, and whether the data now is still the data the run read. No TensorFlow."""

from dataclasses import replace
from typing import Any

import numpy as np

from finetune.config import RunConfig
from finetune.data.dataset import Dataset, Split
from finetune.data.geometry import geometry_of
from finetune.data.label_sets import label_counts
from finetune.data.lazy import LazyImages
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError
from finetune.runs.directory import RunDir
from finetune.text import shape_of

_DATA = "data.json"
_SHOWN, _SHOWN_NAMES = 3, 10
"""Classes that an error lists: at most so many that have another label, and of all names."""


def describe_data(dataset: Dataset, config: RunConfig) -> dict[str, Any]:
    """The contents of `data.json`: what a run read, so that changed data is noticed."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "class_names": list(dataset.class_names),
        "images": _counts(dataset),
        "training_images_by_class": label_counts(dataset.train.labels, len(dataset.class_names)).tolist(),
        "multi_label": dataset.multi_label,
        "image_shape": _native(dataset, config),
        "remarks": list(dataset.remarks),
        "skipped": list(dataset.skipped),
        "white": dataset.white,
        "excluded": dataset.excluded,
        "class_counts": {name: _by_class(split, dataset) for name, split in _splits(dataset).items()},
    }


def check_classes(run: RunDir, dataset: Dataset, *, advice: str = "give the data of the run") -> None:
    """Raise FinetuneError, with the classes that differ, unless label i means the same in the data as in the run.

    The run's classes are those of its result, or before it has one, those of the data it read. `advice` is for data
    with other classes.
    """
    if run.status != "done" and not (run.path / _DATA).is_file():
        return
    trained, found = run.class_names(), list(dataset.class_names)
    if trained == found:
        return
    where = [place for place, pair in enumerate(zip(trained, found, strict=False)) if pair[0] != pair[1]]
    seats = [f"class {place} is '{trained[place]}' in the run and '{found[place]}' in the data" for place in where]
    listed = ", ".join(seats[:_SHOWN]) + (f" and {len(seats) - _SHOWN} more" if len(seats) > _SHOWN else "")
    if sorted(trained) == sorted(found):
        raise FinetuneError(
            f"{dataset.source} has the classes of {run} in another order: {listed}; every such image would count as "
            f"wrong. Number the data's classes as the run does ({_some(trained, numbered=True)}), its labels with them"
        )
    more, less = (sorted(set(one) - set(other)) for one, other in ((found, trained), (trained, found)))
    parts = [f"it has {_some(more)}, which the run has not"] if more else []
    parts += [f"it lacks {_some(less)} of the run"] if less else []
    raise FinetuneError(
        f"{dataset.source} has not the classes of {run}, which has {len(trained)}: "
        f"{'; '.join([*parts, *([listed] if listed else [])])}: {advice}"
    )


def check_unchanged(run: RunDir, dataset: Dataset, *, advice: str) -> None:
    """Raise FinetuneError, ending in `advice`, where the data has not the run's classes, numbers of images or white."""
    check_classes(run, dataset, advice=advice)
    if not (run.path / _DATA).is_file():
        return
    then = run.read(_DATA, "images")
    if bool(then.get("multi_label")) != dataset.multi_label:
        now = "several labels" if dataset.multi_label else "one class"
        raise FinetuneError(
            f"the data has changed since the run was started: an image has {now} now ({dataset.source}), and had "
            f"{'one class' if dataset.multi_label else 'several labels'} then: {advice}"
        )
    for split, count in _counts(dataset).items():
        if then["images"].get(split) != count:
            raise FinetuneError(
                f"the data has changed since the run was started: {then['images'].get(split)} {split} images then, "
                f"{count} now ({dataset.source}): {advice}"
            )
    if "excluded" in then and then["excluded"] != dataset.excluded:
        raise FinetuneError(
            "the data has changed since the run was started: another list of images is left out (--exclude) than then: "
            f"{advice}"
        )
    known = white(run)
    if known is not None and dataset.white != known:
        raise FinetuneError(
            f"the data has changed since the run was started: {known} was white in images of more than 8 bits, "
            f"{dataset.white or 'no image has them'} now ({dataset.source}): {advice}"
        )


def _some(names: list[str], *, numbered: bool = False) -> str:
    shown = [f"{place} '{name}'" if numbered else f"'{name}'" for place, name in enumerate(names[:_SHOWN_NAMES])]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else "")


def image_shape(run: RunDir, config: RunConfig) -> tuple[int, ...] | None:
    """(height, width) in px of the images a run was made for, as far as its network sees them, and their channels if
    they are not RGB; None for photos, each of a size of its own.

    Runs of earlier versions did not record it: their data is opened.
    """
    noted = run.read(_DATA) if (run.path / _DATA).is_file() else {}
    shape = noted["image_shape"] if "image_shape" in noted else _native(load_data(config), config)
    if shape is None:
        return None
    if not is_image_shape(shape):
        raise FinetuneError(f"{run.path / _DATA} has image_shape {shape!r}: it is damaged; restore it from a copy")
    return tuple(shape)


def white(run: RunDir) -> int | None:
    """The value that became 255 in images of more than 8 bits, as in `lazy.Photos`; None if the run had none."""
    value = run.read(_DATA).get("white") if (run.path / _DATA).is_file() else None
    return value if is_white(value) else None


def is_white(value: Any) -> bool:
    """Whether `value`, out of a file, is a number as `white` gives it."""
    return type(value) is int and 255 <= value <= 0xFFFF


def is_image_shape(shape: Any) -> bool:
    """Whether `shape`, out of a file, is a list as `image_shape` gives it."""
    return isinstance(shape, list) and len(shape) in (2, 3) and all(type(one) is int and one > 0 for one in shape)


def as_seen(split: Split, config: RunConfig, *, longest: int | None = None) -> Split:
    """The part of each image that a network of this config gets, as pixels to look at: uint8. Photos are of its size,
    or of its shape with the longest side `longest` px. Images in memory keep their size."""
    if config.image_size is None:
        return split.at(longest or 224)
    shape = shape_of(config.image_size)
    if longest:
        scale = longest / max(shape.height, shape.width)
        height, width = (max(round(side * scale), 1) for side in shape[:2])
        shape = shape._replace(height=height, width=width)
    return split.at(shape.setting, replace(geometry_of(config), sampler="area"))


def _native(dataset: Dataset, config: RunConfig) -> list[int] | None:
    images = dataset.test.images
    if isinstance(images, LazyImages):
        return None
    seen = dataset.test.at(config.image_size, geometry_of(config)) if config.image_size else dataset.test
    height, width, channels = seen.images.shape[1:]
    return [int(one) for one in ((height, width) if channels == 3 else (height, width, channels))]


def _counts(dataset: Dataset) -> dict[str, int]:
    return {name: len(split) if split is not None else 0 for name, split in _splits(dataset).items()}


def _splits(dataset: Dataset) -> dict[str, Split | None]:
    return {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}


def _by_class(split: Split | None, dataset: Dataset) -> list[int]:
    labels = split.labels if split is not None else np.zeros(0, np.int64)
    return [int(count) for count in label_counts(labels, len(dataset.class_names))]
