"""A whole training step by other ways, in one process, in turn: images/s and ratios to Keras's own.

keras: `keras.layers` and `keras.optimizers` as they are, with Keras's BatchNormalization (built-in networks only).
bn: our BatchNorm layer, which uses TensorFlow's fused op. update: and one pass over each variable an update.
finetune: and 1x1 convolutions as matrix products: what `finetune run` does. bfloat16: the same with that precision.
The losses of the first steps are printed, and must agree (bfloat16's within 5 %).
"""

import argparse
import statistics
import time

import finetune  # noqa: F401  chooses how TensorFlow starts
from finetune.cli.startup import load_tensorflow

load_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from finetune.backbone import find_backbone, load_backbone  # noqa: E402
from finetune.backbone.head import attach_head  # noqa: E402
from finetune.batchnorm.surgery import bn_layers, to_stock  # noqa: E402
from finetune.config import RunConfig  # noqa: E402
from finetune.training.loop import kernels  # noqa: E402
from finetune.training.loop.optimizer import build  # noqa: E402
from finetune.training.loop.step import TrainStep  # noqa: E402

WAYS = ("keras", "bn", "update", "finetune", "bfloat16")


def made(way, options):
    """The step of one way, on weights that are the same for all."""
    keras.utils.set_random_seed(0)
    backbone = load_backbone(find_backbone(options.backbone), image_size=options.size, from_scratch=True)
    model = attach_head(backbone.model, 10, seed=0)
    for layer in bn_layers(model):
        layer.updates = True
    if way == "keras":
        model = to_stock(model)
    variables = model.trainable_variables
    config = RunConfig(
        options.backbone,
        optimizer="sgd",
        learning_rate=1e-3,
        schedule="constant",
        weight_decay=0.0,
        precision="bfloat16" if way == "bfloat16" else "float32",
    )
    optimizer = build(config, variables, steps=1)
    if way in ("keras", "bn"):
        optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True)
        optimizer.build(variables)
    step = TrainStep(model, optimizer, variables, config).traced()
    if way in ("keras", "bn", "update"):
        own, kernels._faster = kernels._faster, lambda layer: layer.call
        step.get_concrete_function()
        kernels._faster = own
    return step


def peak():
    """GFLOP/s of a float32 matrix product."""
    a = tf.random.normal([2048, 2048])
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, a)))
    product()
    started = time.perf_counter()
    for _ in range(10):
        product().numpy()
    return 10 * 2 * 2048**3 / (time.perf_counter() - started) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="keras/resnet50")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="of a round")
    parser.add_argument("--ways", default=",".join(WAYS))
    options = parser.parse_args()
    ways = options.ways.split(",")
    images = tf.random.stateless_normal((options.batch, options.size, options.size, 3), (0, 0))
    labels = tf.constant(np.arange(options.batch) % 10, tf.int64)
    steps = {way: made(way, options) for way in ways}
    losses = {way: [float(step(images, labels)[0]) / options.batch for _ in range(3)] for way, step in steps.items()}
    for way in ways:
        print(f"{way:9} losses of the first steps: {', '.join(f'{loss:.4f}' for loss in losses[way])}", flush=True)
        np.testing.assert_allclose(losses[way], losses[ways[0]], rtol=0.05 if way == "bfloat16" else 2e-3)
    rates = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, step in steps.items():
            started = time.perf_counter()
            for _ in range(options.steps):
                step(images, labels)[0].numpy()
            rates[way].append(options.steps * options.batch / (time.perf_counter() - started))
    print(f"float32 matrix product: {peak():.0f} GFLOP/s")
    for way in ways:
        ratio = statistics.median(one / other for one, other in zip(rates[way], rates[ways[0]], strict=True))
        print(f"{way:9} {statistics.median(rates[way]):7.1f} images/s, {ratio:.2f} x {ways[0]}")


if __name__ == "__main__":
    main()
