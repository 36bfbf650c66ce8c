"""Options that several commands share, each worded once."""

from pathlib import Path
from typing import Any

import click


class _Path(click.ParamType[Path]):
    """A path; `~` is the home directory also where no shell has replaced it (`--run-dir=~/x`)."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, str) and not value.strip():
            self.fail("it is empty, expected a path.", param, ctx)
        try:
            return Path(value).expanduser()
        except RuntimeError:
            return Path(value)


class _Count(click.IntRange):
    """A number of images."""

    name = "whole number of 1 or more"

    def __init__(self) -> None:
        super().__init__(min=1)


PATH = _Path()
COUNT = _Count()

TARGET = click.argument("target", type=PATH, metavar="RUN")
DATA = click.option(
    "--data",
    metavar="NAME|PATH",
    help="cifar10, cifar100, cifar100-coarse, demo-source, demo-target or tfds:NAME; or a folder of images per class "
    "(with train/, val/, test/ or without), a folder of slim's TFRecords, or an .npz.  [default: cifar10]",
)
DATA_DIR = click.option(
    "--data-dir",
    type=PATH,
    metavar="DIR",
    help="Folder that holds the data: cifar-10-batches-py/, cifar-100-python/ or the like, or the .tar.gz; for a path "
    "given with --data, where that lies now.",
)
SKIP_BAD_IMAGES = click.option("--skip-bad-images", is_flag=True, help="Leave damaged images out, and say which.")
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
QUIET = click.option("--quiet", is_flag=True, help="No progress; results and errors only.")
CHECKPOINT = click.option(
    "--checkpoint",
    type=PATH,
    metavar="PATH",
    help="Your own file of the backbone's weights: slim V1/V2 file, .ckpt prefix, training directory or .tar.gz; "
    "Keras .h5, .weights.h5 or .keras; SavedModel directory. Default: the published file, from the cache or fetched.",
)


def emit(value: Any) -> None:
    """Print the JSON object of `--json`, in ASCII: it is the same in every locale. NaN and infinity become null."""
    import json

    from finetune.files import finite

    click.echo(json.dumps(finite(value), allow_nan=False))
