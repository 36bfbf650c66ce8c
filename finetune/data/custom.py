"""Preprocessing by a function of the user: `module:function`."""

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
    """A preprocessing by `function`, in NumPy or TensorFlow.

    The function takes RGB float32 `[batch, height, width, 3]` in [0, 255] at the network's image size, and returns
    float32 of the same shape. It runs after resizing, because it need not commute with resizing.

    failures: the exceptions it raised inside a graph, for the code that runs the graph. TensorFlow passes on only text.
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
            result = np.asarray(self.function(pixels.copy()), np.float32)  # some functions change their argument
        except Exception as error:
            raise FinetuneError(f"--preprocess {self.name} failed: {type(error).__name__}: {error}") from error
        if result.shape != shape:
            raise FinetuneError(
                f"--preprocess {self.name} gave {list(result.shape)} for images {list(shape)}: expected the same shape"
            )
        return result


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
