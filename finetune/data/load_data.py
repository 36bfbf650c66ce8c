"""A config's images and labels, read and split."""

from pathlib import Path
from typing import Any

from finetune.config.run_config import RunConfig
from finetune.data.dataset import Dataset
from finetune.data.sources import load_dataset


def load_data(config: RunConfig, *, progress: Any = None, on_scan: Any = None) -> Dataset:
    """The data a run is configured for; the same seed gives the same split. `progress` and `on_scan` as in
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
        on_scan=on_scan,
    )
