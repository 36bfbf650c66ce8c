"""A model that the caller holds in memory, with data as Keras's `fit` takes them; and a TF1 graph in a live session.

The caller's objects are as before afterwards. A functional model is cloned, so that it is measured as its file would
be. A model that cannot be cloned is measured in place. A session's graph gets no operation: it is written to a folder
with its variables' values, and read from there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.backbone import LegacySubject, Transfer
from finetune.backbone.outputs import as_logits, choose_output
from finetune.batchnorm.flatten import flat, originals
from finetune.batchnorm.live import LiveSubject, normalisations
from finetune.batchnorm.scores import Scores, sum_to_one
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Snapshot, Subject
from finetune.batchnorm.surgery import adopt
from finetune.config import RunConfig
from finetune.data.batches import EvalSet, training_subset
from finetune.data.given import GivenSet, GivenSplit, first_images, folder_set, given_set, given_split
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.targets.foreign_model import graph_facts, keras_facts
from finetune.diagnosis.targets.target import Data, History, Target
from finetune.errors import FinetuneError, WrongUse
from finetune.tf_graphs import GraphSubject, load_variables, open_graph, outside_graphs, write_session


@dataclass(frozen=True)
class Given:
    """What the caller gave. test, train: data as `given_split` takes them, or a folder with a folder for each class.

    images: of the training set, at most; of a test set only where its length is unknown. preprocess: what the data's
    pixels still need, a name or a function; None for data as the model takes them.
    """

    test: Any
    train: Any
    images: int
    preprocess: str | Callable[[Any], Any] | None = None
    batch_size: int | None = None


@dataclass(frozen=True, eq=False)
class GivenData(Data):
    """The given sets in place of a data set that was read."""

    sets: tuple[GivenSet, GivenSet] | None = None

    @property
    def _sets(self) -> tuple[GivenSet, GivenSet]:
        assert self.sets is not None
        return self.sets

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return bool(self._sets[1].split.labels.ndim == 2)

    @property
    def training_images(self) -> int:
        """Images of the training set that were drawn."""
        return len(self._sets[1])

    def test(self) -> EvalSet:
        """As it was given."""
        return self._sets[0]

    def training(self, images: int) -> GivenSet:
        """At most so many, stratified and in random order."""
        train = self._sets[1]
        return replace(train, split=training_subset(train.split, self.config, min(images, len(train))))


class PythonCommands(Commands):
    """Remedies as calls of this package. `target`: the arguments that name the model."""

    @property
    def recalibrate(self) -> str:
        """Measure the statistics again."""
        return f"finetune.recalibrate_bn({self.target}, train=train)"

    def diagnose(self, *options: str, preprocess: str = "", advice: str = "") -> str:
        """Examine again, with `options` and perhaps pixels that are fed in another way."""
        given = dict(zip(options[::2], options[1::2], strict=False))
        words = [f"{name.removeprefix('--').replace('-', '_')}={value}" for name, value in given.items()]
        if preprocess:
            return f"# feed the model pixels as '{preprocess}' prepares them" + (f"; {advice}" if advice else "")
        call = f"finetune.diagnose_bn({', '.join([self.target, 'test=test', 'train=train', *words])})"
        return call + (f"  # {advice}" if advice else "")


def open_keras(model: Any, given: Given, *, output: str | None = None) -> Target:
    """The target of a `keras.Model`, or of one of `tf_keras`. FinetuneError where it is no classifier of the data."""
    if not hasattr(model, "_flatten_layers"):
        raise WrongUse(f"the model is a {type(model).__name__}: expected a keras.Model, a tf_keras.Model, or a path")
    given = replace(given, test=_read(given.test, model), train=_read(given.train, model))
    subject, write, notes = _subject(model, given, output)
    data = given_data(subject, given, _input_shape(model))
    return _target(str(model.name), subject, data, facts_of(model), write, notes, PythonCommands("model"))


def _subject(
    model: Any, given: Given, output: str | None
) -> tuple[Subject, Callable[[Snapshot], None], tuple[str, ...]]:
    """The model as a `Subject`; what puts moving statistics into the caller's own; notes for people."""
    name = f"the model '{model.name}'"
    legacy = not isinstance(model, keras.Model)
    transfer = Transfer(name) if legacy else None
    if any(getattr(one, "renorm", False) or getattr(one, "virtual_batch_size", None) for one in normalisations(model)):
        return in_place(model, given, output)  # as it is in training, which its clone would not be
    try:
        clone = transfer.of_model(model) if transfer else model
        chosen = choose_output(clone, output, name=name)
        flattened = flat(chosen) if getattr(clone, "inputs", None) else None
    except WrongUse:  # of the output's name
        raise
    except FinetuneError:
        if output is None and isinstance(getattr(model, "outputs", None), list) and len(model.outputs) > 1:
            raise  # the outputs to choose from, by name
        flattened = None
    if flattened is None:
        return in_place(model, given, output)
    scored = as_logits(flattened, name=name, binary="binary" in str(getattr(model, "loss", "")).lower())
    subject = KerasSubject(adopt(scored.model, unbiased=False), scored.scores)
    back = {id(made): layer for layer, made in transfer.pairs} if transfer else {}

    def write(statistics: Snapshot) -> None:
        layers = originals(chosen)
        for layer, (mean, variance) in statistics.items():
            own = back.get(id(layers[layer]), layers[layer])
            own.moving_mean.assign(mean)
            own.moving_variance.assign(variance)

    return subject, write, (scored.words,) if scored.words else ()


def in_place(
    model: Any, given: Given, output: str | None
) -> tuple[Subject, Callable[[Snapshot], None], tuple[str, ...]]:
    """A model that is run by its own layers, as one must be that has no graph of layers to clone."""
    images = _shown(given)
    outputs = tf.nest.flatten(model(tf.cast(images, tf.float32), training=False))
    if len(outputs) > 1 and output is None:
        raise FinetuneError(f"the model '{model.name}' gives {len(outputs)} outputs: give output, the number of one")
    number = int(output) if output is not None else 0
    values = np.asarray(outputs[number], np.float64)
    if values.ndim != 2 or len(values) != len(images):
        raise FinetuneError(
            f"the model '{model.name}' is no classifier: its output is {list(values.shape)} for {len(images)} images, "
            "expected [batch, classes]"
        )
    scores = _scores(values, getattr(model, "loss", None))
    kind = LiveSubject if isinstance(model, keras.Model) else LegacySubject
    subject = kind(model, scores, shape=images.shape[1:], output=number)
    notes = ("it has no graph of layers to clone: measured in place, and put back", _read_as(scores))
    return subject, subject.restore, notes


def _scores(values: np.ndarray, loss: Any) -> Scores:
    """What outputs `[images, units]` are: by the loss that the model is compiled with, else by their values."""
    units = values.shape[1]
    from_logits = getattr(loss, "from_logits", getattr(loss, "_fn_kwargs", {}).get("from_logits"))
    if from_logits is None and isinstance(loss, str):
        from_logits = False  # what Keras takes a loss's name for
    inside = bool(((values >= 0) & (values <= 1)).all())
    probabilities = inside and not from_logits
    several = units > 1 and probabilities
    softmax = several and sum_to_one(values)
    return Scores(units, probabilities=probabilities, per_label=several and not softmax, softmax=softmax)


def _read_as(scores: Scores) -> str:
    """How the outputs were read, for people."""
    what = "sigmoids" if scores.per_label or scores.units == 1 else "a softmax"
    return f"its outputs are read as {'the probabilities' if scores.probabilities else 'logits'} of {what}"


@contextmanager
def open_session(
    session: Any, given: Given, *, images: Any, logits: Any, is_training: Any = None, feeds: Mapping[Any, Any]
) -> Iterator[Target]:
    """The target of the graph of a `tf.compat.v1.Session` with its variables' present values.

    images, logits, is_training: tensors of the graph, or their names; feeds: values of other placeholders.
    """
    with outside_graphs(), TemporaryDirectory() as folder:
        place = Path(folder) / "session"
        write_session(session, place)
        subject = open_graph(
            Path(f"{place}.meta"),
            place,
            input=_tensor_name(images),
            logits=_tensor_name(logits),
            is_training=_tensor_name(is_training),
            feeds=[f"{_tensor_name(name)}={value}" for name, value in feeds.items()],
        )
        subject.name = "the session"

        def write(statistics: Snapshot) -> None:
            load_variables(session, subject.by_variable(statistics))

        words = PythonCommands("session=session, images=images, logits=logits")
        data = given_data(subject, given)
        yield _target(subject.name, subject, data, graph_facts(subject), write, subject.lines, words)


def _channels_last(images: np.ndarray, subject: GraphSubject) -> np.ndarray:
    """Images in the layout of a graph's input as `[n, height, width, channels]`, as a `GraphSubject` takes them."""
    size, channels = subject.input_size, subject.channels
    if images.ndim == 4:
        return images.transpose(0, 2, 3, 1) if subject.layout.endswith("nchw") else images
    if images.ndim not in (2, 3) or size is None:
        return images
    if subject.layout.endswith("nchw"):
        return images.reshape(len(images), channels, *size).transpose(0, 2, 3, 1)
    return images.reshape(len(images), *size, channels)


def _tensor_name(tensor: Any) -> str | None:
    """A tensor's name, which may be given itself."""
    return None if tensor is None else str(getattr(tensor, "name", tensor))


def facts_of(model: Any) -> Facts:
    """What a model in memory says of its training."""
    optimizer: Any = getattr(model, "optimizer", None)
    steps = int(np.asarray(optimizer.iterations)) if optimizer is not None else 0
    averages = bool(optimizer.use_ema) if hasattr(optimizer, "use_ema") else None
    return keras_facts(model, steps=steps or None, averages=averages)


def _target(
    name: str,
    subject: Subject,
    data: GivenData,
    facts: Facts,
    write: Callable[[Snapshot], None],
    notes: tuple[str, ...],
    commands: Commands,
) -> Target:
    """The target of an opened model."""
    return Target(
        name=name,
        subject=subject,
        data=data,
        commands=commands,
        write=lambda out: write(subject.snapshot()),
        copy=Path(name),
        history=History(facts),
        notes=notes,
    )


def given_data(subject: Subject, given: Given, shape: Sequence[int | None] | None = None) -> GivenData:
    """The sets, each drawn once. Where no test set is given, the training images stand in for it. shape: of the images
    that the model takes, where that is known."""
    sets = {}
    for what, data in (("test", given.test), ("training", given.train)):
        if data is None:
            continue
        split, at_once = given_split(
            data, what=f"the {what} set", outputs=subject.outputs, most=given.images, whole=what == "test"
        )
        if isinstance(subject, GraphSubject):
            split = split.with_images(_channels_last(split.images, subject))
        _check_shape(split.images, shape, f"the {what} set")
        sets[what] = given_set(split, subject.batch_size or given.batch_size or at_once, given.preprocess)
    sets = _alike(sets, subject.outputs)
    train = sets["training"]
    data = GivenData(None, RunConfig("", batch_size=train.batch_size), sets=(sets.get("test", train), train))
    return data if "test" in sets else replace(data, sets=(data.training(given.images), train))


def _alike(sets: dict[str, GivenSet], classes: int) -> dict[str, GivenSet]:
    """Where the labels of one set mark several of an image, those of another that happen to mark one each do so too."""
    if all(one.split.labels.ndim == 1 for one in sets.values()):
        return sets
    hot = np.eye(classes, dtype=np.uint8)
    return {
        what: one
        if one.split.labels.ndim == 2
        else replace(one, split=replace(one.split, labels=hot[one.split.labels]))
        for what, one in sets.items()
    }


def _read(data: Any, model: Any) -> Any:
    """A folder as Keras reads it, for a model that says what images it takes; other data as they are."""
    if not isinstance(data, str | Path):
        return data
    shape = _input_shape(model)
    if shape is None or len(shape) != 3 or None in shape:
        raise FinetuneError(
            f"the model '{model.name}' does not say the size of its images: give the folder {data} as a data set, by "
            "keras.utils.image_dataset_from_directory"
        )
    return folder_set(Path(data), shape)


def _input_shape(model: Any) -> tuple[Any, ...] | None:
    """The shape of the images that a model takes, None where it does not say."""
    inputs = getattr(model, "inputs", None)
    return tuple(inputs[0].shape[1:]) if inputs is not None and len(inputs) == 1 else None


def _check_shape(images: np.ndarray, shape: Sequence[int | None] | None, what: str) -> None:
    """FinetuneError for images of another shape than the model takes, and for values that are no numbers."""
    found = images.shape[1:]
    if shape is not None and (
        len(found) != len(shape) or any(b not in (None, a) for a, b in zip(found, shape, strict=True))
    ):
        turned = len(found) == 3 and (found[1], found[2], found[0]) == tuple(shape)
        hint = "; their channels come first: move them last, by images.transpose(0, 2, 3, 1)" if turned else ""
        raise FinetuneError(f"{what} has images of {list(found)}, but the model takes {list(shape)}{hint}")
    some = images[np.linspace(0, len(images) - 1, min(len(images), 256)).astype(int)]
    if some.dtype.kind == "f" and not np.isfinite(some).all():
        raise FinetuneError(f"{what} has images with values that are no numbers (NaN or infinity): check its pipeline")


def _shown(given: Given) -> Any:
    """A few images as the model takes them."""
    images = first_images(given.train if given.test is None else given.test, "the data")
    few = given_set(GivenSplit(images, np.zeros(len(images), np.int64), None), len(images), given.preprocess)
    return next(iter(few.batches()))[0]
