"""Preprocessing by a function of the user's own: `module:function`."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import FinetuneError, WrongUse


@dataclass(frozen=True)
class CustomPreprocessing:
    """`function` takes RGB float32 `[batch, height, width, 3]` in [0, 255] at the network's size and gives float32 of
    the same shape: NumPy or TensorFlow, per image or not. It is run after resizing, for it may be anything.

    failures: what it raised inside a graph, where TensorFlow makes text of an exception; for whoever runs the graph.
    """

    name: str
    function: Callable[[Any], Any] = field(repr=False, compare=False)
    failures: list[FinetuneError] = field(default_factory=list, repr=False, compare=False)
    affine = False

    def apply(self, images: Any) -> Any:
        """As `finetune.data.preprocessing.Preprocessing.apply`."""
        import tensorflow as tf  # here, so that a name is checked without it

        result = tf.numpy_function(self._called, [tf.cast(images, tf.float32)], tf.float32)
        return tf.ensure_shape(result, images.shape)

    def _called(self, pixels: np.ndarray) -> np.ndarray:
        try:
            return self._checked(pixels)
        except FinetuneError as error:
            self.failures.append(error)
            raise

    def _checked(self, pixels: np.ndarray) -> np.ndarray:
        shape = pixels.shape
        try:
            result = np.asarray(self.function(pixels.copy()), np.float32)  # some functions change what they are given
        except Exception as error:
            raise FinetuneError(f"--preprocess {self.name} failed: {type(error).__name__}: {error}") from error
        if result.shape != shape:
            raise FinetuneError(
                f"--preprocess {self.name} gave {list(result.shape)} for images {list(shape)}: expected the same shape"
            )
        return result


def load(name: str) -> CustomPreprocessing:
    """`module:function`, the module found as Python finds it from the current directory; this runs its code.

    Raises WrongUse where there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the module: anything may come
        raise WrongUse(
            f"--preprocess {name}: cannot import '{module_name}' ({type(error).__name__}: {error}); expected "
            "MODULE:FUNCTION with a module that Python finds from here"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise WrongUse(f"--preprocess {name}: '{module_name}' has no function '{function_name}'")
    return CustomPreprocessing(name, function)
