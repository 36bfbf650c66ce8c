"""Where data comes from: one file a kind, and this table of names."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from finetune.data.dataset import Dataset, hold_out, stratified_subset
from finetune.data.sources.cifar import read_cifar10
from finetune.data.sources.generated import demo_source, demo_target
from finetune.errors import WrongUse

Progress = Callable[[int, int | None], None]
"""Called while a file is fetched: bytes so far, and in all where known."""

_FILES: dict[str, Callable[[Path | None, Progress | None], Dataset]] = {"cifar10": read_cifar10}
_GENERATED: dict[str, Callable[[], Dataset]] = {"demo-source": demo_source, "demo-target": demo_target}


def load_dataset(
    name: str,
    *,
    data_dir: Path | None,
    examples: int | None,
    validation: float,
    seed: int,
    progress: Progress | None = None,
) -> Dataset:
    """The data set called `name`, of it `examples` training images (None: all), of them `validation` held out.

    `examples` is the whole budget of labels: the validation images, a fraction in [0, 1), are taken out of it. Both
    are drawn by `seed`, stratified; the test images never change. Raises WrongUse for an unknown name (with the
    nearest), for a `data_dir` that would not be read, and for an impossible number; FinetuneError for files.
    """
    if name in _GENERATED:
        if data_dir is not None:
            raise WrongUse(f"{name} is generated, not read from {data_dir}: leave --data-dir out")
        dataset = _GENERATED[name]()
    elif name in _FILES:
        dataset = _FILES[name](data_dir, progress)
    else:
        known = [*_FILES, *_GENERATED]
        near = difflib.get_close_matches(name.lower().replace("-", "").replace("_", ""), known, n=1)
        near = near or difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise WrongUse(f"unknown data '{name}': {hint}expected one of {', '.join(known)}")
    train, held_out = dataset.train, None
    if examples is not None:
        train = stratified_subset(train, examples, seed)
    if validation:
        train, held_out = hold_out(train, validation, seed)
    return replace(dataset, train=train, validation=held_out)
