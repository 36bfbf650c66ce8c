"""What is exported: a finished run's model, and the facts that its users need."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune._version import __version__
from finetune.backbone import module_handle
from finetune.batchnorm.surgery import to_stock
from finetune.config import RECIPE, RunConfig
from finetune.data.dataset import Split
from finetune.data.geometry import Geometry, geometry_of
from finetune.data.preprocessing import AnyPreprocessing, find_preprocessing
from finetune.errors import FinetuneError
from finetune.files import to_json
from finetune.runs.directory import RunDir
from finetune.runs.model import find_trained, finished_class_names, open_trained
from finetune.runs.run_data import image_shape, white
from finetune.text import ImageShape, shape_of

INPUT = "images"
"""Name of the input, in every format in which inputs have names."""
CARD, LABELS = "finetune.json", "labels.txt"
"""Files that go with an export: its card, and its class names, one a line."""
_KINDS = {1: "grey", 3: "RGB", 4: "RGBA"}
Runtime = Callable[[np.ndarray], np.ndarray]
"""An export opened by the program it is for: its input, `[batch, ...]`, to logits `[batch, classes]`."""


@dataclass(frozen=True, eq=False)
class Source:
    """A finished run's model to export.

    path: its `.keras` file.
    with_preprocessing: True where the export takes pixels as they are, uint8 RGB `[batch, height, width, 3]` of the
    native size (grey or RGBA, if the run's images are; RGBA also of photos for a network of four channels). False where
    it takes the network's own input, preprocessed float32.
    representative: training images with which activations are quantised; None where no format needs them.
    """

    run: RunDir
    config: RunConfig
    path: Path
    class_names: tuple[str, ...]
    steps: int
    with_preprocessing: bool
    representative: Split | None = None

    @cached_property
    def stock(self) -> keras.Model:
        """The model in stock Keras layers, preprocessed images to logits. Raises FinetuneError."""
        return to_stock(open_trained(self.path).model)

    @cached_property
    def native(self) -> tuple[int, ...] | None:
        """(height, width) in px of the run's images, and their channels if they are not RGB. None: photos of any size,
        of which evaluation takes the centre."""
        return image_shape(self.run, self.config)

    @cached_property
    def white(self) -> int | None:
        """As in `run_data.white`."""
        return white(self.run)

    @cached_property
    def temperature(self) -> float:
        """By which logits are divided before probabilities are made of them."""
        return self.run.temperature()

    @property
    def module(self) -> str | None:
        """The Hub handle of a run on a module of TensorFlow Hub."""
        return module_handle(self.config.backbone)

    @property
    def network(self) -> ImageShape:
        """The shape of the network's input."""
        return shape_of(self.config.image_size) if self.config.image_size else ImageShape(*self.stock.input_shape[1:])

    @property
    def preprocessing(self) -> AnyPreprocessing:
        """The run's. FinetuneError where its config names none."""
        if self.config.preprocess is None:
            raise FinetuneError(f"{self.run.path / 'config.json'} has no preprocess: it is damaged; restore it")
        return find_preprocessing(self.config.preprocess)

    @property
    def geometry(self) -> Geometry:
        """How images come to that shape."""
        return geometry_of(self.config)

    @property
    def shape(self) -> list[int | None]:
        """Shape of the export's input."""
        if not self.with_preprocessing:
            return [None, *self.network]
        channels = 4 if self.native is None and self.network.channels == 4 else 3
        return [None, *(*(self.native or (None, None)), channels)[:3]]

    def card(self, **more: Any) -> dict[str, Any]:
        """Metadata for programs, in every export: how its pixels are prepared, what its outputs mean, and `more`."""
        kind = _KINDS[self.shape[3] or 3]
        return {
            "written_by": f"finetune {__version__}",
            "backbone": self.config.backbone,
            "class_names": list(self.class_names),
            "multi_label": self.run.multi_label,
            "thresholds": self.run.thresholds(len(self.class_names)),
            "input": f"uint8 {kind} [0, 255]" if self.with_preprocessing else f"float32 {kind}, preprocessed",
            "input_shape": self.shape,
            "image_size": self.network.setting,
            "preprocess": self.config.preprocess,
            **{name: getattr(self.config, name) for name in RECIPE},
            "preprocessing_inside": self.with_preprocessing,
            "data_image_shape": list(self.native) if self.native else None,
            "white": self.white,
            "temperature": self.temperature,
            **more,
        }

    def card_text(self, **more: Any) -> str:
        """`card` as JSON."""
        return to_json(self.card(**more), indent=2) + "\n"

    def labels_text(self) -> str:
        """The class names, one a line, in the order of the outputs; line breaks in a name are written out."""
        return "".join(one_line(name) + "\n" for name in self.class_names)

    def notes(self) -> list[str]:
        """What the user of the export must feed it."""
        kind = _KINDS[self.shape[3] or 3]
        part = "square" if self.network.height == self.network.width else "part"
        ways = {"crop": f"the centre {part} is taken and resized", "squash": "stretched", "pad": "padded and resized"}
        if not self.with_preprocessing:
            words = f"feed images of {self.network} with the preprocessing '{self.config.preprocess}'"
        elif self.native:
            words = f"feed uint8 {kind} images of {self.native[1]}x{self.native[0]} px, as they are"
        else:
            words = f"feed uint8 {kind} photos of any size, as they are: {ways[self.geometry.mode]} to {self.network}"
            if self.geometry.fraction < 1:
                words += f", of which the centre {self.geometry.fraction:g} of each side is kept"
        white = self.white
        deep = f"pixels of more than 8 bits become 8-bit ones first: min(pixels, {white}) * 255 / {white}, rounded"
        scaled = f"its probabilities are softmax(logits / {self.temperature:.6g}), as the run's --calibrate found"
        return [words, *([deep] if white else []), *([scaled] if self.temperature != 1 else [])]


def one_line(name: str) -> str:
    """`name` with control characters and line breaks written as escapes."""
    return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")


def open_source(target: Path, *, with_preprocessing: bool) -> Source:
    """The run `target`, a directory or a `.keras` file in one. Its model is read on first use.

    Raises FinetuneError where it is no finished run.
    """
    run, config, path = find_trained(target)
    steps = run.read("result.json", "class_names", "steps")["steps"]
    return Source(run, config, path, finished_class_names(run), steps, with_preprocessing)
