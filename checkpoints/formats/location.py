"""Find the file of a checkpoint that a user names, by content and names, without TensorFlow."""

import ast
import difflib
import glob
import re
from dataclasses import dataclass
from pathlib import Path

from checkpoints.errors import CheckpointError, listed

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# The last 8 bytes of a LevelDB table: a V1 checkpoint is one, and so is the index of a V2 checkpoint
# (tensorflow/core/lib/io/format.h, kTableMagicNumber, little-endian).
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
_SHARD = re.compile(r"\.data-(\d{5})-of-(\d{5})$")
_STEP = re.compile(r"-(\d+)$")
_STATE = re.compile(r'^\s*model_checkpoint_path\s*:\s*("(?:[^"\\]|\\.)*")', re.MULTILINE)
_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_OTHERS = {".onnx": "ONNX", **dict.fromkeys((".pt", ".pth", ".safetensors"), "PyTorch")}
_MOST = 2**28
"""Bytes of a graph that are searched for variables."""

EXPECTED = (
    "a TF-slim checkpoint (the file, or the prefix of .index and .data-00000-of-00001), Keras weights (.h5, "
    ".weights.h5, .keras) or a SavedModel's directory"
)


@dataclass(frozen=True)
class Slim:
    """A complete TF checkpoint.

    prefix: what TensorFlow is given: the V1 file, or the V2 files' common beginning.
    files: the V1 file; or the index and the data shards in order.
    """

    prefix: Path
    kind: str
    files: tuple[Path, ...]


def starts_with(path: Path, magic: bytes) -> bool:
    """Whether a file begins with these bytes. Raises CheckpointError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def find_slim(path: Path) -> Slim:
    """The TF checkpoint a file or prefix names. Raises CheckpointError where it is not one, or incomplete."""
    prefix = _prefix(path) if path.is_file() else path
    if prefix is None and path.with_name(path.name + ".index").is_file() and not is_table(path):
        prefix = path  # a checkpoint that is called "checkpoint", as the file that names the newest one
    single = prefix or path
    if single.is_file() and is_table(single):
        return Slim(single, "slim-v1", (single,))
    if prefix is None and (what := other_format(path)):
        raise CheckpointError(f"{path} {what}")
    if prefix is None:
        raise CheckpointError(f"{path} is not a checkpoint, or one that was cut off: expected {EXPECTED}")
    index = prefix.with_name(prefix.name + ".index")
    files = prefix.parent.glob(f"{glob.escape(prefix.name)}.data-*")
    shards = sorted(file for file in files if _SHARD.search(file.name))
    if not index.is_file() and not shards:
        raise CheckpointError(f"there is no checkpoint {path}{_similar(path)}: expected {EXPECTED}")
    if not index.is_file():
        raise CheckpointError(f"the checkpoint {prefix} is not whole: {index.name} is missing beside {shards[0].name}")
    if not is_table(index):
        raise CheckpointError(f"{index} is not the index of a checkpoint, or was cut off: copy it again")
    count = int(shards[0].name.rpartition("-")[2]) if shards else 1
    wanted = [prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{count:05d}") for i in range(count)]
    missing = [file.name for file in wanted if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"the checkpoint {prefix} is not whole: {listed(missing)} missing beside {index.name}. "
            "Copy all its files into one directory."
        )
    return Slim(prefix, "slim-v2", (index, *wanted))


def other_format(path: Path) -> str:
    """What a file is that holds a model which cannot be used, and what to give instead; "" for any other file.

    Raises CheckpointError where it cannot be read.
    """
    instead = "give what it was made from: a .meta file with its checkpoint, a SavedModel's directory, or a Keras model"
    try:
        with path.open("rb") as file:
            start = file.read(8)
            graph = path.suffix in (".pb", ".pbtxt") and path.name not in _SAVED_MODEL
            content = file.read(_MOST) if graph else b""
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if start[4:] == b"TFL3":
        return f"is a TensorFlow Lite model, whose BatchNorm is folded into its weights; {instead}"
    if path.suffix in _OTHERS:
        return f"is a file of {_OTHERS[path.suffix]}, which is not read; {instead}"
    if any(word in content for word in (b"VariableV2", b"VarHandleOp")):
        return (
            "is a TF1 graph without its weights: give the .meta file and the checkpoint that were written with it "
            "(--meta-graph, also a training directory)"
        )
    if graph:
        return (
            "is a frozen TF1 graph: its variables, BatchNorm's statistics among them, are constants, so it can neither "
            f"be recalibrated nor trained; {instead}"
        )
    return ""


def newest_checkpoint(directory: Path) -> Path:
    """The checkpoint a training directory ends with.

    The `checkpoint` state file says which one (its directory part is ignored where it is of another machine);
    where there is no such file, the highest step in the names. Raises CheckpointError.
    """
    found = slim_checkpoints(directory)
    named = _named_by_state(directory)
    if named in (None, "", ".") and (directory / ".index").is_file():
        raise CheckpointError(
            f"{directory} holds a checkpoint without a name, as save_weights('{directory.name}/') writes it: rename "
            ".index and .data-00000-of-00001 to weights.index and weights.data-00000-of-00001, and give that: "
            f"{directory / 'weights'}"
        )
    if named is not None:
        for candidate in (directory / re.split(r"[/\\]", named)[-1], directory / named):
            if candidate.with_name(candidate.name + ".index").is_file() or candidate.is_file():
                return candidate
        raise CheckpointError(
            f"the file {directory / 'checkpoint'} names {named}, which is not there; give one of "
            f"{_listed(found)} with its path"
        )
    steps = {int(match[1]): path for path in found if (match := _STEP.search(path.name))}
    if steps:
        return steps[max(steps)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(f"{directory} holds several checkpoints: give one of {_listed(found)} with its path")
    raise CheckpointError(
        f"{directory} is a directory without a checkpoint: expected a training directory, or {EXPECTED}"
    )


def saved_model_directory(path: Path) -> Path | None:
    """The directory of a SavedModel: the path itself, or the one around its saved_model.pb. None for all else."""
    directory = path.parent if path.name in _SAVED_MODEL else path
    return directory if any((directory / name).is_file() for name in _SAVED_MODEL) else None


def only_checkpoint(directory: Path) -> Path:
    """The one checkpoint, TF or Keras, below a directory. Raises CheckpointError where there is none, or several."""
    folders = [directory, *(path for path in sorted(directory.rglob("*")) if path.is_dir())]
    saved_models = [folder for folder in folders if saved_model_directory(folder) is not None]
    folders = [folder for folder in folders if not any(folder.is_relative_to(model) for model in saved_models)]
    found = [*saved_models]
    found += [path for folder in folders for path in (*slim_checkpoints(folder), *_keras_files(folder))]
    if len(found) != 1:
        what = f"several checkpoints ({_listed(found)})" if found else "no checkpoint"
        raise CheckpointError(f"the archive unpacked in {directory} holds {what}: expected one; give the file itself")
    return found[0]


def slim_checkpoints(directory: Path) -> list[Path]:
    """V2 prefixes and V1 files directly in a directory, sorted by name."""
    found = set()
    for path in directory.iterdir():
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.name.endswith(".index"):
            found.add(path.with_name(path.name.removesuffix(".index")))
        elif _prefix(path) is None and is_table(path):
            found.add(path)
    return sorted(found)


def is_table(path: Path) -> bool:
    """Whether a file ends as a LevelDB table does: a V1 checkpoint, or a V2 index, that was not cut off."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - len(_TABLE_MAGIC), 0))
            return file.read() == _TABLE_MAGIC
    except OSError:
        return False


def _prefix(path: Path) -> Path | None:
    """The V2 prefix one of whose files this is, by its name; None for any other file."""
    for suffix in (".index", ".meta"):
        if path.name.endswith(suffix):
            return path.with_name(path.name.removesuffix(suffix))
    match = _SHARD.search(path.name)
    return path.with_name(path.name[: match.start()]) if match else None


def _keras_files(directory: Path) -> list[Path]:
    files = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.suffix == ".keras" or starts_with(path, HDF5_MAGIC)]


def _named_by_state(directory: Path) -> str | None:
    """`model_checkpoint_path` of the `checkpoint` file (a CheckpointState message as text)."""
    try:
        match = _STATE.search((directory / "checkpoint").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    if match is None:
        return None
    try:
        # Protobuf escapes a text as C does, bytes above 127 in octal.
        return str(ast.literal_eval("b" + match[1]).decode("utf-8"))
    except (SyntaxError, ValueError):
        return match[1].strip('"')


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (no directory {path.parent})"
    names = {candidate.name for candidate in path.parent.iterdir() if candidate.is_dir()}
    names |= {candidate.name for candidate in (*slim_checkpoints(path.parent), *_keras_files(path.parent))}
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {path.parent / nearest[0]}?)" if nearest else ""


def _listed(paths: list[Path]) -> str:
    return listed([path.name for path in paths]) or "no others"
