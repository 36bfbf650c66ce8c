"""The catalogue: published checkpoints, and networks to train from scratch; nothing here imports TensorFlow."""

import difflib

from checkpoints.catalog.keras_rows import KERAS
from checkpoints.catalog.rows import BUNDLED, SCRATCH, SLIM
from checkpoints.catalog.spec import BackboneSpec
from checkpoints.errors import UnknownBackbone

__all__ = ["CATALOG", "BackboneSpec", "find_row"]

CATALOG: tuple[BackboneSpec, ...] = (*SLIM, *KERAS, *SCRATCH, *BUNDLED)


def find_row(name: str) -> BackboneSpec:
    """The row called `name`: `source/name`, or the bare name where only one source has it.

    Case and the marks `_ - .` do not count: `keras/ResNet50` and `keras/InceptionV3` are found. They do where a name is
    written exactly: `vgg_16` is slim's, `vgg16` is Keras's.
    Raises UnknownBackbone with the nearest name, or with the choices where a bare name is ambiguous.
    """
    wanted = _plain(name)
    rows = [spec for spec in CATALOG if wanted in (_plain(spec.id), _plain(spec.name))]
    exact = [spec for spec in rows if name in (spec.id, spec.name)]
    rows = exact if len(exact) == 1 else rows
    if len(rows) == 1:
        return rows[0]
    if rows:
        choices = " or ".join(spec.id for spec in rows)
        raise UnknownBackbone(f"backbone {name!r} is ambiguous: say {choices}")
    nearest = _nearest(name)
    suggestion = f": did you mean {nearest}?" if nearest else "."
    raise UnknownBackbone(f"unknown backbone {name!r}{suggestion} 'finetune backbones list' lists all {len(CATALOG)}.")


def _nearest(name: str) -> str | None:
    """The name one most likely meant, written as the catalogue writes it; None where nothing is like it."""
    bare = _plain(name.rpartition("/")[2])
    elsewhere = [spec.id for spec in CATALOG if _plain(spec.name) == bare]
    if elsewhere:
        return " or ".join(elsewhere)
    spelling = {_plain(spec.id): spec.id for spec in CATALOG}
    if "/" not in name:
        names = [spec.name for spec in CATALOG]
        # A bare name that two sources have would be ambiguous: suggest it with its source.
        spelling = {_plain(spec.name): spec.name if names.count(spec.name) == 1 else spec.id for spec in CATALOG}
    matches = difflib.get_close_matches(_plain(name), spelling, n=1, cutoff=0.7)
    return spelling[matches[0]] if matches else None


def _plain(name: str) -> str:
    return name.strip().lower().translate(str.maketrans("", "", "_-."))
