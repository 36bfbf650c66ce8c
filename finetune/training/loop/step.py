"""One training step, traced once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.batchnorm.surgery import parts
from finetune.config import RunConfig
from finetune.data import batches
from finetune.training.distribution.strategy import ALONE, Distribution
from finetune.training.loop import kernels
from finetune.training.loop.loss_scale import Statistics
from finetune.training.loop.losses import label_losses
from finetune.training.loop.losses import losses as class_losses

Step = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@dataclass(frozen=True, eq=False)
class TrainStep:
    """One update of `variables`, and of the moving statistics that update, by `optimizer`.

    Only `variables` are watched: nothing below the first of them is kept for a gradient.

    config: a completed config. With its `mixup` or `cutmix`, labels are each class's share, float32 `[batch, classes]`.
        A prediction then counts as correct by the share of the class it names (as in the code of Zhang et al. 2018).
        `precision` is what the layers compute in (`finetune.training.loop.kernels`). In float16 the loss is scaled, and
        a step whose gradients are not finite changes nothing (`finetune.training.loop.loss_scale`). At most
        `microbatch` images go through the network at a time; their gradients are added up to one update. BatchNorm
        normalises each part by its own statistics, and each part updates the moving statistics.
    distribution: with several replicas, the images are this process's share of the global batch. The gradient, its
        clipping and the returned values are those of the global batch.
    class_weights: what multiplies the loss of each class's images, `[classes]`. The sum is divided by the number of
        images, not by that of their weights, as in Keras's `fit(class_weight=...)`.
    multi_label: labels are uint8 0/1 `[batch, classes]`, several an image (`losses.label_losses`). An image then counts
        as correct by its `metrics.r_precision`, where labels are mixed by their shares.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    variables: list[Any]
    config: RunConfig
    distribution: Distribution = ALONE
    class_weights: np.ndarray | None = None
    multi_label: bool = False

    def traced(self) -> Step:
        """A function of images float32 `[batch, height, width, 3]` and labels int64 `[batch]` that trains one step.

        It returns the summed loss and the number of correct predictions of the batch before the update, under batch
        statistics where they normalise.
        """

        def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return self.distribution.on_replicas(self._replica, images, labels)  # type: ignore[no-any-return]

        return self._traced(step, [None])

    def several(self) -> Step:
        """Several steps, one after another, in one call: inputs `[steps, batch, ...]`, labels `[steps, batch]`.

        The steps are the same to the bit. One call saves the way from Python into the graph and back, which takes
        longer than a step of a small head. Returns the summed loss and the number of correct predictions of each,
        `[steps]`. For one replica.
        """

        def several(inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            steps = tf.shape(labels)[0]

            def body(index: tf.Tensor, losses: tf.TensorArray, corrects: tf.TensorArray) -> tuple[Any, ...]:
                loss, correct = self._replica(inputs[index], labels[index])
                return index + 1, losses.write(index, loss), corrects.write(index, correct)

            begin = (tf.constant(0), *(tf.TensorArray(dtype, size=steps) for dtype in (tf.float32, self._counted)))
            # One at a time: each step needs the weights of the step before.
            _, losses, corrects = tf.while_loop(lambda index, *_: index < steps, body, begin, parallel_iterations=1)
            return losses.stack(), corrects.stack()

        return self._traced(several, [None, None])

    def _traced(self, step: Step, shape: list[None]) -> Step:
        """`step` with the faster kernels, for labels of `shape`."""

        def run(inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with kernels.chosen(self.model, self.config.precision):
                return step(inputs, labels)

        classes = self.model.output_shape[-1]
        taken = tf.TensorSpec([*shape, *self.model.input_shape[1:]], tf.float32)
        named = tf.TensorSpec(shape, tf.int64)
        if batches.mixes(self.config) or self.multi_label:
            named = tf.TensorSpec([*shape, classes], tf.float32 if batches.mixes(self.config) else tf.uint8)
        return tf.function(run, input_signature=[taken, named], autograph=False)  # type: ignore[no-any-return]

    @property
    def _counted(self) -> tf.DType:
        """The type of the number of correct predictions."""
        return tf.float32 if batches.mixes(self.config) or self.multi_label else tf.int64

    def _replica(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The step of one replica."""
        if self.distribution.replicas > 1:
            # Keras clips each replica's own gradient and sums what is left of them; here the sum is clipped.
            self.optimizer._all_reduce_sum_gradients = lambda pairs: pairs
        examples, microbatch = tf.shape(images)[0], self.config.microbatch
        before = Statistics(self.model) if self.config.precision == "float16" else None
        if microbatch is None:
            gradients, loss, correct = self._gradient(images, labels, examples)
        else:
            gradients, loss, correct = _in_parts(self._gradient, images, labels, microbatch)
        gradients = self.distribution.all_sum(gradients)
        if before is None:
            self.optimizer.apply(gradients, self.variables)
        else:
            self.optimizer.loss_scale.step(gradients, self._apply, before, loss)
        return self.distribution.all_sum(loss), self.distribution.all_sum(correct)

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        self.optimizer.apply(gradients, self.variables)

    def _gradient(
        self, images: tf.Tensor, labels: tf.Tensor, examples: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """(gradient of the summed loss over `examples`, in float16 scaled; summed loss; correct predictions)."""
        values = [variable.value for variable in self.variables]
        mixed = batches.mixes(self.config)
        if mixed or self.multi_label:
            shares = tf.cast(labels, tf.float32)
        else:
            shares = tf.one_hot(labels, self.model.output_shape[-1])
        losses_of = label_losses if self.multi_label else class_losses
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            logits = self.model(images, training=True)
            losses = losses_of(logits, shares, self.config, self.class_weights)
            # The replicas hold equal parts: the sum of their gradients is that of the mean over the global batch.
            loss = tf.reduce_sum(losses) / tf.cast(examples * self.distribution.replicas, tf.float32)
            if self.config.precision == "float16":
                loss *= self.optimizer.loss_scale.value.value
        named = tf.argmax(logits, axis=-1)
        if self.multi_label:
            correct = tf.reduce_sum(_r_precision(logits, shares))
        elif mixed:
            correct = tf.reduce_sum(tf.gather(labels, named, batch_dims=1))
        else:
            correct = tf.reduce_sum(tf.cast(tf.equal(named, labels), tf.int64))
        cancelled = {id(layer.bias) for layer in parts(self.model) if kernels.bias_cancels(layer)}
        gradients = [
            tf.zeros_like(value) if one is None and id(variable) in cancelled else one
            for one, value, variable in zip(tape.gradient(loss, values), values, self.variables, strict=True)
        ]
        return gradients, tf.reduce_sum(losses), correct


def _r_precision(logits: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """`metrics.r_precision` of each image, float32 `[batch]`, of labels that are there in part: float32 in [0, 1]."""
    ranked = tf.gather(shares, tf.math.top_k(logits, logits.shape[-1]).indices, batch_dims=1)
    count, whole = tf.math.count_nonzero(shares, axis=-1, dtype=tf.int32), tf.reduce_sum(shares, axis=-1)
    hits = tf.reduce_sum(ranked * tf.sequence_mask(count, logits.shape[-1], tf.float32), axis=-1)
    return tf.where(
        count > 0, hits / tf.where(count > 0, whole, 1.0), tf.cast(tf.reduce_all(logits <= 0, axis=-1), tf.float32)
    )


def _in_parts(gradient: Any, images: tf.Tensor, labels: tf.Tensor, microbatch: int) -> Any:
    """The sum of `gradient` over parts of at most `microbatch` images. The parts are as equal as possible: a last part
    of one image would be normalised by the statistics of one image."""
    examples = tf.shape(images)[0]
    parts = (examples + microbatch - 1) // microbatch

    def of_part(index: tf.Tensor) -> Any:
        begin, end = index * examples // parts, (index + 1) * examples // parts
        return gradient(images[begin:end], labels[begin:end], examples)

    def body(index: tf.Tensor, so_far: Any) -> tuple[tf.Tensor, Any]:
        return index + 1, tf.nest.map_structure(tf.add, so_far, of_part(index))

    _, total = tf.while_loop(
        lambda index, _: index < parts, body, (tf.constant(1), of_part(tf.constant(0))), parallel_iterations=1
    )
    return total
