"""Recipes of TF1 programs: `tf.layers`, tf_slim, and BatchNorm written by hand with ExponentialMovingAverage."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.clinic.habits.dialects import STATISTICS, TF1, v1
from benchmarks.clinic.habits.habit import HEALTHY, Bench, Brought, Habit
from benchmarks.clinic.habits.images import Images
from benchmarks.clinic.habits.keras_habits import (
    LABELS,
    LAG,
    PIXELS,
    SINCE,
    by_name,
    dark,
    inception,
    labels_from_one,
    negative,
    other_pixels,
    sorted_test,
    test_images,
    unit,
)
from benchmarks.clinic.habits.networks import NETWORKS, UNSEEN
from finetune.inference.reference import mend, tf1_graph


@dataclass(frozen=True)
class After:
    """What somebody does after the training. saver: what is saved: `all`, `trainable`, `second half` or
    `lower two thirds`."""

    name: str
    right: tuple[str, ...]
    saver: str = "all"
    change: Callable[[Brought, Bench], Brought] | None = None


@dataclass(frozen=True)
class Program:
    """How a program trains.

    wiring: which operations a step runs. phase: the value fed for `is_training`. average: of the weights, restored for
    the diagnosis. after: what else becomes of it.
    """

    start: str = "scratch"
    decay: float = 0.9
    steps: int = 150
    batch: int = 64
    rate: float = 4e-3
    constant: bool = False
    wiring: str = "updates"
    phase: bool = True
    average: float | None = None
    images: int | None = None
    fed: Callable[[np.ndarray], np.ndarray] = inception
    named: str = "inception"
    change: Callable[[Brought, Bench], Brought] | None = None
    after: tuple["After", ...] = ()


def make(name: str, right: tuple[str, ...], dialect: str, program: Program, bench: Bench) -> Iterator[Brought]:
    """Build the graph, train it in a session, save it, and say how the owner asks for a diagnosis; then what else
    became of it."""
    mend()
    with tf1_graph():
        v1.set_random_seed(bench.seed)
        x = v1.placeholder(tf.float32, [None, *bench.images.shape], name="images")
        y = v1.placeholder(tf.int64, [None], name="labels")
        training = v1.placeholder(tf.bool, [], name="is_training")
        layers = TF1[dialect](training, program.decay)
        features, classes = {**NETWORKS, **UNSEEN}[bench.network](layers, x), bench.images.classes
        kernel = v1.get_variable("head/kernel", [features.shape[-1], classes])
        logits = tf.add(tf.matmul(features, kernel), v1.get_variable("head/bias", [classes]), name="logits")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
        step, average = _train_op(loss, program)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            words = _start(session, layers, program, bench)
            images = bench.images.train
            pixels, labels = program.fed(images.x)[: program.images], images.y[: program.images]
            rng = np.random.default_rng(bench.seed)
            order: list[int] = []
            for _ in range(program.steps):
                if len(order) < program.batch:
                    order = list(rng.permutation(len(labels)))
                some, order = order[: program.batch], order[program.batch :]
                session.run(step, {x: pixels[some], y: labels[some], training: program.phase})
            own = _own(session, average, (x, training, logits), program, bench)
            cut = None if program.images is None else Images(images.x[: program.images], labels)
            paths = {saver: _save(session, saver, bench) for saver in ("all", *(one.saver for one in program.after))}
    words += ["--preprocess", program.named, *(["--ema"] if program.average else [])]
    whole = Brought(name, right, ("--meta-graph", f"{paths['all']}.meta", *words), own, train=cut)
    yield program.change(whole, bench) if program.change else whole
    for after in program.after:
        brought = replace(whole, name=after.name, right=after.right)
        if after.saver != "all":
            brought = replace(brought, words=("--meta-graph", f"{paths[after.saver]}.meta", *words), own=None)
        yield after.change(brought, bench) if after.change else brought


def _train_op(loss: Any, program: Program) -> tuple[Any, Any]:
    """The operation of a step, and the average of the weights where the program keeps one."""
    step = v1.train.get_or_create_global_step()
    rate = program.rate if program.constant else v1.train.cosine_decay(program.rate, step, program.steps)
    optimizer = v1.train.AdamOptimizer(rate)
    updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
    if program.wiring == "upper half":
        updates = updates[len(updates) // 2 :]
    if program.wiring == "lower third":
        updates = updates[: 2 * max(len(updates) // 6, 1)]
    if program.wiring in ("create_train_op", "beside"):
        import tf_slim

        made = tf_slim.learning.create_train_op(loss, optimizer)
        if program.wiring == "create_train_op":
            return made, None
    if program.wiring in ("minimize", "beside"):
        return optimizer.minimize(loss, global_step=step), None
    with tf.control_dependencies(updates):
        moved = optimizer.minimize(loss, global_step=step)
    if program.average is None:
        return moved, None
    average = v1.train.ExponentialMovingAverage(program.average)
    with tf.control_dependencies([moved]):
        return average.apply(v1.trainable_variables()), average


def _start(session: Any, layers: Any, program: Program, bench: Bench) -> list[str]:
    """Restore the pretrained weights, and keep them as a checkpoint that the owner names."""
    if program.start == "scratch":
        return []
    named = {one.op.name: one for one in v1.global_variables()}
    for name, array in bench.weights.items():
        name = name if name in named else name.replace("kernel", "depthwise_kernel")
        if name in named:
            named[name].load(array, session)
    path = v1.train.Saver().save(session, str(bench.folder / "source.ckpt"), write_meta_graph=False)
    return ["--source-checkpoint", path]


def _save(session: Any, saver: str, bench: Bench) -> str:
    """The checkpoint with its graph. A partial saver leaves out what the program's author did not think of."""
    variables = v1.global_variables()
    if saver == "trainable":
        variables = [*v1.trainable_variables(), v1.train.get_global_step()]
    elif saver == "second half":
        moving = [one for one in variables if one.op.name.endswith(STATISTICS)]
        for one in moving[: (len(moving) // 2 + 1) // 2 * 2]:
            session.run(one.initializer)
    elif saver == "lower two thirds":
        moving = [one for one in variables if one.op.name.endswith(STATISTICS)]
        for one in moving[-2 * max(len(moving) // 6, 1) :]:
            session.run(one.initializer)
    folder = bench.folder / saver.replace(" ", "-")
    return v1.train.Saver(variables).save(session, str(folder / "model.ckpt"), v1.train.get_global_step())


def _own(session: Any, average: Any, tensors: Any, program: Program, bench: Bench) -> float:
    """Accuracy on the 1,000 test images by the session itself, with the averaged weights where there are any."""
    x, training, logits = tensors
    kept = session.run(v1.trainable_variables())
    if average is not None:
        for variable in v1.trainable_variables():
            variable.load(session.run(average.average(variable)), session)
    tested = bench.images.pool.take(bench.thousand)
    given = session.run(logits, {x: program.fed(tested.x), training: False})
    for variable, array in zip(v1.trainable_variables(), kept, strict=True):
        variable.load(array, session)
    return float(np.mean(np.argmax(given, 1) == tested.y))


NEVER = ("updates-never-ran",)
_SAVERS = (
    After("Saver(tf.trainable_variables())", ("statistics-not-saved", "updates-never-ran"), "trainable"),
    After("a Saver that misses the first half", ("partially-restored",), "second half"),
)
_CARRIED = (
    After("labels from 1", LABELS, change=labels_from_one),
    After("classes in another order", LABELS, change=by_name),
    After("test images of a dark camera", ("different-data",), change=partial(test_images, dark)),
    After("test images as negatives", ("different-data",), change=partial(test_images, negative)),
    After("test images sorted by class", HEALTHY, change=sorted_test),
)
PROGRAMS: dict[str, tuple[tuple[str, ...], Program]] = {
    "updates as control dependencies": (HEALTHY, Program(after=(*_CARRIED, *_SAVERS))),
    "fine-tuned, updates as control dependencies": (HEALTHY, Program(start="source", after=(*_CARRIED, *_SAVERS))),
    "300 images": (HEALTHY, Program(images=300, steps=150)),
    "minimize without UPDATE_OPS": (NEVER, Program(wiring="minimize")),
    "fine-tuned by minimize without UPDATE_OPS": ((SINCE,), Program(start="source", wiring="minimize", rate=8e-3)),
    "decay 0.999, few steps": (LAG, Program(decay=0.999)),
    "fine-tuned with decay 0.9997": (LAG, Program(start="source", decay=0.9997, rate=8e-3)),
    "is_training fed as False": (("trained-in-inference-mode",), Program(phase=False, rate=2e-3, steps=250)),
    "UPDATE_OPS of the upper half": (
        ("frozen-statistics-trained-weights",), Program(start="source", wiring="upper half", rate=8e-3),
    ),
    "averaged weights restored": (
        ("averaged-weights-raw-statistics",), Program(average=0.99, constant=True, rate=1e-2),
    ),
    "x/255 forgotten afterwards": (PIXELS, Program(fed=unit, named="raw", change=other_pixels)),
    "create_train_op": (HEALTHY, Program(wiring="create_train_op", after=_CARRIED[1:4])),
    "minimize beside create_train_op": (NEVER, Program(wiring="beside")),
    "fine-tuned by minimize beside create_train_op": ((SINCE,), Program(start="source", wiring="beside", rate=8e-3)),
}  # fmt: skip
"""Name -> (the right causes, the program)."""
_SLIM_ONLY = ("create_train_op", "minimize beside create_train_op", "fine-tuned by minimize beside create_train_op")


def habits(odd: bool) -> list[Habit]:
    """Every program in every dialect in which it can be written; `odd`: what is common to `tf.layers` and slim once."""
    found = []
    for number, (name, (right, program)) in enumerate(PROGRAMS.items()):
        for dialect in TF1:
            # Averages of moments have the names of the moments, so that nothing can be loaded into them by name.
            fits = dialect == "tf_slim" if name in _SLIM_ONLY else dialect != "by hand" or program.start == "scratch"
            again = odd and number % 2 == (dialect == "tf_slim")
            if fits and not again:
                own = replace(program, after=_CARRIED[:3]) if dialect == "by hand" and program.after else program
                found.append(Habit(name, dialect, partial(make, name, right, dialect, own)))
    return found
