"""Whole Keras models on disk, `.keras`, `.h5` or a preset: opened without running code in them, used as backbones,
written."""

import errno
import os
import re
import resource
import shutil
import tempfile
import zipfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from checkpoints.atomic import replacing
from checkpoints.cache.records import sha256_of
from checkpoints.catalog.lookup import find_row
from checkpoints.catalog.spec import BackboneSpec
from checkpoints.errors import UnknownBackbone
from checkpoints.formats import Checkpoint, keras_zip
from checkpoints.formats.hdf5 import Hdf5
from checkpoints.formats.location import HDF5_MAGIC, starts_with
from checkpoints.matching.transfer import LoadReport
from finetune.backbone import networks
from finetune.backbone.head import keep_head, swap_head
from finetune.backbone.hub.module_layer import ANY_SIZE, trusting
from finetune.backbone.hub.signatures import is_saved_model
from finetune.backbone.keras_2.in_place import write_statistics
from finetune.backbone.keras_2.legacy_config import read_legacy
from finetune.backbone.keras_2.legacy_directory import open_directory
from finetune.backbone.keras_2.legacy_file import built
from finetune.backbone.keras_2.legacy_subject import LegacySubject
from finetune.backbone.keras_2.to_keras_3 import transferred
from finetune.backbone.kerashub.families import stages as stages_of_kerashub
from finetune.backbone.kerashub.preset_folder import is_preset, locate, read, rebuilt
from finetune.backbone.networks.keras_applications import STAGES, canonical_names
from finetune.backbone.networks.network import Stage, layers_by_side, layers_until
from finetune.backbone.other_releases import without_unknown
from finetune.backbone.outputs import Scored, choose_output
from finetune.batchnorm.flatten import flat, image_shape
from finetune.batchnorm.surgery import BatchNormOptions, adopt, to_stock
from finetune.errors import FinetuneError
from finetune.files import read_json
from finetune.text import ImageShape, ImageSize

SUFFIXES = (".keras", ".h5", ".hdf5")
_KEPT_PIXELS = (
    *("RandomFlip", "RandomCrop", "RandomRotation", "RandomTranslation", "RandomZoom", "CenterCrop", "Resizing"),
    *("GetItem", "Cast", "Identity"),
)
_SCALES_PIXELS = ("Rescaling", "Normalization", "TrueDivide", "Divide", "Multiply", "Subtract", "Add")


def open_model(path: Path, *, module: str | None = None) -> keras.Model:
    """A whole model from a `.keras` file, an `.h5` one, a SavedModel of Keras 2 or the folder of a KerasHub preset, in
    safe mode: no code in it is run.

    A model that Keras 2 saved is transferred to Keras 3 (`finetune.backbone.keras_2`).
    `module` is the Hub handle that may be in it, because the user named it; any other is refused.
    Raises FinetuneError where it is missing, damaged, weights only, or holds Python code or custom classes;
    CheckpointError where it is a bomb, or the libraries that read it hang or crash over it.
    """
    if is_saved_model(path):
        return transferred(open_directory(path), name=str(path))
    if is_preset(path):
        return rebuilt(path)
    if not path.is_file():
        raise FinetuneError(f"there is no file {path}: expected a Keras model, .keras or .h5; check the name")
    zipped = zipfile.is_zipfile(path)
    if path.suffix not in SUFFIXES or not (zipped or starts_with(path, HDF5_MAGIC)):
        raise FinetuneError(
            f"{path} is cut off, or no Keras model at all: expected a whole model, .keras or .h5, as model.save writes "
            "it; copy it again"
        )
    if zipped != (path.suffix == ".keras"):  # Keras tells the two apart by the name alone
        raise FinetuneError(
            f"{path} is {'a .keras archive' if zipped else 'an HDF5 file'} by its content: rename it to end in "
            f"{'.keras' if zipped else '.h5'}"
        )
    if zipped:
        keras_zip.require_harmless(path)
    else:
        Hdf5(path).require_harmless()
    legacy = read_legacy(path)
    if legacy is not None:
        return transferred(built(legacy), name=str(path))
    try:
        with trusting(module) as failures:
            return _loaded(path)
    except Exception as error:  # Keras raises whatever its parts raise: zip, HDF5, JSON, ValueError
        if failures:
            raise FinetuneError(f"{path}: {failures[0]}") from None
        raise FinetuneError(refusal(path, str(error).strip())) from None


def _loaded(path: Path) -> keras.Model:
    """The model that Keras 3 loads, also from a file of another release of it."""
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except TypeError:  # by which a layer says that it has no such setting
        with tempfile.TemporaryDirectory() as folder:
            edited = Path(folder) / path.name
            if not without_unknown(path, edited):
                raise
            return keras.models.load_model(edited, compile=False, safe_mode=True)


def refusal(path: Path, reason: str) -> str:
    """What a user reads about a model that Keras does not load."""
    if "unsafe" in reason or "arbitrary code" in reason:
        return (
            f"refused: {path} holds Python code (a Lambda layer) that would run when it is loaded; expected stock "
            "layers only, as 'finetune run' writes. Put a stock layer in its place (keras.layers.Rescaling, "
            "keras.layers.Activation, ...) and save the model again"
        )
    unknown = re.search(r"(?:Could not locate (?:class|function)|Unknown (?:layer|object):?) '([^']+)'", reason)
    if unknown:
        return (
            f"refused: {path} needs the class '{unknown[1]}', which is not part of Keras: no code is loaded from a "
            "model file. Rebuild the model of stock Keras layers, set its weights, and save that"
        )
    if "No model config found" in reason:
        return (
            f"{path} holds weights without a model: expected a whole model, as model.save writes it. Give the model "
            "they are of with --architecture FILE (.keras, .h5 or the JSON of model.to_json()); weights of a network "
            "in the catalogue as --backbone NAME --checkpoint PATH"
        )
    return (
        f"{path} cannot be loaded by Keras {keras.__version__} ({_cause(reason)[:300]}): save it again "
        "by the Keras that wrote it, without what is named here; or, if it is damaged, copy it again"
    )


def _cause(reason: str) -> str:
    """The first line of a message; where Keras only says that a part cannot be made, the part's own message."""
    inner = re.findall(r"Exception encountered: (.+)", reason)
    return inner[-1] if inner else reason.partition("\n")[0]


def legacy_subject(path: Path, original: keras.Model, chosen: keras.Model, scored: Scored) -> LegacySubject | None:
    """The model of a Keras 2 file as Keras 2 runs it, where Keras 3 has not its BatchNorm; None for every other file.

    original: what `open_model(path)` gave; chosen, scored: what `choose_output` and `as_logits` made of it.
    """
    legacy = read_legacy(path)
    if legacy is None or not legacy.own_batchnorm:
        return None
    scores = replace(scored.scores, probabilities=scored.scores.probabilities or scored.stripped)
    number = [id(one) for one in original.outputs].index(id(chosen.outputs[0]))
    return LegacySubject(built(legacy), scores, output=number)


def write_back(model: Any, source: Path | None, out: Path) -> None:
    """Write the model of `open_model(source)`, whose moving statistics were changed, atomically.

    It may be that of a `legacy_subject`. A file of Keras 2 is copied, and nothing differs but these. Without a source
    its parts are of several files.
    """
    with replacing(out) as temporary:
        if source is not None and read_legacy(source) is not None:
            write_statistics(source, model, temporary)
        else:
            model.save(temporary)


def save_stock(model: keras.Model, path: Path) -> None:
    """Write `model` with stock layers only, atomically. OSError where the disk is full."""
    write_model(to_stock(model), path)


def write_model(stock: keras.Model, path: Path) -> None:
    """Write a model of stock layers atomically: its weights to `.weights.h5`, all of it to `.keras`. OSError."""
    size = sum(int(np.prod(variable.shape)) * 4 for variable in stock.variables)
    # HDF5 writes `.weights.h5`, and where memory is short `.keras`; refused by the system, it crashes the process.
    if shutil.disk_usage(path.absolute().parent).free < size + 2**20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < size + 2**20:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    with replacing(path) as temporary:
        stock.save_weights(temporary) if path.name.endswith(".weights.h5") else stock.save(temporary)


def find(path: Path, output: str | None = None, *, model: keras.Model | None = None) -> BackboneSpec:
    """The spec of a model file. `preprocessing` is "" where the file does not say it: the user must.

    Opens the file: its size, its head and its preprocessing are in it. `output` names one of several outputs.
    `model` is what it holds, if that is known. Raises FinetuneError.
    """
    path = Path(os.path.abspath(path))
    model = choose_output(model or _opened(path), output, name=str(path))
    height, width, channels = image_shape(model)
    if channels not in (1, 3, 4):
        raise FinetuneError(f"{path} takes images of {channels} channels: expected 1 (grey), 3 (RGB) or 4 (RGBA)")
    shape = ImageShape(height or ANY_SIZE, width or ANY_SIZE, channels)
    bn = [one for one in model._flatten_layers() if isinstance(one, keras.layers.BatchNormalization)]
    outputs = model.outputs[0].shape
    _, preprocess = _config_beside(path)
    return BackboneSpec(
        name=str(path),
        source="file",
        family=model.name,
        arguments={"output": output} if output else {},
        preprocessing=preprocess or ("raw" if _scales_pixels(flat(model)) else ""),
        image_size=max(shape[:2]),
        own_size=height is not None or width is not None,
        image_shape=None if isinstance(shape.setting, int) else (shape.height, shape.width, channels),
        outputs=int(outputs[-1]) if len(outputs) == 2 and outputs[-1] else 0,
        bn_decay=float(bn[0].momentum) if bn else 0.99,
        bn_epsilon=float(bn[0].epsilon) if bn else 1e-3,
        parameters=model.count_params(),
        reference="a model file of your own",
    )


def find_preset(name: str, output: str | None = None) -> BackboneSpec:
    """The spec of a KerasHub preset: its name, which may have to be fetched, or its folder. Raises as `locate` does,
    and as `open_model`."""
    folder = locate(name)
    name = os.path.abspath(folder) if Path(name).expanduser().exists() else name
    preset = read(folder)
    height, width, channels = preset.image_shape
    usual = preset.image_size or (ANY_SIZE, ANY_SIZE)
    shape = ImageShape(height or usual[0], width or usual[1], channels)
    return replace(
        find(folder, output),
        name=name,
        source="kerashub",
        family=preset.kind,
        preprocessing=preset.preprocessing,
        image_size=max(shape[:2]),
        image_shape=None if isinstance(shape.setting, int) else (shape.height, shape.width, channels),
        outputs=0,
        reference=f"a preset of KerasHub, {preset.kind}",
    )


def model_path(spec: BackboneSpec) -> Path:
    """The file or folder of a whole model. Raises as `locate` does, for a preset that has to be fetched."""
    return locate(spec.name) if spec.source == "kerashub" else Path(spec.name)


def load(
    spec: BackboneSpec,
    *,
    image_size: ImageSize,
    weights: bool,
    batchnorm: BatchNormOptions,
    features: str | None,
    keep: int | None,
    assembled: tuple[keras.Model, Checkpoint] | None = None,
) -> tuple[keras.Model, str, dict[str, list[str]], LoadReport | None, str]:
    """The file as an adopted flat model at `image_size`: (model, scope, stages, report, words about the head).

    It ends in features, after the layer `features` where that is given; with `keep`, in that many logits.
    `assembled` is the model with the weights of another file, and that file.
    """
    path = model_path(spec)
    original, other = assembled or (_opened(path), None)
    chosen = choose_output(original, spec.arguments.get("output"), name=spec.name)
    model = flat(chosen, image_size=image_size, weights=weights)
    cut = swap_head(model, features, name=spec.name) if keep is None else keep_head(model, keep, name=spec.name)
    made_from, _ = _config_beside(path)
    scope, stages = _stages(cut.features, model, made_from, kept=keep is not None)
    report = None
    if weights:
        names = tuple(variable.path for layer in cut.features.layers for variable in layer.weights)
        left = tuple(v.path for layer in model.layers for v in layer.weights if v.path not in set(names))
        ignored = {"old head": left} if left and keep is None else {}
        if other is not None:
            report = LoadReport(str(other.path), other.kind, other.sha256, names, ignored)
        else:
            kind, held = _content(path)
            report = LoadReport(str(path), kind, sha256_of(*held), names, ignored)
    return adopt(cut.features, unbiased=False, options=batchnorm), scope, stages, report, cut.words


def _content(path: Path) -> tuple[str, list[Path]]:
    """(what kind of file it is, the files that are its content)."""
    if not path.is_dir():
        return path.suffix.removeprefix("."), [path]
    if is_preset(path):
        return "kerashub", read(path).files
    return "savedmodel", [one for one in sorted(path.glob("*/variables.*")) if one.is_file()]


def _opened(path: Path) -> keras.Model:
    """The model in a file. FinetuneError where there is none."""
    try:
        states = [one.stat() for one in _watched(path)]
    except OSError:
        raise FinetuneError(f"there is no file {path}: expected a Keras model, .keras or .h5; check the name") from None
    return _read_once(path, tuple((state.st_mtime_ns, state.st_size) for state in states))


def _watched(path: Path) -> list[Path]:
    """The files whose change makes it another model. A preset lacks some where `rebuilt` says so."""
    if is_preset(path):
        return [one for one in read(path).files if one.exists()]
    return [path / "variables" / "variables.index" if path.is_dir() else path]


@lru_cache(maxsize=1)
def _read_once(path: Path, _states: tuple[tuple[int, int], ...]) -> keras.Model:
    """Finding the spec and loading the weights need the same file: it is read once."""
    return open_model(path)


def _config_beside(path: Path) -> tuple[BackboneSpec | None, str]:
    """(backbone, preprocessing) in the `config.json` of the run that wrote the file; (None, "") without one."""
    where = path.parent / "config.json"
    config = read_json(where) if where.is_file() and not is_preset(path) else {}
    name, preprocess = config.get("backbone"), config.get("preprocess")
    try:
        spec = find_row(name) if isinstance(name, str) else None
    except UnknownBackbone:
        spec = None
    return spec, preprocess if isinstance(preprocess, str) else ""


def _scales_pixels(model: keras.Model) -> bool:
    """Whether the first thing the flat `model` does with its images, but for moving pixels, is to rescale them."""
    x = model.input
    while True:
        consumers = [one for one in model.operations if any(x is i for i in one._inbound_nodes[0].input_tensors)]
        if len(consumers) != 1:
            return False
        kind = type(consumers[0]).__name__
        if kind in _SCALES_PIXELS:
            return True
        if kind not in _KEPT_PIXELS:
            return False
        x = consumers[0]._inbound_nodes[0].outputs[0]


def _stages(
    features: keras.Model, whole: keras.Model, spec: BackboneSpec | None, *, kept: bool
) -> tuple[str, dict[str, list[str]]]:
    """(root scope, stages): those of the network the file was made from, by its layers' names, or by side."""
    scope, known = _known(features, spec)
    body = features
    if kept:  # the stages are the features'; what is not in them is the head
        body = swap_head(whole, None, name=whole.name).features
    names = {layer.name for layer in body.layers}
    ends = {stage.name: stage.end for stage in known if stage.end in names}
    if not ends:
        return "", layers_by_side(body)
    stages, left = layers_until(body, ends)
    stages[list(stages)[-1]] += left
    return scope, stages


def _known(model: keras.Model, spec: BackboneSpec | None) -> tuple[str, tuple[Stage, ...]]:
    """(root scope, stages) of the network `spec`, or of the application that the layers' names fit best."""
    if spec is not None:
        network = networks.build(spec.family, image_size=spec.image_size, outputs=None, arguments=spec.arguments)
        return network.scope, network.stages
    order = {layer.name: index for index, layer in enumerate(model.layers)}
    numbered: dict[str, Any] = {new: old for old, new in canonical_names(model).items()}
    fitting = []
    for stages in STAGES.values():
        here = tuple(Stage(one.name, numbered.get(one.end, one.end)) for one in stages)
        if all(one.end in order for one in here):
            fitting.append(here)
    fitting.append(stages_of_kerashub(order))
    # ResNet101 has every layer where a stage of ResNet50 ends: the right one reaches furthest.
    return "", max(fitting, key=lambda here: sum(order[one.end] for one in here))
