"""A preset's folder, as `backbone.save_to_preset` writes it: found or fetched, described, opened as a Keras model.

The files are data: no class of them is looked up, and nothing of KerasHub is imported. Presets that are given by name
are fetched by KerasHub, into its own cache.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from checkpoints.errors import CheckpointError
from checkpoints.formats import Checkpoint, open_checkpoint
from checkpoints.formats.keras_h5 import SHARDED
from checkpoints.matching import transfer
from finetune._version import install_line
from finetune.backbone import networks
from finetune.backbone.file_names import weights_file_variables
from finetune.backbone.kerashub.families import CLASSES, Arguments, Plan, plan
from finetune.errors import FinetuneError, UserError, WrongUse
from finetune.files import read_json
from finetune.text import did_you_mean, first_line

PREFIX = "kerashub:"
"""In front of a preset's name or folder, where a backbone is named."""
_CONFIG, _WEIGHTS, _SPLIT_WEIGHTS = "config.json", "model.weights.h5", "model.weights.json"
_CONVERTERS = ("image_converter.json", "preprocessor.json")
_REGISTERED = ("keras_hub>", "keras_nlp>")
_MOST_SIDE = 1 << 14


@dataclass(frozen=True)
class Preset:
    """What the files of a preset say.

    image_shape: (height, width, channels) of the images; None for a side that may be any.
    image_size: (height, width) in px that its image converter makes; None where it has none.
    preprocessing: what the converter computes of pixels in [0, 255], as `--preprocess` takes it; "" where there is no
        converter, or one that cannot be said so.
    """

    folder: Path
    kind: str
    plan: Plan
    image_shape: tuple[int | None, int | None, int]
    image_size: tuple[int, int] | None
    preprocessing: str

    @property
    def files(self) -> list[Path]:
        """The files that are its content."""
        return [self.folder / _CONFIG, self.folder / _WEIGHTS]


def is_preset(folder: Path) -> bool:
    """Whether a folder is one that KerasHub wrote: its `config.json` names a class of KerasHub."""
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    registered = config.get("registered_name") if isinstance(config, dict) else None
    return isinstance(registered, str) and registered.startswith(_REGISTERED)


def locate(name: str) -> Path:
    """The folder of a preset: `name` itself, or where KerasHub keeps the preset of that name, which it fetches first.

    Names are those of KerasHub (`resnet_50_imagenet`) and its addresses (`kaggle://`, `hf://`). Raises WrongUse where
    keras_hub is needed and not installed, or does not know the name; FinetuneError for a folder that holds no preset,
    or where it cannot be fetched.
    """
    folder = Path(name).expanduser()
    if name.strip() and folder.exists():
        if not is_preset(folder):
            raise FinetuneError(
                f"{folder} is no KerasHub preset: expected the folder that backbone.save_to_preset writes, with "
                f"{_CONFIG} and {_WEIGHTS} in it"
            )
        return folder
    if not name.strip() or name.startswith((".", "~", os.sep)):
        raise FinetuneError(f"there is no folder {name!r}: expected the name of a KerasHub preset, or its folder")
    return _fetched(name)


def _fetched(name: str) -> Path:
    """The folder in the cache of KerasHub, with all files of the preset that are read here."""
    try:
        import keras_hub
        from keras_hub.src.utils.preset_utils import get_file  # what from_preset fetches every file by
    except ImportError as error:
        raise WrongUse(
            f"{PREFIX}{name} is fetched by keras_hub, which cannot be imported ({first_line(error)}): "
            f"{install_line('kerashub')}; or give the folder that backbone.save_to_preset wrote elsewhere"
        ) from None
    known = [one for kind in CLASSES for one in getattr(keras_hub.models, kind).presets]
    if "://" not in name and name not in keras_hub.models.Backbone.presets:
        raise WrongUse(
            f"unknown preset '{PREFIX}{name}': {did_you_mean(name, known)}expected one of {', '.join(known)}, an "
            "address such as kaggle://OWNER/MODEL/keras/NAME, or a folder"
        )
    try:
        folder = Path(get_file(name, _CONFIG)).parent
        described = read(folder, f"{PREFIX}{name}")  # before the weights, which are large
        for file in (*_CONVERTERS, _WEIGHTS):
            try:
                get_file(name, file)
            except FileNotFoundError:
                if file == _WEIGHTS:
                    raise
    except UserError:
        raise
    except Exception as error:  # of its downloads, of which there are several kinds
        raise FinetuneError(
            f"{PREFIX}{name} could not be fetched by keras_hub ({first_line(error)}): check the name and the network; "
            "or give the folder that backbone.save_to_preset wrote on a machine that has it"
        ) from None
    return described.folder


def read(folder: Path, name: str = "") -> Preset:
    """Describe the preset in a folder; messages call it `name`. Raises FinetuneError where it cannot be rebuilt."""
    where = name or str(folder / _CONFIG)
    described = read_json(folder / _CONFIG)
    kind, config = described.get("class_name"), described.get("config")
    if not isinstance(kind, str) or not isinstance(config, dict):
        raise FinetuneError(f"{where} names no class with its config: expected what backbone.save_to_preset writes")
    planned = plan(kind, Arguments(config, where))
    shape = config.get("image_shape", [None, None, 3])
    right = isinstance(shape, list) and len(shape) == 3 and shape[2] in (1, 3, 4)
    if not right or any(side is not None and not _is_side(side) for side in shape[:2]):
        raise FinetuneError(
            f"{where} has image_shape {str(shape)[:80]}: expected [height, width, channels] with 1, 3 or 4 channels"
        )
    converter = _converter(folder)
    size = converter.get("image_size") or [converter.get("height"), converter.get("width")]
    sides = isinstance(size, list) and len(size) == 2 and all(map(_is_side, size))
    return Preset(
        folder,
        kind,
        planned,
        (shape[0], shape[1], shape[2]),
        (size[0], size[1]) if sides else None,
        preprocessing(converter, shape[2]) if converter else "",
    )


def rebuilt(folder: Path) -> keras.Model:
    """The preset as a Keras model of stock layers: preprocessed float32 images to pooled features `[batch, channels]`.

    Raises FinetuneError where it is not rebuilt here; CheckpointError where its weights are missing or damaged, or are
    not those of its config.
    """
    preset = read(folder)
    weights = folder / _WEIGHTS
    if not weights.is_file():
        if (folder / _SPLIT_WEIGHTS).is_file():
            raise CheckpointError(f"{folder / _SPLIT_WEIGHTS} {SHARDED}")
        raise CheckpointError(f"{folder} has no {_WEIGHTS}: expected all files of the preset, copy it again")
    opened = open_checkpoint(weights)
    _require_plausible(preset, opened)
    arguments = {**preset.plan.arguments, "channels": preset.image_shape[2]}
    try:
        model = networks.build(
            preset.plan.family, image_size=preset.image_shape[:2], outputs=None, arguments=arguments
        ).model
    except ValueError as error:  # of Keras, about maps that shrink to nothing
        raise FinetuneError(f"{folder / _CONFIG} makes no network ({first_line(error)}): copy it again") from None
    transfer.assign(opened, weights_file_variables(model), ignore=[("optimizer", ["optimizer/*"])])
    return model


def preprocessing(converter: Mapping[str, Any], channels: int) -> str:
    """The arithmetic of an image converter, `pixels * scale + offset`, as `--preprocess` takes it.

    "" for numbers that are not one for each channel, not finite, or a scale that is not above 0.
    """
    scale, offset = converter.get("scale"), converter.get("offset")
    if "mean" in converter and "variance" in converter:  # as the first converters of KerasHub wrote it
        means, variances = _channels(converter["mean"], channels), _channels(converter["variance"], channels)
        factor = _channels(scale, channels)
        if means is None or variances is None or factor is None or min(variances) <= 0:
            return ""
        scale = [one / math.sqrt(variance) for one, variance in zip(factor, variances, strict=True)]
        offset = [-mean / math.sqrt(variance) for mean, variance in zip(means, variances, strict=True)]
    scales = _channels(1.0 if scale is None else scale, channels)
    offsets = _channels(0.0 if offset is None else offset, channels)
    if scales is None or offsets is None or min(scales) <= 0:
        return ""
    if len(set(scales)) == 1:
        return f"scale={scales[0]:.9g},mean={_listed([-one for one in offsets])}"
    # With pixels in [0, 1] first, the numbers are those that people know.
    deviations = [1 / 255 / one for one in scales]
    means = [-one * deviation for one, deviation in zip(offsets, deviations, strict=True)]
    return f"scale=1/255,mean={_listed(means)},std={_listed(deviations)}"


def _converter(folder: Path) -> Mapping[str, Any]:
    """The config of the image converter; empty where the preset has none."""
    for file in _CONVERTERS:
        if not (folder / file).is_file():
            continue
        config = read_json(folder / file).get("config")
        if file == "preprocessor.json" and isinstance(config, dict):
            inner = config.get("image_converter")
            config = inner.get("config") if isinstance(inner, dict) else None
        if isinstance(config, dict):
            return config
    return {}


def _require_plausible(preset: Preset, opened: Checkpoint) -> None:
    """CheckpointError where a network of this config has layers that the file of its weights does not: it would be
    refused later, but first its layers would be made, as many and as large as the config wants."""
    if opened.kind != "keras-weights-h5":
        raise CheckpointError(f"{opened.path} is a {opened.kind} file: expected weights as Keras 3 saves them")
    sides = {side for shape in opened.shapes.values() for side in shape}
    kernels = sum(len(shape) > 1 for shape in opened.shapes.values())
    strange = [width for width in preset.plan.widths if width not in sides]
    if strange or kernels < preset.plan.convolutions:
        what = f"no variable has a side of {strange[0]}" if strange else f"it has {kernels} kernels"
        raise CheckpointError(
            f"{opened.path} is not of the network in {preset.folder / _CONFIG} ({what}): copy the preset again"
        )


def _channels(value: Any, channels: int) -> list[float] | None:
    """`value`, one number or one for each channel, as a list of numbers; None where it is neither."""
    values = value if isinstance(value, list) else [value] * channels
    if len(values) == 1:
        values = values * channels
    right = len(values) == channels and all(type(one) in (int, float) and math.isfinite(one) for one in values)
    return [float(one) for one in values] if right else None


def _listed(values: Sequence[float]) -> str:
    numbers = [f"{value + 0.0:.9g}" for value in values]
    return numbers[0] if len(set(numbers)) == 1 else "/".join(numbers)


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MOST_SIDE
