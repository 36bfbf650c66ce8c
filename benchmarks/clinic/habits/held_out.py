"""Held-out recipes: networks, images, settings and mistakes that had no part in the rules.

They share no network, no class of images, no seed and hardly a number with `keras_habits` and `tf1_habits`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.clinic.habits import keras_habits, tf1_habits
from benchmarks.clinic.habits.habit import HEALTHY, Bench, Brought, Habit
from benchmarks.clinic.habits.images import WORLDS, Images, World
from benchmarks.clinic.habits.keras_habits import (
    LABELS,
    LAG,
    NEVER,
    PIXELS,
    SINCE,
    After,
    Recipe,
    bns_of,
    freeze_all,
    freeze_bn,
    frozen_by_the_batch,
    inception,
    other_pixels,
    own_loop,
    raw,
    sorted_test,
    test_images,
    unit,
    weights_only,
)
from benchmarks.clinic.habits.tf1_habits import Program
from finetune.data.preprocessing import find_preprocessing

NOISY, INFERENCE, PART = ("statistics-noisy",), ("trained-in-inference-mode",), ("partially-restored",)
FROZEN_BASE, DATA = ("frozen-base-normalised-by-batch",), ("different-data",)
EMA, FROZEN, ORDER = (
    ("averaged-weights-raw-statistics",),
    ("frozen-statistics-trained-weights",),
    ("batch-composition",),
)


def as_named(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """A preprocessing of the product as a function of pixels."""
    return lambda x: np.asarray(find_preprocessing(name).apply(x), np.float32)


# Preprocessings of other programs.


def centred(x: np.ndarray) -> np.ndarray:
    return unit(x) - 0.5


def minus_128(x: np.ndarray) -> np.ndarray:
    return raw(x) - 128


def of_mnist(x: np.ndarray) -> np.ndarray:
    """The mean and deviation of MNIST's pixels, as PyTorch's example has them."""
    return (unit(x) - 0.1307) / 0.3081


def black_on_white(x: np.ndarray) -> np.ndarray:
    return 1 - unit(x)


def unit_then_inception(x: np.ndarray) -> np.ndarray:
    return inception(unit(x))


def own_mean(x: np.ndarray) -> np.ndarray:
    """Minus the mean pixel of the training images of the world `even`."""
    return unit(x) - unit(WORLDS["even"].task().train.x).mean((0, 1, 2))


# Mistakes after the training.


def labels_from_two(brought: Brought, bench: Bench) -> Brought:
    return _renumbered(brought, bench, np.roll(np.arange(bench.images.classes), -2))


def labels_reversed(brought: Brought, bench: Bench) -> Brought:
    return _renumbered(brought, bench, np.arange(bench.images.classes)[::-1])


def three_exchanged(brought: Brought, bench: Bench) -> Brought:
    """Three classes in another order, the others as they were."""
    order = np.arange(bench.images.classes)
    order[:3] = 2, 0, 1
    return _renumbered(brought, bench, order)


def _renumbered(brought: Brought, bench: Bench, order: np.ndarray) -> Brought:
    images = bench.images
    train, pool = (Images(one.x, order[one.y]) for one in (images.train, images.pool))
    return replace(brought, train=train, pool=pool, comparable=False)


def hazy(x: np.ndarray) -> np.ndarray:
    return 150 + 0.3 * x


def grainy(x: np.ndarray) -> np.ndarray:
    return x + np.random.default_rng(0).normal(0, 70, x.shape)


def transposed(x: np.ndarray) -> np.ndarray:
    """Height and width exchanged, as by a reader that takes columns for rows."""
    return x.transpose(0, 2, 1, 3)


def last_third_missed(model: Any, recipe: Recipe, bench: Bench) -> None:
    layers = bns_of(model.get_layer("base"))
    _at_start(layers[-max(len(layers) // 3, 1) :])


def every_other_missed(model: Any, recipe: Recipe, bench: Bench) -> None:
    _at_start(bns_of(model.get_layer("base"))[::2])


def _at_start(layers: list[Any]) -> None:
    for layer in layers:
        layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
        layer.moving_variance.assign(np.ones(layer.moving_variance.shape))


def nan_in_one(model: Any, recipe: Recipe, bench: Bench) -> None:
    """One channel of the last layer's moving variance is NaN."""
    layer = bns_of(model.get_layer("base"))[-1]
    variance = np.array(layer.moving_variance)
    variance[0] = np.nan
    layer.moving_variance.assign(variance)


def freeze_lower_third(base: Any) -> None:
    for layer in base.layers[: len(base.layers) // 3]:
        layer.trainable = False


def freeze_upper_bn(base: Any) -> None:
    layers = bns_of(base)
    for layer in layers[len(layers) // 2 :]:
        layer.trainable = False


def class_by_class(rng: np.random.Generator, y: np.ndarray, batch: int) -> np.ndarray:
    """Batches of one class each, in a random order: a reader that goes from folder to folder."""
    classes = int(y.max()) + 1
    chosen = rng.integers(0, classes, len(y) // batch)
    return np.concatenate([rng.choice(np.flatnonzero(y == one), batch) for one in chosen])


_SPOILT = (
    After("only trainable_weights saved", NEVER, spoil=weights_only),
    After("last third of the names missed", PART, spoil=last_third_missed),
    After("every other name missed", PART, spoil=every_other_missed),
    After("a variance that is NaN", ("not-finite",), spoil=nan_in_one),
)
_CARRIED = (
    After("labels from 2", LABELS, change=labels_from_two),
    After("classes in reverse", LABELS, change=labels_reversed),
    After("test images of a hazy camera", DATA, change=partial(test_images, hazy)),
    After("test images with grain", DATA, change=partial(test_images, grainy)),
    After("test images sorted by class", HEALTHY, change=sorted_test),
    After("three classes exchanged", LABELS, change=three_exchanged),
    After("test images with height and width exchanged", DATA, change=partial(test_images, transposed)),
)
_REPLICAS, _BATCHES = partial(own_loop, training=True, replicas=4), partial(own_loop, training=True)
KERAS: tuple[tuple[str, tuple[str, ...], str, str, Recipe], ...] = (
    # Name, right causes, world, network, recipe. The dialect alternates.
    ("whole, momentum 0.85", HEALTHY, "even", "preact", Recipe(decay=0.85, batch=48, after=(*_SPOILT, *_CARRIED[:5]))),
    ("whole, digits", HEALTHY, "digits", "xception", Recipe(decay=0.93, batch=32, after=(*_SPOILT[:2], *_CARRIED[1:]))),
    ("fine-tuned, momentum 0.95", HEALTHY, "even", "bn-first", Recipe(
        start="source", decay=0.95, rate=2e-3, after=(*_SPOILT[1:], *_CARRIED[:3]))),
    ("fine-tuned at night", HEALTHY, "night", "xception", Recipe(start="source", decay=0.9, rate=2e-3)),
    ("SGD", HEALTHY, "digits", "relu-bn", Recipe(optimizer="SGD", rate=0.1, after=_CARRIED[2:4])),
    ("RMSprop, x/255", HEALTHY, "even", "relu-bn", Recipe(
        optimizer="RMSprop", rate=2e-3, fed=unit, named="unit", decay=0.88,
        after=(After("x/255 not applied", PIXELS, named="raw"),
               After("x/255 taken for torch", PIXELS, named="torch")))),
    ("torch pixels", HEALTHY, "even", "mixer", Recipe(
        fed=as_named("torch"), named="torch",
        after=(After("torch taken for inception", PIXELS, named="inception"),
               After("torch taken for caffe", PIXELS, named="caffe")))),
    ("own loop, training=True", HEALTHY, "digits", "mixer", Recipe(loop=_BATCHES, batch=40, decay=0.9)),
    ("head on base(x, training=False)", HEALTHY, "even", "preact", Recipe(
        start="source", base_training=False, freeze=freeze_all, rate=1e-2, steps=200)),
    ("base.trainable = False, foreign base", HEALTHY, "digits", "preact", Recipe(
        start="source", freeze=freeze_all, rate=2e-2, steps=200)),
    ("base.trainable = False at night", HEALTHY, "night", "bn-first", Recipe(
        start="source", freeze=freeze_all, rate=2e-2, steps=200)),
    ("BatchNorm frozen, all else trained", HEALTHY, "digits", "bn-first", Recipe(start="source", freeze=freeze_bn)),
    ("lower third frozen", HEALTHY, "even", "xception", Recipe(start="source", freeze=freeze_lower_third, rate=2e-3)),
    ("200 images", HEALTHY, "even", "preact", Recipe(images=200, steps=120, batch=32)),
    ("12 steps", HEALTHY, "even", "mixer", Recipe(steps=12, rate=5e-4, decay=0.4, batch=50, images=600)),
    ("replicas of 16 images", HEALTHY, "even", "bn-first", Recipe(loop=_REPLICAS, batch=64, decay=0.9)),
    # Statistics to blame.
    ("momentum 0.998, 120 steps", LAG, "even", "xception", Recipe(decay=0.998, steps=120)),
    ("momentum 0.9995, digits", LAG, "digits", "relu-bn", Recipe(decay=0.9995, steps=120)),
    ("fine-tuned with momentum 0.999", LAG, "even", "preact", Recipe(start="source", decay=0.999, rate=6e-3)),
    ("foreign base fine-tuned with momentum 0.9999", LAG, "digits", "mixer", Recipe(
        start="source", decay=0.9999, rate=6e-3)),
    ("fine-tuned at night with momentum 0.995", LAG, "night", "relu-bn", Recipe(
        start="source", decay=0.995, steps=120, rate=4e-3)),
    ("constant rate, momentum 0.995", LAG, "even", "bn-first", Recipe(
        decay=0.995, constant=True, rate=2e-2, steps=400)),
    ("momentum 0.05, batch 6", NOISY, "even", "preact", Recipe(decay=0.05, batch=6, steps=300, rate=1e-3)),
    ("momentum 0.3, batch 3", NOISY, "even", "xception", Recipe(decay=0.3, batch=3, steps=400, rate=1e-3)),
    ("replicas of 3 images", NOISY, "digits", "xception", Recipe(
        loop=_REPLICAS, batch=12, steps=250, rate=2e-3, decay=0.9)),
    ("frozen foreign base, by the batch", FROZEN_BASE, "digits", "relu-bn", Recipe(
        start="source", loop=frozen_by_the_batch, rate=5e-3, steps=200)),
    ("frozen foreign base, by the batch, small batches", FROZEN_BASE, "digits", "xception", Recipe(
        start="source", loop=frozen_by_the_batch, rate=5e-3, steps=250, batch=24)),
    ("frozen base at night, by the batch", FROZEN_BASE, "night", "preact", Recipe(
        start="source", loop=frozen_by_the_batch, rate=5e-3, steps=200)),
    ("frozen base, other pixels, by the batch", FROZEN_BASE, "even", "mixer", Recipe(
        start="source", loop=frozen_by_the_batch, rate=5e-3, steps=200, fed=as_named("caffe"), named="caffe")),
    ("use_ema, 0.98", EMA, "even", "preact", Recipe(ema=0.98, constant=True, rate=1e-2)),
    ("use_ema, 0.995, fine-tuned", EMA, "digits", "bn-first", Recipe(
        start="source", ema=0.995, constant=True, rate=1e-2)),
    ("upper BatchNorm frozen, weights trained", FROZEN, "digits", "preact", Recipe(
        start="source", freeze=freeze_upper_bn, rate=6e-3)),
    # Others to blame.
    ("loop without training=True", INFERENCE, "even", "relu-bn", Recipe(loop=own_loop, rate=2e-3, steps=200)),
    ("loop without training=True, digits", INFERENCE, "digits", "bn-first", Recipe(
        loop=own_loop, rate=2e-3, steps=150)),
    ("trained with torch, called inception", PIXELS, "even", "xception", Recipe(
        fed=as_named("torch"), change=other_pixels)),
    ("trained with x/255 - 0.5, called x/255", PIXELS, "digits", "preact", Recipe(
        fed=centred, named="unit", change=other_pixels)),
    ("trained with x - 128, called raw", PIXELS, "even", "preact", Recipe(
        fed=minus_128, named="raw", change=other_pixels)),
    ("MNIST's mean and deviation, called x/255", PIXELS, "digits", "mixer", Recipe(
        fed=of_mnist, named="unit", change=other_pixels)),
    ("trained black on white", PIXELS, "digits", "xception", Recipe(
        fed=black_on_white, named="unit", change=other_pixels)),
    ("per image, called x/255", PIXELS, "even", "xception", Recipe(
        fed=as_named("per-image"), named="unit", change=other_pixels)),
    ("x/255 then [-1, 1]", PIXELS, "even", "preact", Recipe(fed=unit_then_inception, change=other_pixels)),
    ("caffe, called inception", PIXELS, "even", "bn-first", Recipe(fed=as_named("caffe"), change=other_pixels)),
    ("BGR at night", PIXELS, "night", "preact", Recipe(fed=lambda x: unit(x[..., ::-1]), named="unit",
                                                      change=other_pixels)),
    ("mean pixel subtracted", PIXELS, "even", "mixer", Recipe(fed=own_mean, named="unit", change=other_pixels)),
    ("a digit a replica", ORDER, "digits", "xception", Recipe(
        loop=partial(own_loop, training=True, order=keras_habits.a_class_a_replica, replicas=10), batch=160,
        steps=120, change=sorted_test)),
    ("folder by folder", ORDER, "even", "bn-first", Recipe(
        loop=partial(own_loop, training=True, order=class_by_class), batch=32, steps=200, change=sorted_test)),
)  # fmt: skip
_AFTER = tuple(tf1_habits.After(one.name, one.right, change=one.change) for one in _CARRIED)
_SAVERS = (
    tf1_habits.After("Saver of the trainable variables", ("statistics-not-saved", "updates-never-ran"), "trainable"),
    tf1_habits.After("a Saver that misses the last third", PART, "lower two thirds"),
)
TF1: tuple[tuple[str, tuple[str, ...], str, str, str, Program], ...] = (
    # Name, right causes, dialect, world, network, program.
    ("updates before the step", HEALTHY, "tf_slim", "even", "preact", Program(
        decay=0.94, batch=40, after=(*_AFTER[:5], *_SAVERS))),
    ("updates before the step, digits", HEALTHY, "tf.layers", "digits", "relu-bn", Program(
        decay=0.9, batch=32, after=(*_AFTER[5:], *_SAVERS))),
    ("updates before the step, own moments", HEALTHY, "by hand", "digits", "mixer", Program(
        decay=0.95, after=_AFTER[1:3])),
    ("fine-tuned, foreign base", HEALTHY, "tf_slim", "digits", "xception", Program(start="source", rate=2e-3)),
    ("250 images", HEALTHY, "tf.layers", "even", "xception", Program(images=250, steps=120, batch=32)),
    ("minimize alone", ("updates-never-ran",), "tf.layers", "even", "bn-first", Program(wiring="minimize")),
    ("minimize alone, digits", ("updates-never-ran",), "by hand", "digits", "xception", Program(wiring="minimize")),
    ("minimize alone, fine-tuned", (SINCE,), "tf_slim", "even", "relu-bn", Program(
        start="source", wiring="minimize", rate=6e-3)),
    ("minimize alone, foreign base", (SINCE,), "tf.layers", "digits", "preact", Program(
        start="source", wiring="minimize", rate=4e-3)),
    ("create_train_op beside minimize", ("updates-never-ran",), "tf_slim", "digits", "bn-first", Program(
        wiring="beside")),
    ("decay 0.9995", LAG, "tf_slim", "digits", "mixer", Program(decay=0.9995, steps=120)),
    ("decay 0.998, own moments", LAG, "by hand", "even", "relu-bn", Program(decay=0.998, steps=120)),
    ("fine-tuned, decay 0.997", LAG, "tf.layers", "even", "xception", Program(
        start="source", decay=0.997, steps=120, rate=6e-3)),
    ("decay 0.1, batch 5", NOISY, "tf.layers", "even", "preact", Program(decay=0.1, batch=5, steps=300, rate=1e-3)),
    ("UPDATE_OPS of the lower third", FROZEN, "tf_slim", "digits", "preact", Program(
        start="source", wiring="lower third", rate=6e-3)),
    ("phase fed as False", INFERENCE, "tf_slim", "even", "xception", Program(phase=False, rate=2e-3, steps=200)),
    ("phase fed as False, own moments", INFERENCE, "by hand", "digits", "relu-bn", Program(
        phase=False, rate=2e-3, steps=150)),
    ("average of the weights, 0.98", EMA, "tf.layers", "even", "bn-first", Program(
        average=0.98, constant=True, rate=1e-2)),
    ("trained on x/255, fed as [-1, 1]", PIXELS, "tf_slim", "even", "bn-first", Program(fed=unit, change=other_pixels)),
    ("trained on x - 128, fed raw", PIXELS, "tf.layers", "digits", "xception", Program(
        fed=minus_128, named="raw", change=other_pixels)),
)  # fmt: skip


_EARLY = (
    "frozen foreign base, by the batch",
    "frozen base at night, by the batch",
    "base.trainable = False, foreign base",
    "whole, momentum 0.85",
    "whole, digits",
    "updates before the step",
)
"""Made first: what the other recipes lack, frozen bases with statistics of other images, and trainings that leave many
models."""


def plan() -> list[tuple[Habit, str, World]]:
    """(habit, network, world), in an order in which a run that is cut short has met every kind."""
    found: list[tuple[Habit, str, World]] = []
    for number, (name, right, world, network, recipe) in enumerate(KERAS):
        # `use_ema` is Keras 3's. A third of the files are SavedModels.
        dialect = "Keras 3" if recipe.ema or number % 2 == 0 else "Keras 2"
        form = "" if number % 3 or recipe.start == "source" else "export"
        made = partial(keras_habits.make, name, right, dialect, replace(recipe, form=form))
        found.append((Habit(name, dialect, made), network, WORLDS[world]))
    for name, right, dialect, world, network, program in TF1:
        made = partial(tf1_habits.make, name, right, dialect, program)
        found.append((Habit(name, dialect, made), network, WORLDS[world]))
    order = np.random.default_rng(7).permutation(len(found))
    return sorted((found[one] for one in order), key=lambda one: one[0].name not in _EARLY)
