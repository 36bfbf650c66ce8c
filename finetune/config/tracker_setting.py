"""`--tracker`: what may be named, checked without importing any tracker."""

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec

from finetune._version import install_line
from finetune.errors import FinetuneError, WrongUse
from finetune.text import did_you_mean

NEEDS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}
"""What each kind imports; the extra of the same name installs it."""


def check_trackers(trackers: Sequence[str]) -> None:
    """WrongUse for a tracker that is not known or comes twice, FinetuneError where its package is not installed."""
    kinds = [parse_tracker(text)[0] for text in trackers]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise WrongUse(f"--tracker {kind} comes twice: leave one out")
        missing = [package for package in NEEDS[kind] if find_spec(package) is None]
        if missing:
            raise FinetuneError(
                f"--tracker {kind} needs the package '{missing[0]}', which is not installed: {install_line(kind)}"
            )


def absolute_trackers(trackers: Sequence[str]) -> tuple[str, ...]:
    """The same trackers with absolute paths: a run is resumed from anywhere."""
    return tuple(
        text
        if place is None or kind == "wandb" or "://" in place
        else f"{kind}={os.path.abspath(os.path.expanduser(place))}"
        for text in trackers
        for kind, place in [parse_tracker(text)]
    )


def parse_tracker(text: str) -> tuple[str, str | None]:
    """(kind, place) of `kind` or `kind=place`."""
    kind, separator, place = text.partition("=")
    if kind not in NEEDS:
        raise WrongUse(
            f"unknown tracker '{kind}' in --tracker: {did_you_mean(kind, NEEDS)}expected "
            "tensorboard[=DIR], mlflow[=DIR|URI] or wandb[=[ENTITY/]PROJECT]"
        )
    if separator and not place.strip():
        place_kind = "PROJECT" if kind == "wandb" else "DIR"
        raise WrongUse(f"--tracker '{text}' has no place after '=': give {kind}={place_kind}, or {kind} alone")
    if kind == "wandb" and separator and not re.fullmatch(r"([\w.-]+/)?[^/\\#?%:]{1,128}", place):
        raise WrongUse(
            f"--tracker {text}: expected a project of Weights & Biases, or ENTITY/PROJECT; the files are in the run's "
            "directory, and WANDB_BASE_URL names a server of your own"
        )
    if kind == "tensorboard" and "://" in place:
        raise WrongUse(f"--tracker {text}: expected a directory; TensorBoard's event files go to disk")
    if "@" in place.partition("://")[2].partition("/")[0]:
        raise WrongUse(
            "--tracker mlflow=URI has a name or password in it, and config.json would keep them: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    return kind, place if separator else None
