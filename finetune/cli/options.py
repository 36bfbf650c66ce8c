"""Options that several commands share, each worded once."""

from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)

TARGET = click.argument("target", type=PATH, metavar="RUN")
DATA_DIR = click.option(
    "--data-dir",
    type=PATH,
    metavar="DIR",
    help="Folder that holds the data: cifar-10-batches-py/, cifar-10-batches-bin/ or the .tar.gz.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
QUIET = click.option("--quiet", is_flag=True, help="No progress; results and errors only.")
CHECKPOINT = click.option(
    "--checkpoint",
    type=PATH,
    metavar="PATH",
    help="Your own file of the backbone's weights: slim V1/V2 file, .ckpt prefix, training directory or .tar.gz; "
    "Keras .h5. Default: the published file, from the cache or fetched.",
)


def emit(value: Any) -> None:
    """Print the JSON object of `--json`."""
    import json

    click.echo(json.dumps(value, ensure_ascii=False))
