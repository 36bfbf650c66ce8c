"""Weights out of a `.keras` file: the zip archive that `model.save` writes. No model is built, no code is run."""

import errno
import json
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from checkpoints.cache import archive
from checkpoints.cache.records import cache_dir, sha256_of
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.hdf5 import Hdf5
from checkpoints.formats.hdf5_copy import WEIGHTS
from checkpoints.formats.keras_h5 import SHARDED, read_shapes

_CONFIG = "config.json"
_MOST_MEMBERS, _MOST_CONFIG_BYTES, _DEEPEST = 10_000, 64 << 20, 20
_BOMB_BYTES, _MOST_EXPANSION = 64 << 20, 100
_LOCAL_HEADER_BYTES = 30
_MOST_COUNTED = 16
_VARIABLES = {
    "BatchNormalization": (("scale", "gamma"), ("center", "beta"), ("", "moving_mean"), ("", "moving_variance")),
    "SeparableConv2D": (("", "depthwise_kernel"), ("", "pointwise_kernel"), ("use_bias", "bias")),
    **dict.fromkeys(
        ("Dense", "Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "DepthwiseConv2D"),
        (("", "kernel"), ("use_bias", "bias")),
    ),
}
"""By class: the setting that a variable depends on ("" for none), and the variable; those that train come first."""
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)
"""What zipfile raises for archives that are damaged, or packed in a way it does not know."""


def open_keras_zip(path: Path) -> Checkpoint:
    """Open a `.keras` file; names are `layer/variable` in the order of the model's layers, as in Keras's .h5 files.

    A model inside a model is one more part in front (`resnet50/conv1_bn/gamma`). Variables of classes that are not
    among Keras's common ones are counted (`scale/0`); what belongs to no layer keeps its key in the file
    (`optimizer/vars/3`). Raises CheckpointError for a zip that is no .keras, or is not to be trusted.
    """
    config, source = _opened(path)
    shapes, _ = read_shapes(source)
    keys = {name: key for name, key in _named(config, "", "", 0) if key in shapes}
    known = set(keys.values())
    keys.update({key: key for key in shapes if key not in known and key not in keys})

    return Checkpoint(
        path,
        "keras-zip",
        {name: shapes[key] for name, key in keys.items()},
        lambda name: source.read(keys[name]),
        sha256_of(path),
        places=keys,
    )


def require_harmless(path: Path) -> None:
    """CheckpointError for a `.keras` file that is not to be given to Keras: members outside of it or twice, more than
    it may unpack to, a checksum that is wrong, HDF5 that hangs or crashes."""
    _opened(path)[1].require_harmless()


def _opened(path: Path) -> tuple[Any, Hdf5]:
    """(the model's config, its weights)."""
    try:
        with zipfile.ZipFile(path) as zipped:
            members = _members(zipped, path)
            return _read_config(zipped, members[_CONFIG], path), _weights(zipped, members[WEIGHTS], path)
    # A zip that is cut out in its middle makes zipfile seek in front of its beginning (EINVAL).
    except (*ZIP_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise CheckpointError(
            f"{path} is a damaged zip archive ({error}): expected a .keras file; copy it again"
        ) from error


def _members(zipped: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members by name. Raises CheckpointError where there is one that a .keras has no use for."""
    infos = zipped.infolist()
    if len(infos) > _MOST_MEMBERS:
        raise CheckpointError(f"{path} holds more than {_MOST_MEMBERS} members: expected a .keras file")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        if archive.leads_outside(name):
            raise CheckpointError(f"{path} holds {name!r}, a path outside of it: it is not read")
        if name in members:
            raise CheckpointError(f"{path} holds {name!r} twice: it is not read")
        if info.file_size > max(_BOMB_BYTES, _MOST_EXPANSION * info.compress_size):
            raise CheckpointError(
                f"{path} holds {name!r}, {info.compress_size} bytes that unpack to {info.file_size}: it is not read"
            )
        members[name] = info
    if sum(info.file_size for info in infos) > archive.MOST_BYTES:
        raise CheckpointError(f"{path} unpacks to more than {archive.MOST_BYTES} bytes: it is not read")
    if "model.weights.json" in members:
        raise CheckpointError(f"{path} {SHARDED}")
    for wanted in (_CONFIG, WEIGHTS):
        if wanted not in members:
            raise CheckpointError(
                f"{path} is a zip archive without {wanted}, not a .keras file: expected what model.save('x.keras') "
                "writes"
            )
        if members[wanted].flag_bits & 1:
            raise CheckpointError(f"{path} is encrypted: expected a .keras file as model.save writes it")
    return members


def _read_config(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Any:
    if info.file_size > _MOST_CONFIG_BYTES:
        raise CheckpointError(f"{path} holds a {_CONFIG} of {info.file_size} bytes: it is not read")
    try:
        return json.loads(zipped.read(info))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} holds a {_CONFIG} that is not JSON: copy it again") from error


def _weights(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Hdf5:
    """Where the weights lie: in the zip itself, as Keras stores them, or unpacked in the cache where compressed."""
    if info.compress_type == zipfile.ZIP_STORED:
        with zipped.open(info) as member:
            while member.read(1 << 20):  # to its end, where zipfile compares the checksum
                pass
        return Hdf5(path, _start(info, path), info.file_size)
    unpacked = cache_dir() / "unpacked" / f"{sha256_of(path)[:16]}-{WEIGHTS}"

    def fill(place: Path) -> None:
        with zipped.open(info) as member, place.open("wb") as out:
            shutil.copyfileobj(member, out, 1 << 20)  # zipfile ends a member at the size it claims

    return Hdf5(archive.made_once(unpacked, fill))


def _start(info: zipfile.ZipInfo, path: Path) -> int:
    """Where a stored member's bytes begin: behind its local header (APPNOTE.TXT 4.3.7)."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return info.header_offset + _LOCAL_HEADER_BYTES + name + extra


def _named(config: Any, name: str, key: str, depth: int) -> Iterator[tuple[str, str]]:
    """(name in this package, key in the file) of every variable that the layers of a model's config can have."""
    layers = _layers(config)
    if depth > _DEEPEST:
        return
    used: dict[str, int] = {}
    for layer in layers:
        class_name, settings = str(layer.get("class_name", "")), _mapping(layer.get("config"))
        stem = snake_case(class_name)
        count = used[stem] = used.get(stem, -1) + 1
        inner_key = f"{key}layers/{stem}_{count}" if count else f"{key}layers/{stem}"
        inner_name = f"{name}{settings.get('name') or inner_key.rpartition('/')[2]}"
        for index, variable in enumerate(_variables(class_name, settings)):
            yield f"{inner_name}/{variable}", f"{inner_key}/vars/{index}"
        yield f"{inner_name}/seed_generator/0", f"{inner_key}/seed_generator/vars/0"
        yield from _named(layer, f"{inner_name}/", f"{inner_key}/", depth + 1)


def _layers(config: Any) -> list[Mapping[str, Any]]:
    layers = _mapping(_mapping(config).get("config")).get("layers", ())
    found = [layer for layer in layers if isinstance(layer, Mapping)] if isinstance(layers, list) else []
    # `Sequential.layers`, which is what is saved, leaves the input out.
    sequential = _mapping(config).get("class_name") == "Sequential"
    return [layer for layer in found if not (sequential and layer.get("class_name") == "InputLayer")]


def _variables(class_name: str, settings: Mapping[str, Any]) -> list[str]:
    """A layer's variables in the order they are saved in."""
    if class_name not in _VARIABLES:
        return [str(index) for index in range(_MOST_COUNTED)]
    return [variable for switch, variable in _VARIABLES[class_name] if settings.get(switch, True)]


def snake_case(class_name: str) -> str:
    """`Conv2D` is `conv2d` (keras/src/utils/naming.py, `to_snake_case`)."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
