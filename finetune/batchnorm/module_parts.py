"""BatchNorm inside a module that cannot be opened: views of its statistics, and its one `training` switch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.batchnorm.subject import Statistics

EPSILON = 1e-5
"""The epsilon of a module is not known. This value only keeps the drift of dead channels finite."""


class Part(keras.layers.Layer):  # type: ignore[misc]
    """The variables of one scope of a module. It can be frozen by name, and is never called."""

    def __init__(self, variables: dict[str, keras.Variable], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for variable in variables.values():
            self._track_variable(variable)
        self.built = True


class PartBatchNorm(Part):
    """A view of one BatchNorm in a module, with the switches and results of `batchnorm.layer.BatchNorm`.

    `statistics` and `evaluation` are the same for all views of a module, because it has one `training` argument.
    `updates` and `momentum` (the decay) are separate for each view.
    """

    def __init__(self, variables: dict[str, keras.Variable], **kwargs: Any) -> None:
        super().__init__(variables, **kwargs)
        self.moving_mean, self.moving_variance = variables["moving_mean"], variables["moving_variance"]
        self.statistics: Statistics = "batch"
        self.evaluation: Statistics = "moving"
        self.updates = True
        self.momentum = 0.99
        self.epsilon = EPSILON
        self.moments: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network that was loaded as functions.

    trainable: those of the variables that may train.
    run: `run(images, training, momentum)` computes features `[batch, channels]` of float32 `[batch, height, width, 3]`
        in [0, 1]. With training it normalises by the batch and updates the moving statistics, keeping the share
        `momentum` of the old ones. Without `takes_momentum` it keeps a share of its own.
    can_train: whether it has a `training` argument.
    side: px of the images it was made for, None for any.
    """

    handle: str
    variables: list[tf.Variable]
    trainable: list[tf.Variable]
    run: Callable[[tf.Tensor, bool, float], tf.Tensor]
    can_train: bool
    takes_momentum: bool
    side: int | None


class Module(keras.layers.Layer):  # type: ignore[misc]
    """A network as one layer, float32 `[batch, height, width, 3]` to features `[batch, channels]`.

    own_decay: the share that it keeps if it takes no momentum; None if it takes one.
    can_train: as in `Loaded`. A module that cannot is used unchanged, and its BatchNorm has no views, because it cannot
        be asked for batch statistics.
    """

    def __init__(self, loaded: Loaded, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._run, self.can_train, self._takes_momentum = loaded.run, loaded.can_train, loaded.takes_momentum
        with keras.name_scope(self.name):
            self.parts = [_part(scope, group, loaded) for scope, group in _scopes(loaded.variables).items()]
        self.bn = [part for part in self.parts if isinstance(part, PartBatchNorm)]
        self.own_decay: float | None = None
        self._images_values: dict[tuple[int, int], list[float]] = {}
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Features of preprocessed images."""
        if training and self.can_train and self._uses_batch():
            return self._trained(inputs)
        if not training and self.bn and self.bn[0].evaluation == "batch":
            return self._measured(inputs)
        return self._run(inputs, False, 1.0)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """The shape and dtype of the features, without tracing the module."""
        return keras.KerasTensor((inputs.shape[0], self.channels), dtype="float32")

    channels: int

    def graph_digest(self) -> str:
        """Hex digest of its computation, without its variables."""
        raise NotImplementedError

    def _uses_batch(self) -> bool:
        return self.bn[0].statistics == "batch" if self.bn else any(part.trainable for part in self.parts)

    def _trained(self, images: tf.Tensor) -> tf.Tensor:
        """The features of a training step; the statistics are updated with each view's decay."""
        before = self._statistics()
        if self._takes_momentum:
            features = self._run(images, True, self.bn[0].momentum if self.bn else 0.99)
            with _after(features):
                for view, saved in zip(self.bn, before, strict=True):
                    if not view.updates:
                        _write(view, saved)
            return features
        features, batch = self._from_zero(images)
        for view, saved, (mean, variance) in zip(self.bn, before, batch, strict=True):
            if view.updates:
                keep = view.momentum
                _write(view, (saved[0] * keep + mean * (1 - keep), saved[1] * keep + variance * (1 - keep)))
            else:
                _write(view, saved)
        return features

    def _measured(self, images: tf.Tensor) -> tf.Tensor:
        """Features under batch statistics, without updates; each view's `moments` hold the statistics used."""
        with tf.init_scope():
            values = self._values(int(images.shape[1]), int(images.shape[2]))
        before = self._statistics()
        features, batch = self._from_zero(images)
        count = tf.cast(tf.shape(images)[0], tf.float64)
        for view, saved, (mean, variance), each in zip(self.bn, before, batch, values, strict=True):
            n = count * each
            # A module that behaves like TF's op averages n/(n-1) times the batch variance.
            factor = (n - 1.0) / n if each > 0 else tf.constant(1.0, tf.float64)
            shown = n if each > 0 else count
            view.moments = (tf.cast(mean, tf.float64), tf.cast(variance, tf.float64) * factor, shown)
            _write(view, saved)
        return features

    def _from_zero(self, images: tf.Tensor) -> tuple[tf.Tensor, list[tuple[tf.Tensor, tf.Tensor]]]:
        """Features in training mode, and each view's (mean, variance as averaged) of the batch.

        A moving average that keeps nothing equals the batch's value; one that starts from 0 is (1 - decay) times it.
        The moving statistics of the views are left at these values.
        """
        if self._takes_momentum:
            features = self._run(images, True, 0.0)
            with _after(features):
                return features, self._statistics()
        for view in self.bn:
            _write(view, (tf.zeros_like(view.moving_mean.value), tf.zeros_like(view.moving_variance.value)))
        features = self._run(images, True, 0.0)
        share = 1.0 - (self.own_decay or 0.0)
        with _after(features):
            return features, [(mean / share, variance / share) for mean, variance in self._statistics()]

    def _statistics(self) -> list[tuple[tf.Tensor, tf.Tensor]]:
        return [(tf.identity(one.moving_mean.value), tf.identity(one.moving_variance.value)) for one in self.bn]

    def learn_decay(self, images: np.ndarray) -> float | None:
        """The decay d of a module that does not take it as an argument, from its averages after one call.

        From 0 they become (1-d) times the batch's value, and from 1 that value plus d. None if the two do not differ by
        the same d in [0, 1) everywhere: then it is not a moving average. The statistics are restored.
        """
        with self.kept():
            ends = []
            for start in (0.0, 1.0):
                for view in self.bn:
                    _write(view, tuple(tf.fill(v.shape, start) for v in (view.moving_mean, view.moving_variance)))
                self._run(tf.constant(images), True, 0.0)
                ends.append(np.concatenate([np.ravel(one) for pair in self._statistics() for one in pair]))
        kept = ends[1] - ends[0]
        decay = float(np.median(kept))
        scale = 1e-4 * (1.0 + np.abs(ends[0]))
        if not 0.0 <= decay < 1.0 or np.any(np.abs(kept - decay) > scale):
            return None
        self.own_decay = round(decay, 5)  # float32 leaves 1 - 0.9997 four digits; decays have fewer
        return self.own_decay

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, eager calls may change the moving statistics; they are restored at the end."""
        saved = [(np.array(view.moving_mean), np.array(view.moving_variance)) for view in self.bn]
        try:
            yield
        finally:
            for view, values in zip(self.bn, saved, strict=True):
                _write(view, values)

    def _values(self, height: int, width: int) -> list[float]:
        """The values per channel and image that each view averages over; 0 if the module averages the plain variance.

        Repeating the images changes neither mean nor variance, but makes n/(n-1) times the variance smaller. From two
        images to these two twice, the factor is (4k-1)/(4k-2) for k values per image. If k is large it is uncertain,
        and has no effect.
        """
        if (height, width) not in self._images_values:
            rng = np.random.default_rng(0)
            images = rng.uniform(0, 1, (2, height, width, 3)).astype(np.float32)
            with self.kept():
                once = self._from_zero(tf.constant(images))[1]
                twice = self._from_zero(tf.constant(np.concatenate([images, images])))[1]
            found = []
            for (_, single), (_, double) in zip(once, twice, strict=True):
                excess = float(np.sum(np.asarray(single, np.float64)) / np.sum(np.asarray(double, np.float64))) - 1.0
                each = (1.0 / excess + 2.0) / 4.0 if excess > 0 else np.inf
                found.append(float(max(round(each), 1)) if each < 1.5 * height * width else 0.0)
            # A whole module does one or the other: noise must not make a layer with a large map an exception.
            fed_plain = sum(each == 0 for each in found) > len(found) / 2
            self._images_values[height, width] = [0.0] * len(found) if fed_plain else found
        return self._images_values[height, width]


def _after(features: tf.Tensor) -> Any:
    """Inside, operations wait for the updates of the call that gave `features`.

    In modules made of TF1 graphs only the features wait for the update operations: the call's own operation ends before
    they do. So the dependency is on a tensor computed from the features.
    """
    return tf.control_dependencies([tf.identity(features)])


def _write(view: PartBatchNorm, values: Any) -> None:
    """Assign (mean, variance) to the moving statistics of a view."""
    view.moving_mean.assign(values[0])
    view.moving_variance.assign(values[1])


def _scopes(variables: list[tf.Variable]) -> dict[str, dict[str, tf.Variable]]:
    """Maps scope and last part of the name to the variable; scopes with equal names are numbered."""
    scopes: dict[str, dict[str, tf.Variable]] = {}
    for variable in variables:
        scope, _, last = variable.name.partition(":")[0].rpartition("/")
        number, free = 1, scope or "variables"
        while last in scopes.get(free, {}):
            free, number = f"{scope or 'variables'}_{number}", number + 1
        scopes.setdefault(free, {})[last] = variable
    return scopes


def _part(scope: str, group: dict[str, tf.Variable], loaded: Loaded) -> Part:
    """The variables of one scope as a part; a view of BatchNorm where they are one and the module can train."""
    name = scope.replace("/", ".")
    trainable = {id(one) for one in loaded.trainable}
    # A keras.Variable made from a tf.Variable keeps it: so the module's own variable trains.
    variables = {
        last: keras.Variable(
            one, trainable=id(one) in trainable, dtype=one.dtype.name, name=f"{name}.{last}".replace("/", ".")
        )
        for last, one in group.items()
    }
    kind = PartBatchNorm if loaded.can_train and {"moving_mean", "moving_variance"} <= group.keys() else Part
    return kind(variables, name=name)
