"""Recipes of Keras 2 (`tf_keras`) and Keras 3, as their users write them."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.clinic.habits.dialects import KerasDialect
from benchmarks.clinic.habits.habit import HEALTHY, Bench, Brought, Habit
from benchmarks.clinic.habits.images import FIRST, Images, World
from benchmarks.clinic.habits.networks import NETWORKS, UNSEEN


def library(name: str) -> Any:
    """`keras` or `tf_keras`."""
    if name == "Keras 3":
        import keras

        return keras
    import tf_keras

    return tf_keras


def inception(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) / 127.5 - 1


def raw(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) / 255


@dataclass(frozen=True)
class After:
    """What somebody does after the training. spoil: to the model; change: to the images; named: other pixels."""

    name: str
    right: tuple[str, ...]
    spoil: Callable[[Any, "Recipe", Bench], Any] | None = None
    change: Callable[[Brought, Bench], Brought] | None = None
    named: str | None = None


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, and what becomes of it.

    start: `scratch` or `source`. base_training: the argument `training` of the base, None for Keras's own choice.
    freeze: marks layers as frozen before training. loop: trains in place of `fit`. optimizer: of `fit`. fed: the pixels
    of the training; named: what its owner calls them in the diagnosis. form: of the file. change: what is done to the
    images that are brought. after: other models that the same training leaves.
    """

    start: str = "scratch"
    decay: float = 0.9
    steps: int = 150
    batch: int = 64
    rate: float = 4e-3
    constant: bool = False
    images: int | None = None
    base_training: bool | None = None
    freeze: Callable[[Any], None] | None = None
    loop: Callable[..., None] | None = None
    fed: Callable[[np.ndarray], np.ndarray] = inception
    named: str = "inception"
    form: str = ""
    optimizer: str = "Adam"
    ema: float | None = None
    change: Callable[[Brought, Bench], Brought] | None = None
    after: tuple["After", ...] = ()


def network(keras: Any, name: str, decay: float, shape: tuple[int, ...]) -> Any:
    """The base alone: images to features."""
    image = keras.Input(shape)

    def bn(layer: str) -> Any:
        return keras.layers.BatchNormalization(momentum=decay, name=layer)

    return keras.Model(image, {**NETWORKS, **UNSEEN}[name](KerasDialect(keras, bn), image), name="base")


def classifier(keras: Any, base: Any, classes: int, training: bool | None = None) -> Any:
    image = keras.Input(base.input_shape[1:])
    features = base(image) if training is None else base(image, training=training)
    return keras.Model(image, keras.layers.Dense(classes, name="head")(features))


def weights_of(base: Any) -> dict[str, np.ndarray]:
    """Every weight by the names of `dialects.py`."""
    found = {}
    for layer in base.layers:
        kinds = ("gamma", "beta", "moving_mean", "moving_variance") if layer.name.startswith("bn") else ("kernel",)
        for kind, array in zip(kinds, layer.get_weights(), strict=False):
            found[f"{layer.name}/{kind}"] = np.array(array)
    return found


def set_weights(base: Any, weights: Mapping[str, np.ndarray]) -> None:
    for layer in base.layers:
        own = [array for name, array in weights.items() if name.rpartition("/")[0] == layer.name]
        if own:
            layer.set_weights(own)


def fit(keras: Any, model: Any, recipe: Recipe, x: np.ndarray, y: np.ndarray) -> None:
    """`model.compile` and `model.fit`, as in every tutorial."""
    each = max(len(y) // recipe.batch, 1)
    epochs = max(round(recipe.steps / each), 1)
    rate: Any = recipe.rate
    if not recipe.constant:
        rate = keras.optimizers.schedules.CosineDecay(recipe.rate, epochs * -(-len(y) // recipe.batch))
    more = {"use_ema": True, "ema_momentum": recipe.ema} if recipe.ema else {}
    model.compile(
        getattr(keras.optimizers, recipe.optimizer)(rate, **more),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, recipe.batch, epochs, verbose=0)
    if recipe.ema:
        model.optimizer.finalize_variable_values(model.trainable_variables)


def own_loop(
    keras: Any, model: Any, recipe: Recipe, x: np.ndarray, y: np.ndarray, *, training: bool | None = None,
    order: Callable[..., np.ndarray] | None = None, replicas: int = 1,
) -> None:  # fmt: skip
    """A training loop of one's own. `training`: what the model is called with. `order`: of the images of an epoch."""
    rate: Any = keras.optimizers.schedules.CosineDecay(recipe.rate, recipe.steps)
    optimizer, rng = keras.optimizers.Adam(rate), np.random.default_rng(0)

    @tf.function
    def step(images: Any, labels: Any) -> None:
        with tf.GradientTape() as tape:
            parts = zip(tf.split(images, replicas), tf.split(labels, replicas), strict=True)
            losses = [
                tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(
                        some, model(part) if training is None else model(part, training=training)
                    )
                )
                for part, some in parts
            ]
            loss = tf.add_n(losses) / replicas
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    done = 0
    while done < recipe.steps:
        indices = order(rng, y, recipe.batch) if order else rng.permutation(len(y))
        for start in range(0, len(indices) - recipe.batch + 1, recipe.batch):
            some = indices[start : start + recipe.batch]
            step(tf.constant(x[some]), tf.constant(y[some]))
            done += 1
            if done == recipe.steps:
                break


def frozen_by_the_batch(keras: Any, model: Any, recipe: Recipe, x: np.ndarray, y: np.ndarray) -> None:
    """Keras before 2.1.3: a base with `trainable = False` normalises by the batch in `fit`, and updates nothing."""
    base, head = model.get_layer("base"), model.get_layer("head")
    kept = base.get_weights()
    optimizer, rng = keras.optimizers.Adam(recipe.rate), np.random.default_rng(0)

    @tf.function
    def step(images: Any, labels: Any) -> None:
        features = tf.stop_gradient(base(images, training=True))
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, head(features))
        gradients = tape.gradient(losses, head.trainable_variables)
        optimizer.apply_gradients(zip(gradients, head.trainable_variables, strict=True))

    for _ in range(recipe.steps):
        some = rng.choice(len(y), recipe.batch, replace=False)
        step(tf.constant(x[some]), tf.constant(y[some]))
    base.set_weights(kept)
    base.trainable = False


def a_class_a_replica(rng: np.random.Generator, y: np.ndarray, batch: int) -> np.ndarray:
    """A batch is cut into as many parts as there are classes, each of one class."""
    classes = int(y.max()) + 1
    own = batch // classes
    groups = [np.flatnonzero(y == label) for label in range(classes)]
    return np.concatenate([rng.choice(group, own) for _ in range(len(y) // batch) for group in groups])


def make(name: str, right: tuple[str, ...], dialect: str, recipe: Recipe, bench: Bench) -> Iterator[Brought]:
    """Train as the recipe says, save, and say how the owner asks for a diagnosis; then what else became of it."""
    keras = library(dialect)
    keras.backend.clear_session()
    keras.utils.set_random_seed(bench.seed)
    base = network(keras, bench.network, recipe.decay, bench.images.shape)
    words: list[str] = []
    if recipe.start == "source":
        set_weights(base, bench.weights)
        source = bench.folder / "source.h5"
        base.save(str(source))
        words += ["--source-checkpoint", str(source)]
    model = classifier(keras, base, bench.images.classes, recipe.base_training)
    if recipe.freeze:
        recipe.freeze(base)
    images = bench.images.train
    x, y = recipe.fed(images.x), images.y
    x, y = x[: recipe.images], y[: recipe.images]
    (recipe.loop or fit)(keras, model, recipe, x, y)
    form = recipe.form or {"Keras 3": "keras", "Keras 2": "h5"}[dialect]
    cut = None if recipe.images is None else Images(images.x[: recipe.images], y)
    whole = Brought(
        name, right, (saved(keras, model, form, bench, "m"), *words, "--preprocess", recipe.named),
        accuracy(model, recipe, bench), train=cut,
    )  # fmt: skip
    yield recipe.change(whole, bench) if recipe.change else whole
    for number, after in enumerate(recipe.after):
        spoilt, brought = model, replace(whole, name=after.name, right=after.right)
        if after.spoil:
            kept = model.get_weights()
            spoilt = after.spoil(model, recipe, bench) or model
            path = saved(keras, spoilt, form, bench, f"m{number}")
            brought = replace(brought, own=accuracy(spoilt, recipe, bench), words=(path, *whole.words[1:]))
            model.set_weights(kept)
        if after.named:
            brought = replace(brought, words=(*brought.words[:-1], after.named), comparable=False)
        yield after.change(brought, bench) if after.change else brought


def accuracy(model: Any, recipe: Recipe, bench: Bench) -> float:
    """With `training=False` on the 1,000 test images, by Keras itself."""
    tested = bench.images.pool.take(bench.thousand)
    given = model(tf.constant(recipe.fed(tested.x)), training=False).numpy()
    return float(np.mean(np.argmax(given, 1) == tested.y))


def saved(keras: Any, model: Any, form: str, bench: Bench, name: str) -> str:
    """Write the model as `keras` or `h5` file, by `model.save` (`tf`) or by `model.export`."""
    path = str(bench.folder / name) + {"keras": ".keras", "h5": ".h5"}.get(form, "")
    if form == "export":
        if keras.__name__ == "keras":
            model.export(path, verbose=False)
        else:
            model.export(path)
    elif form == "tf":
        model.save(path, save_format="tf")
    else:
        model.save(path)
    return path


# What happens to a trained model, and to what is brought.


def bns_of(base: Any) -> list[Any]:
    """The BatchNorm layers of the base, from the input on."""
    layers = [one for one in base.layers if one.name.startswith("bn")]
    return sorted(layers, key=lambda one: int(one.name[2:]))


def weights_only(model: Any, recipe: Recipe, bench: Bench) -> Any:
    """Keep `trainable_weights` alone, and put them into a model that was built anew."""
    kept = [np.array(one) for one in model.trainable_weights]
    keras = library("Keras 2" if "tf_keras" in type(model).__module__ else "Keras 3")
    base = network(keras, bench.network, recipe.decay, bench.images.shape)
    fresh = classifier(keras, base, bench.images.classes)
    for variable, array in zip(fresh.trainable_weights, kept, strict=True):
        variable.assign(array)
    return fresh


def half_missed(model: Any, recipe: Recipe, bench: Bench) -> None:
    """The file's names of the first half differ: its statistics stay those of a fresh model."""
    layers = bns_of(model.get_layer("base"))
    for layer in layers[: (len(layers) + 1) // 2]:
        layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
        layer.moving_variance.assign(np.ones(layer.moving_variance.shape))


def corrupt_batch(model: Any, recipe: Recipe, bench: Bench) -> None:
    """A corrupt batch whose update loss scaling skips: the weights stay, the statistics do not."""
    x = recipe.fed(bench.images.train.x[:64])
    x[0, 0, 0] = np.inf
    model(tf.constant(x), training=True)


def labels_from_one(brought: Brought, bench: Bench) -> Brought:
    """Class numbers one higher than in training, the last at 0."""

    def renumbered(images: Images) -> Images:
        return Images(images.x, (images.y + 1) % bench.images.classes)

    return replace(brought, train=renumbered(bench.images.train), pool=renumbered(bench.images.pool), comparable=False)


def by_name(brought: Brought, bench: Bench) -> Brought:
    """Classes in the order of their names in one program, as listed in the other."""
    order = np.array([3, 1, 4, 0, 2])

    def renumbered(images: Images) -> Images:
        return Images(images.x, order[images.y])

    return replace(brought, train=renumbered(bench.images.train), pool=renumbered(bench.images.pool), comparable=False)


def test_images(change: Callable[[np.ndarray], np.ndarray], brought: Brought, bench: Bench) -> Brought:
    """Test images of another camera."""
    return replace(brought, pool=bench.images.pool.changed(change), comparable=False)


def other_pixels(brought: Brought, bench: Bench) -> Brought:
    """The owner's own accuracy is of other pixels than those named."""
    return replace(brought, comparable=False)


def sorted_test(brought: Brought, bench: Bench) -> Brought:
    return replace(brought, pool=bench.images.pool.sorted(), comparable=False)


def freeze_all(base: Any) -> None:
    base.trainable = False


def freeze_bn(base: Any) -> None:
    for layer in base.layers:
        layer.trainable = not layer.name.startswith("bn")


def freeze_lower_bn(base: Any) -> None:
    for layer in bns_of(base)[: len(bns_of(base)) // 2]:
        layer.trainable = False


def freeze_lower_half(base: Any) -> None:
    for layer in base.layers[: len(base.layers) // 2]:
        layer.trainable = False


def _mean_image(x: np.ndarray) -> np.ndarray:
    return unit(x) - unit(FIRST.task().train.x).mean(0)


def dark(x: np.ndarray) -> np.ndarray:
    return x * 0.3


def negative(x: np.ndarray) -> np.ndarray:
    return 255 - x


LAG, NEVER, SINCE = ("statistics-lag",), ("updates-never-ran", "statistics-not-saved"), "updates-never-ran-since-source"
PIXELS, LABELS = ("wrong-preprocessing",), ("not-batchnorm: labels",)
_REPLICAS = partial(own_loop, training=True, order=a_class_a_replica, replicas=5)

_SPOILT = (
    After("trainable_weights alone saved", NEVER, spoil=weights_only),
    After("first half of the names missed", ("partially-restored",), spoil=half_missed),
    After("a corrupt batch under loss scaling", ("not-finite",), spoil=corrupt_batch),
)
_CARRIED = (
    After("labels from 1", LABELS, change=labels_from_one),
    After("classes in another order", LABELS, change=by_name),
    After("test images of a dark camera", ("different-data",), change=partial(test_images, dark)),
    After("test images as negatives", ("different-data",), change=partial(test_images, negative)),
    After("test images sorted by class", HEALTHY, change=sorted_test),
)
RECIPES: dict[str, tuple[tuple[str, ...], Recipe]] = {
    # Healthy.
    "fit from scratch": (HEALTHY, Recipe(after=(*_SPOILT, *_CARRIED))),
    "fine-tuned whole": (HEALTHY, Recipe(start="source", after=(*_SPOILT[1:], *_CARRIED))),
    "x/255 on both sides": (
        HEALTHY,
        Recipe(
            fed=unit, named="unit",
            after=(
                After("x/255 forgotten afterwards", PIXELS, named="raw"),
                After("x/255 called [-1, 1]", PIXELS, named="inception"),
            ),
        ),
    ),
    "momentum 0.99, many steps": (HEALTHY, Recipe(start="source", decay=0.99, steps=600, rate=1e-3)),
    "base(x, training=False)": (HEALTHY, Recipe(start="source", base_training=False, rate=1e-3)),
    "base.trainable = False": (HEALTHY, Recipe(start="source", freeze=freeze_all, rate=1e-2)),
    "BatchNorm layers frozen": (HEALTHY, Recipe(start="source", freeze=freeze_bn, rate=1e-3)),
    "lower half frozen": (HEALTHY, Recipe(start="source", freeze=freeze_lower_half)),
    "own loop with training=True": (HEALTHY, Recipe(loop=partial(own_loop, training=True), after=_CARRIED[1:4])),
    "300 images": (HEALTHY, Recipe(images=300, steps=150)),
    "20 steps": (HEALTHY, Recipe(steps=20, rate=1e-4, decay=0.5, images=1280)),
    # Statistics to blame.
    "momentum 0.999, few steps": (LAG, Recipe(decay=0.999)),
    "fine-tuned with momentum 0.9997": (LAG, Recipe(start="source", decay=0.9997, rate=8e-3)),
    "constant rate, weights outrun the window": (LAG, Recipe(decay=0.99, constant=True, rate=2e-2)),
    "momentum 0.1 (PyTorch's), batch 4": (("statistics-noisy",), Recipe(decay=0.1, batch=4, steps=400, rate=1e-3)),
    "batch 2": (("statistics-noisy",), Recipe(decay=0.5, batch=2, steps=500, rate=7e-4)),
    "frozen base normalised by the batch": (
        ("frozen-base-normalised-by-batch",), Recipe(start="source", loop=frozen_by_the_batch, rate=3e-3),
    ),
    "use_ema": (("averaged-weights-raw-statistics",), Recipe(ema=0.99, constant=True, rate=1e-2)),
    "replicas of 2 images": (
        ("statistics-noisy",),
        Recipe(loop=partial(own_loop, training=True, replicas=4), batch=8, steps=300, rate=2e-3, decay=0.99),
    ),
    "lower half's BatchNorm frozen, momentum 0.9997 above": (
        ("frozen-statistics-trained-weights", "statistics-lag"),
        Recipe(start="source", freeze=freeze_lower_bn, decay=0.9997, rate=8e-3),
    ),
    # Others to blame.
    "own loop without training=True": (("trained-in-inference-mode",), Recipe(loop=own_loop, rate=2e-3, steps=250)),
    "normalised twice in training": (PIXELS, Recipe(fed=lambda x: inception(inception(x)), change=other_pixels)),
    "x/255 forgotten in training": (PIXELS, Recipe(fed=raw, named="unit", change=other_pixels)),
    "mean image subtracted": (PIXELS, Recipe(fed=_mean_image, named="unit", change=other_pixels)),
    "trained in BGR": (PIXELS, Recipe(fed=lambda x: inception(x[..., ::-1]), change=other_pixels)),
    "a class a replica": (("batch-composition",), Recipe(loop=_REPLICAS, batch=80, change=sorted_test)),
}  # fmt: skip
"""Name -> (the right causes, the recipe)."""
_SERVED = ("fit from scratch", "momentum 0.999, few steps", "x/255 on both sides")
"""Recipes that are also exported."""


def habits(odd: bool) -> list[Habit]:
    """Every recipe, in Keras 3 and in Keras 2 by turns; `odd`: in the other one. Some of them as SavedModels."""
    found = []
    for number, (name, (right, recipe)) in enumerate(RECIPES.items()):
        dialect = "Keras 3" if name == "use_ema" or (number + odd) % 2 == 0 else "Keras 2"
        found.append(Habit(name, dialect, partial(make, name, right, dialect, recipe)))
    forms = (("Keras 3", "export"), ("Keras 2", "export")) if odd else (("Keras 2", "tf"), ("Keras 3", "export"))
    for number, name in enumerate(_SERVED):
        right, recipe = RECIPES[name]
        dialect, form = forms[number % 2]
        some = replace(recipe, form=form, after=recipe.after[:1] if odd else recipe.after[-1:])
        found.append(Habit(f"{name}, {form}", dialect, partial(make, f"{name}, {form}", right, dialect, some)))
    return found


def pretrain(name: str, world: World) -> dict[str, np.ndarray]:
    """The weights of a network after training on the images that a world pretrains on, in Keras 3."""
    keras, known = library("Keras 3"), world.pretraining()
    keras.utils.set_random_seed(100)
    base = network(keras, name, 0.97, known.shape)
    steps = 900 if world is FIRST else 500
    fit(keras, classifier(keras, base, known.classes), Recipe(steps=steps), inception(known.train.x), known.train.y)
    return weights_of(base)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
