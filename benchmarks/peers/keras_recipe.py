"""The Keras transfer-learning guide's recipe, as people write it (keras.io/guides/transfer_learning).

`python keras_recipe.py MODEL IMAGES.npz SIZE MODE [WEIGHTS]`. MODE is `all` (everything trains), `head` or `stage`
(from the layer whose name begins with `conv5` on). The environment, and so oneDNN, is whatever it is.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from pace import Pace

MODELS = {
    "resnet50": (keras.applications.ResNet50, keras.applications.resnet.preprocess_input, {}),
    "resnet101": (keras.applications.ResNet101, keras.applications.resnet.preprocess_input, {}),
    "mobilenet_0.25": (keras.applications.MobileNet, keras.applications.mobilenet.preprocess_input, {"alpha": 0.25}),
    "densenet121": (keras.applications.DenseNet121, keras.applications.densenet.preprocess_input, {}),
    "inception_v3": (keras.applications.InceptionV3, keras.applications.inception_v3.preprocess_input, {}),
}


def main(name, images, size, mode, weights=None):
    size, pace = int(size), Pace()
    keras.utils.set_random_seed(0)
    build, preprocess, extra = MODELS[name]
    with np.load(images) as file:
        x, y = file["x_train"], file["y_train"]
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).repeat()
    data = data.map(lambda image, label: (tf.image.resize(image, (size, size)), label)).batch(32)
    data = data.prefetch(tf.data.AUTOTUNE)
    base = build(weights=weights, include_top=False, input_shape=(size, size, 3), **extra)
    if mode != "all":
        base.trainable = False
    if mode == "stage":
        base.trainable = True
        for layer in base.layers:
            layer.trainable = layer.name.startswith("conv5")
    inputs = keras.Input((size, size, 3))
    features = base(preprocess(inputs), training=False) if mode != "all" else base(preprocess(inputs))
    # Every contender's head starts from zeros, as ours does: then their losses can be compared.
    head = keras.layers.Dense(10, kernel_initializer="zeros")
    model = keras.Model(inputs, head(keras.layers.GlobalAveragePooling2D()(features)))
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    class Told(keras.callbacks.Callback):
        """`fit` gives the mean over the steps so far."""

        count, total = 0, 0.0

        def on_train_batch_end(self, batch, logs=None):
            total = logs["loss"] * (self.count + 1)
            self.count, last = self.count + 1, total - self.total
            self.total = total
            pace.step(last)

    pace.ready()
    model.fit(data, epochs=1, steps_per_epoch=10**9, callbacks=[Told()], verbose=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
