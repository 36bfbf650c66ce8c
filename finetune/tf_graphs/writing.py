"""The files of a graph: their variables are read, and written again with other moving statistics and nothing else
changed."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from checkpoints.atomic import naming, remove_abandoned, replacing, working_folder
from checkpoints.errors import CheckpointError
from checkpoints.formats import Checkpoint
from checkpoints.formats.slim import everything, write_slim
from finetune.errors import FinetuneError
from finetune.text import first_line
from finetune.tf_graphs.program.graph_files import cuts
from finetune.tf_graphs.program.graphdef import Saved


@dataclass(frozen=True)
class GraphFiles:
    """The files a graph was opened from.

    graph: a `.meta`, or the directory of a SavedModel. places: where each variable is read from, its own tensor or its
    average. twins: further places of a variable, which are written where they hold the same value now.
    """

    graph: Path
    checkpoint: Checkpoint
    places: Mapping[str, Saved]
    twins: Mapping[str, Sequence[Saved]] = field(default_factory=dict)

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """The values of variables by name. FinetuneError where the part a Saver names does not fit."""
        whole = {name: (saved, self.checkpoint.read(saved.key)) for name, saved in self.places.items()}
        return {name: value[cuts(saved, value.shape)] for name, (saved, value) in whole.items()}

    def write(self, out: Path, values: Mapping[str, np.ndarray]) -> None:
        """Write the files again with `values` in place of what the variables hold.

        `out` is the prefix of a checkpoint, whose .meta is copied, or the directory of a SavedModel. CheckpointError
        where it exists, FinetuneError where it cannot be written; nothing is left behind then.
        """
        parent, meta = out.absolute().parent, out.with_name(out.name + ".meta")
        remove_abandoned(parent, f".{out.name}.")
        for path in (out,) if self.graph.is_dir() else (meta, out):
            if path.exists():
                raise CheckpointError(f"{path} is already there and is not overwritten: give another name")
        if not parent.is_dir():
            raise FinetuneError(f"there is no directory {out.parent}: make it, or give another name")
        arrays = self._changed(values)
        try:
            if self.graph.is_dir():
                self._write_saved_model(out, arrays)
            else:
                with replacing(meta) as temporary:
                    temporary.write_bytes(self.graph.read_bytes())
                    write_slim(out, arrays)
        except tf.errors.OpError as error:
            raise FinetuneError(f"cannot write {out}: {first_line(error)}") from None
        except shutil.Error as error:
            raise FinetuneError(f"cannot copy {self.graph} to {out}: {error.args[0][0][2]}") from None

    def _write_saved_model(self, out: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """The fingerprint is left out: it is of the old variables, and loading does not need it."""
        parent = out.absolute().parent
        with naming(out, instead_of=parent), working_folder(parent, f".{out.name}.") as temporary:
            left_out = shutil.ignore_patterns("fingerprint.pb", "variables.index", "variables.data-*")
            shutil.copytree(self.graph, temporary / "copy", ignore=left_out, symlinks=False)
            write_slim(temporary / "copy" / "variables" / "variables", arrays)
            (temporary / "copy").rename(out)

    def _changed(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every tensor of the checkpoint, with `values` put in their places."""
        arrays = everything(self.checkpoint)
        for name, value in values.items():
            key = self.places[name].key
            before = arrays.setdefault(key, self.checkpoint.read(key)) if key in self.checkpoint.absent else arrays[key]
            twins = [one for one in self.twins.get(name, ()) if np.array_equal(arrays[one.key], before, equal_nan=True)]
            for place in (self.places[name], *twins):
                held = np.array(arrays[place.key])
                part = cuts(place, held.shape)
                held[part] = np.asarray(value).reshape(held[part].shape).astype(held.dtype)
                arrays[place.key] = held
        return arrays
