"""TF2 SavedModels as functions from images to features: how they are found and loaded, and what arguments they take."""

import inspect
import urllib.error
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune.backbone.hub import safety
from finetune.errors import FinetuneError

_EXPECTED = (
    "a TF2 SavedModel that is called with images and gives features, such as the feature vectors of "
    "https://www.kaggle.com/models?framework=tfHub in the format TF2"
)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A loaded SavedModel.

    run: `run(images, training, momentum)`: float32 `[batch, height, width, 3]` in [0, 1] to features; momentum is None
        where `takes_momentum` is False. side: px of the images it was made for, None for any.
    """

    handle: str
    variables: list[tf.Variable]
    trainable: list[tf.Variable]
    run: Callable[[tf.Tensor, bool, float | None], tf.Tensor]
    can_train: bool
    takes_momentum: bool
    side: int | None


def is_saved_model(path: Path) -> bool:
    """Whether a directory looks like a SavedModel."""
    return (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file()


def load(handle: str) -> Loaded:
    """Load a Hub handle or a SavedModel directory; what is fetched stays in TensorFlow Hub's cache.

    The handle is one of `tensorflow_hub.resolve`: a page of tfhub.dev or Kaggle, the address of a .tar.gz, a path.
    Raises FinetuneError where it cannot be reached, is no TF2 SavedModel, does more than compute, or cannot be called
    with images alone; CheckpointError where its variables are damaged.
    """
    path = _resolved(handle)
    if (path / "tfhub_module.pb").is_file() or not safety.of_objects(path):
        raise FinetuneError(
            f"{handle} is a TF1 Hub module or another SavedModel of TF1: its training graph cannot be used from TF2; "
            f"expected {_EXPECTED} (of the ImageNet modules, versions 4 and 5)"
        )
    safety.require_harmless(path, handle)
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # the loader raises whatever its parts raise: protobuf, file system, graph
        raise FinetuneError(
            f"{handle} cannot be loaded as a SavedModel ({str(error).partition(chr(10))[0][:300]}): copy or fetch it "
            "again"
        ) from None
    function, arguments, side = _function(loaded, handle)
    held = _variables(loaded, function)
    trained = getattr(loaded, "trainable_variables", None)
    trainable = list(trained) if trained is not None else [one for one in held if one.trainable]
    # `arguments` lacks what a signature hides: it is used as it is.
    training, momentum = "training" in arguments, "batch_norm_momentum" in arguments

    def run(images: tf.Tensor, is_training: bool, decay: float | None) -> tf.Tensor:
        given: dict[str, Any] = {"training": is_training} if training else {}
        if momentum and training:
            given["batch_norm_momentum"] = decay
        return _features(function(images, **given), handle)

    run._kept = loaded  # type: ignore[attr-defined]  # the functions refer to its variables weakly
    return Loaded(handle, held, trainable, run, training, momentum and training, side)


def files(handle: str) -> list[Path]:
    """The files of a module that are its content: the graph and the variables."""
    path = _resolved(handle)
    return sorted(one for one in (*path.glob("saved_model.pb*"), *path.glob("variables/*")) if one.is_file())


def _resolved(handle: str) -> Path:
    if "://" not in handle:
        path = Path(handle).expanduser()
        if not path.exists():
            raise FinetuneError(
                f"there is no SavedModel {handle}: expected the path of a directory with saved_model.pb in it, or a "
                "handle such as https://tfhub.dev/google/imagenet/resnet_v1_50/feature_vector/5"
            )
        if not is_saved_model(path):
            raise FinetuneError(f"{handle} is no SavedModel: expected a directory with saved_model.pb in it")
        return path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorflow_hub imports the deprecated pkg_resources
        import tensorflow_hub
    try:
        path = Path(tensorflow_hub.resolve(handle))
    except (OSError, RuntimeError, ValueError, EOFError, tf.errors.OpError) as error:
        reason = getattr(error, "reason", None) or str(error).partition("\n")[0]
        missing = isinstance(error, urllib.error.HTTPError) and error.code == 404
        advice = (
            "there is no such module: check the handle and its version"
            if missing
            else "without a network, unpack the module anywhere and give hub:PATH, or set TFHUB_CACHE_DIR to a cache "
            "that has it"
        )
        raise FinetuneError(f"cannot fetch the module {handle} ({reason}): {advice}") from None
    if not is_saved_model(path):
        raise FinetuneError(f"{handle} holds no saved_model.pb: expected {_EXPECTED}")
    return path


def _function(loaded: Any, handle: str) -> tuple[Callable[..., Any], set[str], int | None]:
    """What is called with images, the names of its arguments, and the images' side."""
    if callable(loaded):
        function = loaded.__call__
        specification = getattr(function, "function_spec", None)
        signature = specification.fullargspec if specification else inspect.getfullargspec(function)
        shapes = [
            one.shape
            for concrete in getattr(function, "concrete_functions", [])
            for one in concrete.structured_input_signature[0][:1]
            if isinstance(one, tf.TensorSpec)
        ]
        _check_input(shapes, handle)
        return function, {*signature.args, *signature.kwonlyargs}, _side(shapes)
    signatures = dict(getattr(loaded, "signatures", {}))
    usable = {}
    for name, one in signatures.items():
        arguments = one.structured_input_signature[1]
        if len(arguments) == 1 and len(next(iter(arguments.values())).shape or []) == 4:
            usable[name] = (one, *arguments.popitem())
    chosen = next(
        (usable[name] for name in ("default", "image_feature_vector", "serving_default") if name in usable), None
    )
    if chosen is None and len(usable) == 1:
        (chosen,) = usable.values()
    if chosen is None:
        there = f"its signatures are {', '.join(signatures)}" if signatures else "it has no signature"
        raise FinetuneError(
            f"{handle} cannot be called with images ({there}): expected {_EXPECTED}, or one signature that takes "
            "[batch, height, width, 3]"
        )
    concrete, argument, spec = chosen
    return lambda images: concrete(**{argument: images}), set(), _side([spec.shape])


def _check_input(shapes: list[Any], handle: str) -> None:
    if shapes and not any(shape.rank in (None, 4) for shape in shapes):
        raise FinetuneError(f"{handle} takes {shapes[0]}: expected images [batch, height, width, 3]")


def _side(shapes: list[Any]) -> int | None:
    sides = {shape[1] for shape in shapes if shape.rank == 4 and shape[1] is not None}
    return int(sides.pop()) if len(sides) == 1 else None


def _variables(loaded: Any, function: Any) -> list[tf.Variable]:
    """Every variable, once: those the module lists, or those its functions use."""
    listed = getattr(loaded, "variables", None)
    if listed is None:
        concrete = [function] if hasattr(function, "variables") else getattr(function, "concrete_functions", [])
        listed = [one for each in concrete for one in each.variables]
        if not listed:
            listed = [one for each in dict(getattr(loaded, "signatures", {})).values() for one in each.variables]
    unique = {id(one): one for one in listed if one.dtype.is_floating or one.dtype.is_integer}
    return list(unique.values())


def _features(result: Any, handle: str) -> tf.Tensor:
    if not isinstance(result, dict):
        if isinstance(result, list | tuple):
            raise FinetuneError(f"{handle} gives {len(result)} results: expected one, the features [batch, channels]")
        return result
    if "default" in result:
        return result["default"]
    if len(result) == 1:
        return next(iter(result.values()))
    raise FinetuneError(
        f"{handle} gives {', '.join(sorted(result))}: expected one result, or one called 'default', with the features"
    )
