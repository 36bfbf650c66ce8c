"""A config's images and labels, read and split."""

from dataclasses import replace
from pathlib import Path

from finetune.config import RunConfig
from finetune.data.dataset import Dataset, Split, few_shot, hold_out, stratified_subset
from finetune.data.sources import read_source
from finetune.data.sources.assembly import Progress, ReadOptions
from finetune.errors import WrongUse


def load_data(config: RunConfig, *, progress: Progress | None = None, on_scan: Progress | None = None) -> Dataset:
    """The data a run is configured for. The same seed gives the same split, and all splits are stratified.

    `config.data` is a name of `sources`, `tfds:NAME` or a path; if it is a path, `data_dir` is where it lies now.

    - `examples` is the whole budget of labels: so many training images are drawn, and the validation images are a
      fraction `validation` of those.
    - `few_shot` draws so many training images of every class, and all of them train. The validation images are a
      fraction `validation` of that number, drawn from the other images.
    - Validation images of the data's own are used instead, unless `validation` is 0.
    - Test images never change. Only if the data has none, a fraction `test` is drawn as well.

    `progress` receives the bytes of downloads, `on_scan` the number of photos that were inspected. Raises WrongUse for
    an unknown name (with the nearest one), for a `data_dir` that would not be read and for an impossible number;
    FinetuneError for files.
    """
    options = ReadOptions(
        data_dir=Path(config.data_dir) if config.data_dir else None,
        test=config.test,
        seed=config.seed,
        skip_bad_images=config.skip_bad_images,
        progress=progress,
        on_scan=on_scan,
    )
    dataset = read_source(config.data, options)
    train, held_out = dataset.train, dataset.validation if config.validation else None
    if config.few_shot is not None:
        train, others = few_shot(train, config.few_shot, config.seed, dataset.class_names)
        if config.validation and held_out is None:
            held_out = _drawn_from(others, max(round(config.validation * len(train)), 1), config.seed)
        return replace(dataset, train=train, validation=held_out)
    if config.examples is not None:
        train = stratified_subset(train, config.examples, config.seed)
    if config.validation and held_out is None:
        train, held_out = hold_out(train, config.validation, config.seed)
    return replace(dataset, train=train, validation=held_out)


def _drawn_from(others: Split, count: int, seed: int) -> Split:
    """`count` validation images from those that the few shots leave over."""
    if len(others) <= count:
        raise WrongUse(
            f"--few-shot leaves {len(others)} other images, of which {count} would be held out for validation: lower "
            "--few-shot, or give --validation 0"
        )
    return hold_out(others, count / len(others), seed)[1]
