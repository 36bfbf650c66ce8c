"""Our BatchNorm (TensorFlow's fused op) against Keras's own, in one process, A B A B: a ResNet-50 training step."""

import time

import keras
import tensorflow as tf

from finetune.batchnorm.surgery import adopt
from finetune.classifier import attach_head
from finetune.config import RunConfig
from finetune.training import optimizer as optimizers
from finetune.training.step import train_step

SIZE, BATCH, STEPS, ROUNDS = 64, 32, 8, 4


def step_of(model):
    variables = model.trainable_variables
    config = RunConfig("keras/resnet50", optimizer="sgd", learning_rate=0.01, schedule="constant")
    return train_step(model, optimizers.build(config, variables, steps=1), variables, label_smoothing=0.0)


def main():
    stock = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3))
    steps = {"stock": step_of(attach_head(stock, 10)), "ours": step_of(attach_head(adopt(stock, unbiased=False), 10))}
    images, labels = tf.random.normal((BATCH, SIZE, SIZE, 3)), tf.zeros(BATCH, tf.int64)
    for step in steps.values():
        step(images, labels)
    ratios = []
    for _ in range(ROUNDS):
        rates = {}
        for name, step in steps.items():
            started = time.monotonic()
            for _ in range(STEPS):
                step(images, labels)
            rates[name] = STEPS * BATCH / (time.monotonic() - started)
        ratios.append(rates["ours"] / rates["stock"])
        print(f"stock {rates['stock']:.1f} images/s, ours {rates['ours']:.1f}, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {sorted(ratios)[len(ratios) // 2]:.2f}")


if __name__ == "__main__":
    main()
