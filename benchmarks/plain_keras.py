"""The plain Keras recipe as people write it: base frozen 2 epochs with Adam 1e-3, then everything at Adam 3e-4.

`python benchmarks/plain_keras.py DATA_DIR WEIGHTS.h5 SECONDS` trains 2 + 4 epochs and then goes on epoch by epoch until
SECONDS of training have passed; prints one JSON line. It does not import finetune: this is the peer.
"""

import json
import pickle
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def read(path):
    batch = pickle.loads(path.read_bytes(), encoding="bytes")
    images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, np.array(batch[b"labels"])


def prepare(images, labels):
    return tf.image.resize(tf.cast(images, tf.float32), (96, 96)) / 127.5 - 1, labels


def main(folder, weights, seconds):
    keras.utils.set_random_seed(0)
    files = sorted(Path(folder, "cifar-10-batches-py").glob("data_batch_*"))
    images, labels = (np.concatenate(part) for part in zip(*map(read, files), strict=True))
    train = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(labels)).batch(64).map(prepare).prefetch(2)
    test = tf.data.Dataset.from_tensor_slices(read(Path(folder, "cifar-10-batches-py", "test_batch")))
    test = test.batch(64).map(prepare)
    base = keras.applications.MobileNet(alpha=0.25, weights=weights, include_top=False, input_shape=(96, 96, 3))
    base.trainable = False
    inputs = keras.Input((96, 96, 3))
    x = keras.layers.GlobalAveragePooling2D()(base(inputs, training=False))
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Dropout(0.2)(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    started = time.monotonic()
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    model.fit(train, epochs=2, verbose=0)
    base.trainable = True
    model.compile(keras.optimizers.Adam(3e-4), loss, metrics=["accuracy"])
    rows, epochs = [], 2
    while epochs < 6 or time.monotonic() - started < seconds:
        model.fit(train, epochs=1, verbose=0)
        epochs += 1
        if epochs == 6:
            rows.append(row(model, test, epochs, started))
            started += rows[0]["evaluation_seconds"]
    if epochs > 6:
        rows.append(row(model, test, epochs, started))
    print(json.dumps(rows))


def row(model, test, epochs, started):
    seconds = time.monotonic() - started
    begin = time.monotonic()
    _, accuracy = model.evaluate(test, verbose=0)
    return {
        "epochs": epochs,
        "train_seconds": round(seconds, 1),
        "accuracy": accuracy,
        "evaluation_seconds": time.monotonic() - begin,
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
