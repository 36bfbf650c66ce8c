"""What a user may name as a backbone: a catalogue row, a model file, a Hub module."""

import os
from pathlib import Path

from checkpoints.catalog.lookup import BackboneSpec, find_row
from checkpoints.errors import UnknownBackbone
from finetune.backbone import own_model
from finetune.backbone.hub import module, signatures
from finetune.backbone.keras_file import SUFFIXES
from finetune.errors import WrongUse

HUB = "hub:"


def find_backbone(name: str) -> BackboneSpec:
    """The spec of a backbone. Its `id` finds it again from any working directory.

    A catalogue name; `hub:HANDLE` or `hub:PATH`; a path: a `.keras` or whole-model `.h5` file, a run directory (its
    `model.keras`), a SavedModel directory. A name that the catalogue knows is that, whatever lies beside; `./NAME` is
    always a path. Raises UnknownBackbone with the nearest name, FinetuneError for files that are not valid models.
    """
    if not name.strip():
        return find_row(name)  # says that there is no such backbone
    if name.startswith(HUB):
        return module.find(name.removeprefix(HUB))
    if _is_path(name):
        return _of_path(Path(name).expanduser())
    try:
        return find_row(name)
    except UnknownBackbone:
        if Path(name).exists():
            return _of_path(Path(name))
        raise


def unbiased(name: str) -> bool:
    """Whether moving variances are updated by n/(n-1) times the batch's variance: slim's networks do, Keras's do not.

    `name` is a spec's `id`; its file need not be there any more.
    """
    if name.startswith(HUB) or _is_path(name):
        return False
    return find_row(name).source != "keras"


def published_preprocessing(name: str) -> str | None:
    """What the weights of a backbone were trained with; None where it has none, and for a model of the user's own,
    whose file may be gone."""
    if name.startswith(HUB):
        return module.PREPROCESSING
    spec = None if _is_path(name) else find_row(name)
    return None if spec is None or spec.unpublished else spec.preprocessing


def module_handle(name: str) -> str | None:
    """The Hub handle in a spec's `id`, None for every other kind of backbone."""
    return name.removeprefix(HUB) if name.startswith(HUB) else None


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~", os.sep)) or name.endswith(SUFFIXES)


def _of_path(path: Path) -> BackboneSpec:
    if path.is_dir() and (path / "model.keras").is_file():
        path = path / "model.keras"
    if path.is_dir():
        if signatures.is_saved_model(path):
            return module.find(str(path))
        raise WrongUse(
            f"--backbone {path} is a directory without saved_model.pb or model.keras: expected a SavedModel, a run, or "
            "a .keras or .h5 file. A slim training directory is given as --backbone NAME --checkpoint DIR"
        )
    if path.is_file() and path.suffix not in SUFFIXES:
        raise WrongUse(
            f"--backbone {path} is neither .keras nor .h5: expected a whole Keras model. Weights of a network in the "
            "catalogue are given as --backbone NAME --checkpoint PATH"
        )
    return own_model.find(path)
