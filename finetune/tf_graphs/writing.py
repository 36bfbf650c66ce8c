"""Write a checkpoint or SavedModel again with other moving statistics and nothing else changed."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from checkpoints.atomic import naming, remove_abandoned, replacing, working_folder
from checkpoints.errors import CheckpointError
from checkpoints.formats import Checkpoint
from checkpoints.formats.slim import everything, write_slim
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.graphdef import Saved, first_line
from finetune.tf_graphs.program.metagraph import cuts


@dataclass(frozen=True)
class TrainingFiles:
    """A `.meta` and its checkpoint. places: where each variable is read from, its own tensor or its average."""

    meta: Path
    checkpoint: Checkpoint
    places: Mapping[str, Saved]

    def write(self, out: Path, values: Mapping[str, np.ndarray]) -> None:
        """Write a checkpoint of the prefix `out`, and its .meta, with `values` in place of what the variables hold.

        CheckpointError where `out` exists, FinetuneError where it cannot be written; nothing is left behind then.
        """
        meta = out.with_name(out.name + ".meta")
        _require_free(meta, out)
        arrays = everything(self.checkpoint)
        for name, value in values.items():
            _put(arrays, self.places[name], value)
        try:
            with replacing(meta) as temporary:
                temporary.write_bytes(self.meta.read_bytes())
                write_slim(out, arrays)
        except tf.errors.OpError as error:
            raise FinetuneError(f"cannot write {out}: {first_line(error)}") from None


@dataclass(frozen=True)
class ExportedFiles:
    """A SavedModel. twins: further places of a variable, which are written where they hold the same value now."""

    directory: Path
    checkpoint: Checkpoint
    places: Mapping[str, Saved]
    twins: Mapping[str, Sequence[Saved]]

    def write(self, out: Path, values: Mapping[str, np.ndarray]) -> None:
        """Write a SavedModel to the directory `out`, with `values` in place of what the variables hold.

        The fingerprint is left out: it is of the old variables, and loading does not need it. CheckpointError where
        `out` exists, FinetuneError where it cannot be written; nothing is left behind then.
        """
        parent = out.absolute().parent
        remove_abandoned(parent, f".{out.name}.")
        _require_free(out)
        arrays = everything(self.checkpoint)
        for name, value in values.items():
            before = arrays[self.places[name].key]
            twins = [one for one in self.twins.get(name, ()) if np.array_equal(arrays[one.key], before, equal_nan=True)]
            for place in (self.places[name], *twins):
                _put(arrays, place, value)
        try:
            with naming(out, instead_of=parent), working_folder(parent, f".{out.name}.") as temporary:
                left_out = shutil.ignore_patterns("fingerprint.pb", "variables.index", "variables.data-*")
                shutil.copytree(self.directory, temporary / "copy", ignore=left_out, symlinks=False)
                write_slim(temporary / "copy" / "variables" / "variables", arrays)
                (temporary / "copy").rename(out)
        except tf.errors.OpError as error:
            raise FinetuneError(f"cannot write {out}: {first_line(error)}") from None
        except shutil.Error as error:
            raise FinetuneError(f"cannot copy {self.directory} to {out}: {error.args[0][0][2]}") from None


Origin = TrainingFiles | ExportedFiles
"""The files a graph was opened from."""


def _require_free(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise CheckpointError(f"{path} is already there and is not overwritten: give another name")
    if not paths[0].absolute().parent.is_dir():
        raise FinetuneError(f"there is no directory {paths[0].parent}: make it, or give another name")


def _put(arrays: dict[str, np.ndarray], place: Saved, value: np.ndarray) -> None:
    held = np.array(arrays[place.key])
    part = cuts(place, held.shape)
    held[part] = np.asarray(value).reshape(held[part].shape).astype(held.dtype)
    arrays[place.key] = held
