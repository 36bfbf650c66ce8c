"""A checkpoint or SavedModel written anew with other moving statistics and nothing else changed."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from checkpoints.atomic import naming, remove_abandoned, replacing, working_folder
from checkpoints.errors import CheckpointError
from checkpoints.formats import Checkpoint
from checkpoints.formats.slim_writer import everything, write_slim
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.metagraph import Saved
from finetune.tf_graphs.program.variables import cuts


@dataclass(frozen=True)
class Origin:
    """The files a graph was opened from, and where the checkpoint keeps each variable."""

    meta: Path
    checkpoint: Checkpoint
    places: Mapping[str, Saved]


def write(origin: Origin, prefix: Path, values: Mapping[str, np.ndarray]) -> None:
    """Write `origin`'s checkpoint to `prefix` with `values` (by variable) in place of what it holds.

    A variable that was read from its moving average is written there. CheckpointError where `prefix` is there already,
    FinetuneError where it cannot be written; nothing is left behind then.
    """
    meta = prefix.with_name(prefix.name + ".meta")
    taken = [path for path in (meta, prefix) if path.exists()]
    if taken:
        raise CheckpointError(f"{taken[0]} is already there and is not overwritten: give another name")
    if not prefix.absolute().parent.is_dir():
        raise FinetuneError(f"there is no directory {prefix.parent}: make it, or give another name")
    arrays = everything(origin.checkpoint)
    for name, value in values.items():
        _put(arrays, origin.places[name], value)
    try:
        write_slim(prefix, arrays)
        with replacing(meta) as temporary:
            temporary.write_bytes(origin.meta.read_bytes())
    except tf.errors.OpError as error:
        raise FinetuneError(f"cannot write {prefix}: {str(error.message).partition(chr(10))[0][:200]}") from None
    except OSError:
        for ending in (".index", ".data-00000-of-00001"):
            with suppress(OSError):
                Path(f"{prefix}{ending}").unlink()
        raise


def write_saved_model(
    directory: Path,
    origin: Origin,
    out: Path,
    values: Mapping[str, np.ndarray],
    twins: Mapping[str, Sequence[Saved]],
) -> None:
    """Write the SavedModel in `directory` to `out` with `values` (by variable) in place of what it holds.

    A variable is written to the places of its `twins` as well where they hold the same now. The fingerprint is left
    out: it is of the old variables, and loading does not need it. CheckpointError where `out` is there already,
    FinetuneError where it cannot be written; nothing is left behind then.
    """
    remove_abandoned(out.absolute().parent, f".{out.name}.")
    if out.exists():
        raise CheckpointError(f"{out} is already there and is not overwritten: give another name")
    if not out.absolute().parent.is_dir():
        raise FinetuneError(f"there is no directory {out.parent}: make it, or give another name")
    arrays = everything(origin.checkpoint)
    for name, value in values.items():
        before = arrays[origin.places[name].key]
        same = [place for place in twins.get(name, ()) if np.array_equal(arrays[place.key], before, equal_nan=True)]
        for place in (origin.places[name], *same):
            _put(arrays, place, value)
    try:
        parent = out.absolute().parent
        with naming(out, instead_of=parent), working_folder(parent, f".{out.name}.") as temporary:
            left = shutil.ignore_patterns("fingerprint.pb", "variables.index", "variables.data-*")
            shutil.copytree(directory, temporary / "copy", ignore=left, symlinks=False)
            write_slim(temporary / "copy" / "variables" / "variables", arrays)
            (temporary / "copy").rename(out)
    except tf.errors.OpError as error:
        raise FinetuneError(f"cannot write {out}: {str(error.message).partition(chr(10))[0][:200]}") from None
    except shutil.Error as error:
        raise FinetuneError(f"cannot copy {directory} to {out}: {error.args[0][0][2]}") from None


def _put(arrays: dict[str, np.ndarray], place: Saved, value: np.ndarray) -> None:
    held = np.array(arrays[place.key])
    part = cuts(place, held.shape)
    held[part] = np.asarray(value).reshape(held[part].shape).astype(held.dtype)
    arrays[place.key] = held
