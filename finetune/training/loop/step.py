"""One training step, traced once."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from finetune.batchnorm.surgery import parts
from finetune.training.distribution.strategy import ALONE, Distribution
from finetune.training.loop import kernels

Step = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    variables: list[Any],
    *,
    label_smoothing: float,
    distribution: Distribution = ALONE,
    mixed: bool = False,
    precision: str = "float32",
    microbatch: int | None = None,
) -> Step:
    """A function of images float32 `[batch, height, width, 3]` and labels int64 `[batch]` that trains one step.

    It updates `variables` and the moving statistics that update. It returns the summed loss and the number of correct
    predictions of the batch before the update, under batch statistics where they normalise. Only `variables` are
    watched: nothing below the first of them is kept for a gradient.

    mixed: labels are each class's share, float32 `[batch, classes]`. A prediction then counts as correct by the share
        of the class it names (as in the code of Zhang et al. 2018).
    distribution: with several replicas, the images are this process's share of the global batch. The gradient, its
        clipping and the returned values are those of the global batch.
    precision: what the layers compute in, float32 or bfloat16 (`finetune.training.loop.kernels`).
    microbatch: at most so many images go through the network at a time; their gradients are added up to one update.
        BatchNorm normalises each part by its own statistics, and each part updates the moving statistics.
    """
    replica = _replica(model, optimizer, variables, label_smoothing, distribution, mixed=mixed, microbatch=microbatch)
    signature = [
        tf.TensorSpec([None, *model.input_shape[1:]], tf.float32),
        tf.TensorSpec([None, model.output_shape[-1]], tf.float32) if mixed else tf.TensorSpec([None], tf.int64),
    ]

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with kernels.chosen(model, precision):
            return distribution.on_replicas(replica, images, labels)  # type: ignore[no-any-return]

    return step  # type: ignore[no-any-return]


def train_steps(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    variables: list[Any],
    *,
    label_smoothing: float,
    precision: str = "float32",
    microbatch: int | None = None,
) -> Step:
    """Several of `train_step`, one after another, in one call: inputs `[steps, batch, ...]`, labels `[steps, batch]`.

    The steps are the same to the bit. One call saves the way from Python into the graph and back, which takes longer
    than a step of a small head. Returns the summed loss and the number of correct predictions of each, `[steps]`.
    """
    one = _replica(model, optimizer, variables, label_smoothing, ALONE, microbatch=microbatch)

    def several(inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        steps = tf.shape(labels)[0]

        def body(index: tf.Tensor, losses: tf.TensorArray, corrects: tf.TensorArray) -> tuple[Any, ...]:
            loss, correct = one(inputs[index], labels[index])
            return index + 1, losses.write(index, loss), corrects.write(index, correct)

        begin = (tf.constant(0), *(tf.TensorArray(dtype, size=steps) for dtype in (tf.float32, tf.int64)))
        # One at a time: each step needs the weights of the step before.
        with kernels.chosen(model, precision):
            _, losses, corrects = tf.while_loop(lambda index, *_: index < steps, body, begin, parallel_iterations=1)
        return losses.stack(), corrects.stack()

    signature = [
        tf.TensorSpec([None, None, *model.input_shape[1:]], tf.float32),
        tf.TensorSpec([None, None], tf.int64),
    ]
    return tf.function(several, input_signature=signature, autograph=False)  # type: ignore[no-any-return]


def _replica(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    variables: list[Any],
    label_smoothing: float,
    distribution: Distribution,
    *,
    mixed: bool = False,
    microbatch: int | None = None,
) -> Step:
    """The step of one replica, not yet traced."""
    classes = model.output_shape[-1]
    values = [variable.value for variable in variables]
    if distribution.replicas > 1:
        # Keras clips each replica's own gradient and sums what is left of them; here the sum is clipped.
        optimizer._all_reduce_sum_gradients = lambda pairs: pairs

    def gradient(images: tf.Tensor, labels: tf.Tensor, examples: tf.Tensor) -> tuple[list[tf.Tensor], Any, Any]:
        """(gradient of the summed loss over `examples`, summed loss, number of correct predictions)."""
        shares = labels if mixed else tf.one_hot(labels, classes)
        targets = shares * (1.0 - label_smoothing) + label_smoothing / classes
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            logits = model(images, training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            # The replicas hold equal parts: the sum of their gradients is that of the mean over the global batch.
            loss = tf.reduce_sum(losses) / tf.cast(examples * distribution.replicas, tf.float32)
        named = tf.argmax(logits, axis=-1)
        if mixed:
            correct = tf.reduce_sum(tf.gather(labels, named, batch_dims=1))
        else:
            correct = tf.reduce_sum(tf.cast(tf.equal(named, labels), tf.int64))
        cancelled = {id(layer.bias) for layer in parts(model) if kernels.bias_cancels(layer)}
        gradients = [
            tf.zeros_like(value) if one is None and id(variable) in cancelled else one
            for one, value, variable in zip(tape.gradient(loss, values), values, variables, strict=True)
        ]
        return gradients, tf.reduce_sum(losses), correct

    def replica(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        examples = tf.shape(images)[0]
        if microbatch is None:
            gradients, loss, correct = gradient(images, labels, examples)
        else:
            gradients, loss, correct = _in_parts(gradient, images, labels, microbatch)
        optimizer.apply(distribution.all_sum(gradients), variables)
        return distribution.all_sum(loss), distribution.all_sum(correct)

    return replica


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
