"""The cells of the clinic: a cause, how it is brought about, in which network; and the healthy runs."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from benchmarks.clinic.patients import BODIES, Patient, Recipe, poison, train
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Snapshot
from finetune.batchnorm.surgery import bn_layers
from finetune.data.dataset import Split
from finetune.data.preprocessing import find_preprocessing
from finetune.diagnosis.evidence import Facts


@dataclass(frozen=True)
class Cell:
    """`expected`: the right verdict. `sick`: what is done to the trained patient."""

    expected: str
    variant: str
    recipe: Recipe
    sick: Callable[[Patient], None] = lambda patient: None

    @property
    def key(self) -> str:
        """Names the cell in the results."""
        return f"{self.expected} | {self.variant} | {self.recipe.body}"


def _seen_through(name: str) -> Callable[[Patient], None]:
    def sick(patient: Patient) -> None:
        patient.test, patient.train = (one.through(find_preprocessing(name)) for one in (patient.test, patient.train))

    return sick


def _missed(share: float) -> Callable[[Patient], None]:
    """The statistics of some layers stay those of a fresh model: the checkpoint had other names for them."""

    def sick(patient: Patient) -> None:
        layers = bn_layers(patient.model)
        for index, layer in enumerate(layers):
            if index < share * len(layers):
                layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
                layer.moving_variance.assign(np.ones(layer.moving_variance.shape))
        patient.facts, patient.source = Facts(), None

    return sick


def _test_images(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Patient], None]:
    def sick(patient: Patient) -> None:
        split = patient.test.split
        changed = np.clip(change(split.images.astype(np.float32)), 0, 255).astype(np.uint8)
        patient.test = replace(patient.test, split=Split(changed, split.labels))

    return sick


def _noise(images: np.ndarray) -> np.ndarray:
    return images + np.random.default_rng(0).normal(0, 50, images.shape)


def _blurred(images: np.ndarray) -> np.ndarray:
    for axis in (1, 2):
        images = sum(np.roll(images, shift, axis) for shift in (-2, -1, 0, 1, 2)) / 5
    return images


def _renumbered(numbering: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[Patient], None]:
    def sick(patient: Patient) -> None:
        classes = patient.model.output_shape[-1]
        for name in ("test", "train"):
            images = getattr(patient, name)
            labels = numbering(images.split.labels, classes).astype(np.int64)
            setattr(patient, name, replace(images, split=Split(images.split.images, labels)))

    return sick


def _reordered(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.random.default_rng(5).permutation(classes)[labels]


def _swapped(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.where(labels < 4, labels ^ 1, labels)


def _unrecorded(patient: Patient) -> None:
    patient.facts = Facts()


def _poisoned(patient: Patient) -> None:
    poison(patient.model, patient)


THREE = ("mobilenet", "resnet_v1", "densenet")


def _in(bodies: tuple[str, ...], expected: str, variant: str, sick: Any = None, **recipe: Any) -> list[Cell]:
    more = {} if sick is None else {"sick": sick}
    return [Cell(expected, variant, Recipe(body=body, **recipe), **more) for body in bodies]


def _sick() -> list[Cell]:
    cells = []
    cells += _in(THREE, "updates-never-ran", "from scratch, no UPDATE_OPS", start="scratch", updates=False, steps=300)
    cells += _in(THREE, "updates-never-ran-since-source", "no UPDATE_OPS", updates=False, learning_rate=4e-3)
    # MobileNet learns nothing from scratch without normalisation.
    cells += _in(
        ("resnet_v1", "densenet", "resnet_v2"), "trained-in-inference-mode",
        "from scratch, model(x) without training=True",
        start="scratch", statistics="moving", updates=False, steps=600, learning_rate=1e-3,
    )  # fmt: skip
    cells += _in(
        ("mobilenet", "resnet_v1"), "trained-in-inference-mode", "fine-tuned, model(x) without training=True",
        sick=_unrecorded, statistics="moving", updates=False,
    )  # fmt: skip
    cells += _in(THREE, "statistics-lag", "decay 0.9997, 300 updates", decay=0.9997, learning_rate=4e-3)
    cells += _in(THREE, "statistics-lag", "from scratch, decay 0.999", start="scratch", decay=0.999)
    fast: dict[str, Any] = {"decay": 0.99, "schedule": "constant", "learning_rate": 1e-2}
    cells += _in(
        ("resnet_v1", "densenet"), "statistics-lag", "weights outrun the window", start="scratch", steps=400, **fast
    )
    cells += _in(("mobilenet",), "statistics-lag", "weights outrun the window", steps=500, **fast)
    cells += _in(
        ("mobilenet",), "statistics-noisy", "decay 0.1, batch 8", decay=0.1, batch=8, steps=500, learning_rate=1e-3
    )
    cells += _in(
        ("mobilenet",), "statistics-noisy", "decay 0.5, batch 4", decay=0.5, batch=4, steps=800, learning_rate=7e-4
    )
    # The maps of the small networks are large: it takes smaller batches to make noise.
    small = ("resnet_v1", "densenet")
    cells += _in(small, "statistics-noisy", "decay 0.01, batch 2", decay=0.01, batch=2, steps=1500, learning_rate=7e-4)
    cells += _in(small, "statistics-noisy", "decay 0.1, batch 2", decay=0.1, batch=2, steps=1500, learning_rate=7e-4)
    cells += _in(THREE, "partially-restored", "first half missed", sick=_missed(0.5))
    cells += _in(THREE, "partially-restored", "first tenth missed", sick=_missed(0.1))
    cells += _in(
        THREE, "frozen-statistics-trained-weights", "UPDATE_OPS of the upper half only", learning_rate=4e-3,
        fixed=lambda index, layers: index < layers / 2,
    )  # fmt: skip
    cells += _in(
        THREE, "averaged-weights-raw-statistics", "average over 100 steps", average=0.99, schedule="constant",
        learning_rate=5e-3, steps=400,
    )  # fmt: skip
    for fed in ("raw", "unit", "torch", "caffe"):
        bodies = tuple(body for body in THREE if not (body == "densenet" and fed == "torch"))
        cells += _in(bodies, "wrong-preprocessing", f"diagnosed as {fed}", sick=_seen_through(fed))
    cells += _in(("mobilenet", "resnet_v1"), "wrong-preprocessing", "normalised twice in training",
                 preprocess="inception twice", sick=_seen_through("inception"))  # fmt: skip
    for body, own in (("mobilenet", "inception"), ("densenet", "torch")):
        cells += _in((body,), "wrong-preprocessing", "read as BGR", sick=_seen_through(f"{own}, colours swapped"))
    for name, change in (
        ("dark", lambda images: images * 0.25), ("noise", _noise), ("blurred", _blurred),
        ("negative", lambda images: 255 - images),
    ):  # fmt: skip
        cells += _in(THREE, "different-data", f"test images {name}", sick=_test_images(change))
    cells += _in(THREE, "batch-composition", "a device a class", by_class=True, batch=80, steps=400)
    cells += _in(THREE, "not-finite", "a corrupt batch under loss scaling", sick=_poisoned)
    cells += _in(THREE, "not-batchnorm: overfitting", "300 images", images=300, start="scratch")
    cells += _in(THREE, "not-batchnorm: labels", "offset of one", sick=_renumbered(lambda labels, n: (labels + 1) % n))
    cells += _in(THREE, "not-batchnorm: labels", "classes in another order", sick=_renumbered(_reordered))
    cells += _in(THREE, "not-batchnorm: labels", "two pairs swapped", sick=_renumbered(_swapped))
    cells += _in(
        THREE, "not-batchnorm: undertrained", "20 steps", start="scratch", steps=20, learning_rate=1e-4, decay=0.5
    )
    return cells


def _healthy() -> list[Cell]:
    many = tuple(body for body in BODIES if body != "tiny")
    cells = []
    cells += _in(many, "healthy", "fine-tuned")
    cells += _in(many, "healthy", "decay 0.97", decay=0.97, steps=500, learning_rate=1e-3)
    cells += _in(many, "healthy", "BN frozen on purpose", statistics="moving", updates=False, affine=False)
    cells += _in(THREE, "healthy", "affine policy", statistics="moving", updates=False, steps=300)
    cells += _in(THREE, "healthy", "stats policy", affine=False, steps=300)
    cells += _in(THREE, "healthy", "head only", statistics="moving", updates=False, affine=False, frozen=1.0, steps=200)
    cells += _in(THREE, "healthy", "from scratch", start="scratch", steps=500, decay=0.97)
    cells += _in(("mobilenet", "resnet_v1"), "healthy", "flowers", data="flowers", size=64, steps=200)
    cells += _in(("mobilenet",), "healthy", "batch 16", batch=16, steps=1000, decay=0.97, learning_rate=1e-3)
    cells += _in(("mobilenet", "densenet"), "healthy", "augmented", augment=True, steps=300)
    cells += _in(("mobilenet",), "healthy", "sgd, lower half frozen", optimizer="sgd", learning_rate=0.02,
                 frozen=0.5)  # fmt: skip
    cells += _in(("mobilenet",), "healthy", "96 px", size=96, steps=200)
    return cells


def _cut_down() -> list[Cell]:
    """For the tests: two trainings, seconds each."""
    trained: dict[str, Any] = {"start": "scratch", "steps": 150, "learning_rate": 1e-2}
    return [
        *_in(("tiny",), "healthy", "from scratch", **trained),
        *_in(("tiny",), "wrong-preprocessing", "diagnosed as raw", sick=_seen_through("raw"), **trained),
        *_in(("tiny",), "partially-restored", "first half missed", sick=_missed(0.5), **trained),
        *_in(("tiny",), "not-batchnorm: labels", "classes in another order", sick=_renumbered(_reordered), **trained),
        *_in(("tiny",), "not-finite", "a corrupt batch under loss scaling", sick=_poisoned, **trained),
        *_in(("tiny",), "different-data", "test images dark", sick=_test_images(lambda images: images / 4), **trained),
        *_in(("tiny",), "statistics-lag", "decay 0.9997", **{**trained, "decay": 0.9997}),
    ]


CELLS = [*_sick(), *_healthy(), *_cut_down()]


@cache
def _first(recipe: Recipe) -> int:
    return next(index for index, cell in enumerate(CELLS) if cell.recipe == recipe)


def in_order() -> list[Cell]:
    """The cells, those of one recipe together: its patient is trained once."""
    return sorted(CELLS, key=lambda cell: (list(BODIES).index(cell.recipe.body), _first(cell.recipe)))


@lru_cache(maxsize=1)
def _trained(recipe: Recipe) -> tuple[Patient, Snapshot]:
    patient = train(recipe)
    return patient, KerasSubject(patient.model).snapshot()


def bring(cell: Cell) -> Patient:
    """Train the cell's patient, and let it fall ill."""
    patient, statistics = _trained(cell.recipe)
    KerasSubject(patient.model).restore(statistics)
    patient = copy(patient)
    cell.sick(patient)
    return patient
