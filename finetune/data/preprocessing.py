"""The preprocessing that published weights expect, or a function of the user, `module:function`.

With any other preprocessing than that of the weights, accuracy drops without an error.
"""

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.data.channels import LUMA
from finetune.errors import FinetuneError, WrongUse
from finetune.text import did_you_mean


@dataclass(frozen=True)
class Preprocessing:
    """`(pixels * scale - mean) / std` for pixels in [0, 255]; `mean` and `std` are in the order of `channels`.

    Both have three numbers, or four where the fourth channel has its own. The one channel of grey images, and a fourth
    channel without a number, have the grey of the three: grey is linear, so that is the mean of the grey images.
    """

    name: str
    scale: float
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: Literal["rgb", "bgr"] = "rgb"

    def apply(self, images: Any) -> Any:
        """Grey, RGB or RGBA `[batch, height, width, channels]`, uint8 or float32 in [0, 255], to float32 of that shape.

        The map is affine and the same for every pixel, so it commutes with bilinear resizing.
        """
        import tensorflow as tf  # here, so that the table is read without it

        pixels = tf.cast(images, tf.float32)
        found = pixels.shape[-1]
        pixels = reverse_colours(pixels) if self.channels == "bgr" else pixels
        means, deviations = self.of_channels(self.mean, found), self.of_channels(self.std, found)
        scale = tf.constant([self.scale / std for std in deviations])
        shift = tf.constant([mean / std for mean, std in zip(means, deviations, strict=True)])
        return pixels * scale - shift

    def of_channels(self, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
        """The `mean` or `std` as those of images of so many channels."""
        three = values[:3]
        rgb = three if self.channels == "rgb" else three[::-1]
        grey = math.fsum(value * share for value, share in zip(rgb, LUMA, strict=True))
        return {1: (grey,), 3: three, 4: (*values, grey)[:4]}[channels]


def reverse_colours(images: Any) -> Any:
    """`[..., channels]` with red and blue exchanged; grey and a fourth channel stay as they are."""
    if images.shape[-1] == 4:
        import tensorflow as tf  # here, so that the table is read without it

        return tf.gather(images, [2, 1, 0, 3], axis=-1)
    return images[..., ::-1]


# The means are those of the ImageNet training set: in [0, 255] as the VGG authors published them, in [0, 1] as
# torchvision does. `vgg` is slim's vgg_preprocessing (VGG, ResNet v1), `inception` its inception_preprocessing.
# `inception`, `caffe` and `torch` are the modes tf, caffe and torch of keras.applications.imagenet_utils. `densenet` is
# that of DenseNet for slim (pudae/tensorflow-densenet preprocessing/densenet_preprocessing.py): `torch` within 3 %.
PREPROCESSINGS = {
    one.name: one
    for one in (
        Preprocessing("inception", scale=1 / 127.5, mean=(1.0, 1.0, 1.0)),
        Preprocessing("vgg", scale=1.0, mean=(123.68, 116.779, 103.939)),
        Preprocessing("caffe", scale=1.0, mean=(103.939, 116.779, 123.68), channels="bgr"),
        Preprocessing("torch", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        Preprocessing("densenet", scale=1.0, mean=(123.68, 116.78, 103.94), std=(1 / 0.017,) * 3),
        Preprocessing("unit", scale=1 / 255),
        Preprocessing("raw", scale=1.0),
    )
}


CIFAR = Preprocessing("cifar", scale=1 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
"""Mean and deviation of CIFAR-10's training images, as most CIFAR recipes subtract and divide them."""


@dataclass(frozen=True)
class PerImage:
    """Each image minus its own mean, divided by its own deviation, at the network's image size:
    `tf.image.per_image_standardization`."""

    name: str = "per-image"

    def apply(self, images: Any) -> Any:
        """As `Preprocessing.apply`."""
        import tensorflow as tf  # here, so that a name is checked without it

        return tf.image.per_image_standardization(tf.cast(images, tf.float32))


@dataclass(frozen=True)
class Composed:
    """One preprocessing after another, which is a common mistake (double normalisation).

    The first may only be a change of pixels: colours reversed, as OpenCV reads them (BGR), black and white exchanged,
    or height and width.
    """

    name: str
    parts: tuple[Any, ...]

    def apply(self, images: Any) -> Any:
        """As `Preprocessing.apply`."""
        for part in self.parts:
            images = part.apply(images)
        return images


@dataclass(frozen=True)
class Transposed:
    """Height and width exchanged: arrays in column order, as MATLAB and the files of EMNIST have them."""

    name: str = "transposed"

    def apply(self, images: Any) -> Any:
        """As `Preprocessing.apply`. WrongUse for images that are not square."""
        import tensorflow as tf  # here, so that a name is checked without it

        height, width = images.shape[1:3]
        if height != width:
            raise WrongUse(f"--preprocess '..., {TRANSPOSED}' is for square images, not for {width} x {height} px")
        return tf.transpose(images, [0, 2, 1, 3])


SWAPPED, NEGATIVE, TRANSPOSED = "colours swapped", "negative", "transposed"
_CHANGES = {
    SWAPPED: Preprocessing("reversed", scale=1.0, channels="bgr"),
    NEGATIVE: Preprocessing("negative", scale=-1.0, mean=(-255.0, -255.0, -255.0)),
    TRANSPOSED: Transposed(),
}
"""What may happen to pixels before a preprocessing, by the words after its name: `inception, negative`."""
EXCHANGED = {SWAPPED: "red and blue", NEGATIVE: "black and white", TRANSPOSED: "height and width"}
"""What each of these changes exchanges."""


def changed(own: Any, change: str) -> Composed:
    """`own`, anything with `name` and `apply`, of pixels with one of the changes above."""
    return Composed(f"{own.name}, {change}", (_CHANGES[change], own))


def swapped(own: Any) -> tuple[Any, ...]:
    """`own` with red and blue swapped; for `vgg` and `caffe`, the other one."""
    partner = {"vgg": "caffe", "caffe": "vgg"}.get(own.name)
    return (PREPROCESSINGS[partner],) if partner else (changed(own, SWAPPED),)


def distinct(candidates: Sequence[Any], channels: int) -> tuple[Any, ...]:
    """The `candidates` that give different values for images of so many channels, the first of equal ones. Swapped
    colours, for one, change nothing in grey images. What is not of this module is kept as it is."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, channels)).astype(np.float32)
    found: dict[bytes | str, Any] = {}
    for one in candidates:
        known = isinstance(one, Preprocessing | Composed | PerImage)
        key = np.asarray(one.apply(pixels), np.float32).round(4).tobytes() if known else one.name
        found.setdefault(key, one)
    return tuple(found.values())


def suspects() -> tuple[Preprocessing | Composed, ...]:
    """Every known preprocessing, right and wrong.

    The wrong ones are each preprocessing applied twice, those for pixels in [0, 255] applied to pixels in [0, 1], and
    each with red and blue swapped.
    """
    known = PREPROCESSINGS
    twice = [Composed(f"{name} twice", (one, one)) for name, one in known.items() if name != "raw"]
    scaled = [Composed(f"unit, then {name}", (known["unit"], known[name])) for name in ("inception", "vgg", "caffe")]
    bgr = [other for one in known.values() for other in swapped(one) if other not in known.values()]
    return (*known.values(), CIFAR, PerImage(), *twice, *scaled, *bgr)


@dataclass(frozen=True, eq=False)
class CustomPreprocessing:
    """A preprocessing by `function`, in NumPy or TensorFlow.

    The function takes float32 `[batch, height, width, channels]` in [0, 255] at the network's image size, and returns
    float32 of the same shape. It runs after resizing, because it need not commute with resizing.

    failures: the exceptions it raised inside a graph, for the code that runs the graph. TensorFlow passes on only text.
    """

    name: str
    function: Callable[[Any], Any] = field(repr=False)
    failures: list[FinetuneError] = field(default_factory=list, repr=False)

    def apply(self, images: Any) -> Any:
        """As `Preprocessing.apply`."""
        import tensorflow as tf  # here, so that a name is checked without it

        result = tf.numpy_function(recording(self._called, self.failures), [tf.cast(images, tf.float32)], tf.float32)
        return tf.ensure_shape(result, images.shape)

    def _called(self, pixels: np.ndarray) -> np.ndarray:
        try:
            result = np.asarray(self.function(pixels.copy()), np.float32)  # some functions change their argument
        except Exception as error:
            raise FinetuneError(f"--preprocess {self.name} failed: {type(error).__name__}: {error}") from error
        if result.shape != pixels.shape:
            raise FinetuneError(
                f"--preprocess {self.name} gave {list(result.shape)} for images {list(pixels.shape)}: expected the "
                "same shape"
            )
        return result


def recording(function: Callable[..., Any], failures: list[FinetuneError]) -> Callable[..., Any]:
    """`function`, which also appends the FinetuneErrors that it raises to `failures`."""

    def recorded(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except FinetuneError as error:
            failures.append(error)
            raise

    return recorded


AnyPreprocessing = Preprocessing | Composed | PerImage | CustomPreprocessing
_NUMBERS = "--preprocess '{name}': {what}; expected such as 'scale=1/255,mean=0.49/0.48/0.45,std=0.25,order=rgb'"
_DEFAULTS = {"scale": "1", "mean": "0", "std": "1", "order": "rgb"}


def from_numbers(name: str) -> Preprocessing:
    """The preprocessing that `scale=1/255,mean=0.49/0.48/0.45,std=0.25,order=bgr` spells; what is left out is neutral.

    It is `(pixels * scale - mean) / std` of pixels in [0, 255]. scale is a number or a fraction; mean and std are one
    number, or three or four in the order of the channels that the network gets. WrongUse where that does not hold.
    """

    def refused(what: str) -> WrongUse:
        return WrongUse(_NUMBERS.format(name=name, what=what))

    def numbers(key: str) -> tuple[float, ...]:
        try:
            found = tuple(float(part) for part in values[key].split("/"))
        except ValueError:
            raise refused(f"{key} is '{values[key]}'") from None
        if len(found) not in (1, 3, 4) or not all(math.isfinite(one) for one in found):
            raise refused(f"{key} has {len(found)} numbers" if len(found) not in (1, 3, 4) else f"{key} is not finite")
        return found * 3 if len(found) == 1 else found

    values = dict(_DEFAULTS)
    for part in name.split(","):
        key, _, value = part.partition("=")
        if key not in values or not value:
            raise refused(f"'{part}' is none of scale=, mean=, std=, order=")
        values[key] = value
    above, _, below = values["scale"].partition("/")
    try:
        scale = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise refused(f"scale is '{values['scale']}'") from None
    mean, std = numbers("mean"), numbers("std")
    if not 0 < scale < math.inf or min(std) <= 0:
        raise refused("scale and std must be above 0")
    if values["order"] not in ("rgb", "bgr"):
        raise refused(f"order is '{values['order']}'")
    return Preprocessing(name, scale, mean, std, "bgr" if values["order"] == "bgr" else "rgb")


def find_preprocessing(name: str) -> AnyPreprocessing:
    """The preprocessing called `name`: one of `suspects()`, one in numbers, or a custom `module:function`.

    Each may be followed by `, colours swapped`, `, negative` or `, transposed`. Raises WrongUse with the closest name,
    or for a function that cannot be imported.
    """
    own, _, change = name.rpartition(", ")
    if change in _CHANGES:
        return changed(find_preprocessing(own), change)
    if "=" in name:
        return from_numbers(name)
    if ":" in name:
        return import_preprocessing(name)
    if found := {one.name: one for one in suspects()}.get(name):
        return found
    hint = did_you_mean(name, PREPROCESSINGS)
    raise WrongUse(
        f"unknown preprocessing '{name}': {hint}expected one of {', '.join(PREPROCESSINGS)}, cifar, per-image, numbers "
        "such as 'scale=1/255,mean=0.5', or MODULE:FUNCTION of your own"
    )


def known_name(name: str) -> str:
    """`name`, or the name of the known preprocessing that computes the same as its numbers, to six digits."""
    if "=" not in name:
        return name
    own = find_preprocessing(name)
    same = (one.name for one in (*PREPROCESSINGS.values(), CIFAR) if _equal(one, own))
    return next(same, name)


def _equal(one: Preprocessing, other: AnyPreprocessing) -> bool:
    if not isinstance(other, Preprocessing) or len(other.mean) != 3 or len(other.std) != 3:
        return False
    if one.channels != other.channels:
        return False
    # What black and white become says all of a map that is affine.
    ends = [
        [(white * own.scale - mean) / std for white in (0, 255) for mean, std in zip(own.mean, own.std, strict=True)]
        for own in (one, other)
    ]
    return bool(np.allclose(ends[0], ends[1], rtol=1e-6, atol=1e-6))


def is_harmless(name: str) -> bool:
    """Whether `name` is a preprocessing that runs no code of anybody's."""
    try:
        return ("=" in name or ":" not in name) and bool(find_preprocessing(name))
    except WrongUse:
        return False


def import_preprocessing(name: str) -> CustomPreprocessing:
    """Import `module:function`, as Python does from the current directory. This runs the module's code.

    Raises WrongUse if there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the module, which may raise anything
        raise WrongUse(
            f"--preprocess {name}: cannot import '{module_name}' ({type(error).__name__}: {error}); expected "
            "MODULE:FUNCTION with a module that Python finds from here"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise WrongUse(f"--preprocess {name}: '{module_name}' has no function '{function_name}'")
    return CustomPreprocessing(name, function)
