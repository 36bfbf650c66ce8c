"""BatchNorm inside something that cannot be opened: views of its statistics, and the one switch it has."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.batchnorm.subject import Statistics

EPSILON = 1e-5
"""What a module adds to its variances is hidden. This one only keeps the drift of dead channels finite."""


class Part(keras.layers.Layer):  # type: ignore[misc]
    """The variables of one scope of a module: can be frozen by its name; never called."""

    def __init__(self, variables: dict[str, keras.Variable], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for variable in variables.values():
            self._track_variable(variable)
        self.built = True


class PartBatchNorm(Part):
    """A view of one BatchNorm in a module, with the switches and results of `batchnorm.layer.BatchNorm`.

    `statistics` and `evaluation` are the same for all views of a module, which has one `training` argument; `updates`
    and `momentum` (the decay) are each view's own.
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


class Module(keras.layers.Layer):  # type: ignore[misc]
    """A network as one layer, float32 `[batch, height, width, 3]` to features `[batch, channels]`.

    trained: `id` of the variables that may train.
    run: `run(images, training, momentum)` computes the features; with training it normalises by the batch and moves
        the moving statistics, keeping the share `momentum` of the old ones. None where the module takes no momentum.
    own_decay: the share it keeps where it takes no momentum; None where it takes one.
    can_train: whether it has a `training` argument at all; without, it is used as it is, and its BatchNorm, which
        cannot be asked for batch statistics, is not seen.
    """

    def __init__(
        self,
        variables: list[tf.Variable],
        trained: set[int],
        run: Callable[[tf.Tensor, bool, float | None], tf.Tensor],
        *,
        can_train: bool,
        takes_momentum: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._run, self.can_train, self._takes_momentum = run, can_train, takes_momentum
        with keras.name_scope(self.name):
            self.parts = [_part(scope, group, trained, views=can_train) for scope, group in _scopes(variables).items()]
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
        return self._run(inputs, False, 1.0 if self._takes_momentum else None)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Without tracing the module."""
        return keras.KerasTensor((inputs.shape[0], self.channels), dtype="float32")

    channels: int

    def graph_digest(self) -> str:
        """Hex digest of what it computes, its variables aside."""
        raise NotImplementedError

    def _uses_batch(self) -> bool:
        return self.bn[0].statistics == "batch" if self.bn else any(part.trainable for part in self.parts)

    def _trained(self, images: tf.Tensor) -> tf.Tensor:
        """A training step's features; the statistics move by each view's decay."""
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
        """Features under batch statistics, nothing updated; each view's `moments` hold what was used."""
        with tf.init_scope():
            values = self._values(int(images.shape[1]), int(images.shape[2]))
        before = self._statistics()
        features, batch = self._from_zero(images)
        count = tf.cast(tf.shape(images)[0], tf.float64)
        for view, saved, (mean, variance), each in zip(self.bn, before, batch, values, strict=True):
            n = count * each
            # What was fed to the moving variance is n/(n-1) times the batch's, where the module does as TF's op does.
            factor = (n - 1.0) / n if each > 0 else tf.constant(1.0, tf.float64)
            shown = n if each > 0 else count
            view.moments = (tf.cast(mean, tf.float64), tf.cast(variance, tf.float64) * factor, shown)
            _write(view, saved)
        return features

    def _from_zero(self, images: tf.Tensor) -> tuple[tf.Tensor, list[tuple[tf.Tensor, tf.Tensor]]]:
        """Features in training mode and the batch's (mean, variance as fed) of each view, which are left at those.

        A moving average that keeps nothing is the batch's value; one that starts from 0 is (1 - decay) times it.
        """
        if self._takes_momentum:
            features = self._run(images, True, 0.0)
            with _after(features):
                return features, self._statistics()
        for view in self.bn:
            _write(view, (tf.zeros_like(view.moving_mean.value), tf.zeros_like(view.moving_variance.value)))
        features = self._run(images, True, None)
        share = 1.0 - (self.own_decay or 0.0)
        with _after(features):
            return features, [(mean / share, variance / share) for mean, variance in self._statistics()]

    def _statistics(self) -> list[tuple[tf.Tensor, tf.Tensor]]:
        return [
            (tf.identity(view.moving_mean.value), tf.identity(view.moving_variance.value))
            for view in self.bn
        ]  # fmt: skip

    def learn_decay(self, images: np.ndarray) -> float | None:
        """The decay of a module that takes none as an argument: its averages after one call, from 0 and from 1.

        (1-d) x the batch's value, and d more; None where the two do not differ by one number d in [0, 1) everywhere,
        so that it is no moving average. The statistics are left as they were.
        """
        with self.kept():
            ends = []
            for start in (0.0, 1.0):
                for view in self.bn:
                    _write(view, tuple(tf.fill(v.shape, start) for v in (view.moving_mean, view.moving_variance)))
                self._run(tf.constant(images), True, None)
                ends.append(np.concatenate([np.ravel(one) for pair in self._statistics() for one in pair]))
        kept = ends[1] - ends[0]
        decay = float(np.median(kept))
        scale = 1e-4 * (1.0 + np.abs(ends[0]))
        if not 0.0 <= decay < 1.0 or np.any(np.abs(kept - decay) > scale):
            return None
        self.own_decay = round(decay, 5)  # float32 leaves 1 - 0.9997 four digits; decays have fewer
        return self.own_decay

    def kept(self) -> AbstractContextManager[None]:
        """Inside, eager calls may move the statistics: they are put back."""
        return _Kept(self)

    def _values(self, height: int, width: int) -> list[float]:
        """How many values per channel and image each view averages over; 0 where the module feeds the plain variance.

        The same images twice have the same mean and variance, but n/(n-1) times it is smaller: with two images and
        with those twice, by (4k-1)/(4k-2), k values an image. Where k is large it is uncertain, and without effect.
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
            # It is one or the other for the whole module: noise must not make a large map an exception.
            fed_plain = sum(each == 0 for each in found) > len(found) / 2
            self._images_values[height, width] = [0.0] * len(found) if fed_plain else found
        return self._images_values[height, width]


class _Kept:
    def __init__(self, module: Module) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._saved = [(np.array(v.moving_mean), np.array(v.moving_variance)) for v in self._module.bn]

    def __exit__(self, *_: object) -> None:
        for view, saved in zip(self._module.bn, self._saved, strict=True):
            _write(view, saved)


def _after(features: tf.Tensor) -> Any:
    """Inside, operations wait for the updates of the call that gave `features`.

    In modules made of TF1 graphs the features wait for the update operations, and nothing else does: the call's own
    operation is over before they are. So the dependency is on something computed from its result.
    """
    return tf.control_dependencies([tf.identity(features)])


def _write(view: PartBatchNorm, values: Any) -> None:
    view.moving_mean.assign(values[0])
    view.moving_variance.assign(values[1])


def _scopes(variables: list[tf.Variable]) -> dict[str, dict[str, tf.Variable]]:
    """Scope -> last part of the name -> variable; scopes of equal names are told apart by a number."""
    scopes: dict[str, dict[str, tf.Variable]] = {}
    for variable in variables:
        scope, _, last = variable.name.partition(":")[0].rpartition("/")
        number, free = 1, scope or "variables"
        while last in scopes.get(free, {}):
            free, number = f"{scope or 'variables'}_{number}", number + 1
        scopes.setdefault(free, {})[last] = variable
    return scopes


def _part(scope: str, group: dict[str, tf.Variable], trainable: set[int], *, views: bool) -> Part:
    name = scope.replace("/", ".")
    # Given a tf.Variable, Keras's keeps it: what trains is the module's own.
    variables = {
        last: keras.Variable(
            one, trainable=id(one) in trainable, dtype=one.dtype.name, name=f"{name}.{last}".replace("/", ".")
        )
        for last, one in group.items()
    }
    kind = PartBatchNorm if views and {"moving_mean", "moving_variance"} <= group.keys() else Part
    return kind(variables, name=name)
