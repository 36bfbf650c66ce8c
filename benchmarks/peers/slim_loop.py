"""A TensorFlow 1 training loop with tf_slim (`create_train_op`), as in `tensorflow/models` research/slim.

`python slim_loop.py MODEL IMAGES.npz SIZE`. The environment, and so oneDNN, is whatever it is.
"""

import sys

import numpy as np
import tensorflow.compat.v1 as tf
import tf_keras  # noqa: F401
from pace import Pace


def mended_slim():
    """tf_slim 1.1 looks for a module of tf_keras under its old name."""
    from tf_keras.src import legacy_tf_layers
    from tf_keras.src.legacy_tf_layers import normalization

    sys.modules["tf_keras.legacy_tf_layers"] = legacy_tf_layers
    sys.modules["tf_keras.legacy_tf_layers.normalization"] = normalization
    import tf_slim

    return tf_slim


def main(name, images, size):
    size, pace, slim = int(size), Pace(), mended_slim()
    tf.disable_v2_behavior()
    tf.set_random_seed(0)
    from tf_slim.nets import inception, resnet_v1

    networks = {
        "resnet_v1_50": (resnet_v1.resnet_v1_50, resnet_v1.resnet_arg_scope),
        "resnet_v1_101": (resnet_v1.resnet_v1_101, resnet_v1.resnet_arg_scope),
        "inception_v3": (inception.inception_v3, inception.inception_v3_arg_scope),
    }
    network, scope = networks[name]
    with np.load(images) as file:
        x, y = file["x_train"], file["y_train"]
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).repeat().batch(32)
    data = data.map(
        lambda image, label: (tf.image.resize(tf.cast(image, tf.float32), (size, size)) / 127.5 - 1, label)
    ).prefetch(2)
    image, label = tf.data.make_one_shot_iterator(data).get_next()
    image.set_shape([32, size, size, 3])
    options = {"create_aux_logits": False} if name == "inception_v3" else {}
    if name == "inception_v3":
        options["spatial_squeeze"] = True
    with slim.arg_scope(scope(weight_decay=0.0)):
        logits, _ = network(image, num_classes=10, is_training=True, **options)
    logits = tf.reshape(logits, [-1, 10])
    loss = tf.losses.sparse_softmax_cross_entropy(label, logits)
    optimizer = tf.train.MomentumOptimizer(1e-3, 0.9, use_nesterov=True)
    train = slim.learning.create_train_op(loss, optimizer)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        pace.ready()
        while True:
            pace.step(session.run(train))


if __name__ == "__main__":
    main(*sys.argv[1:])
