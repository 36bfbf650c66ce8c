"""The remedy of each cause as code, for a training of the user's own: in Keras, in TF1 and in slim.

`docs/own-training.md` has them all; a test compares the two.
"""

KERAS, TF1, SLIM = "Keras", "TF1", "slim"

_RUN_UPDATES = {
    KERAS: "# in a loop of your own; model.fit does it\nlogits = model(images, training=True)",
    TF1: (
        "updates = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)\n"
        "with tf.control_dependencies(updates):\n"
        "    train_op = optimizer.minimize(loss)"
    ),
    SLIM: (
        "# optimizer.minimize(loss) leaves the updates out\ntrain_op = slim.learning.create_train_op(loss, optimizer)"
    ),
}
_BATCHES = {
    KERAS: "train = train.unbatch().shuffle(10_000).batch(32, drop_remainder=True)",
    TF1: "images, labels = tf.compat.v1.train.shuffle_batch([image, label], 32, 10_000, 5_000)",
    SLIM: "images, labels = tf.compat.v1.train.shuffle_batch([image, label], 32, 10_000, 5_000)",
}
_EVERYTHING = {
    KERAS: 'model.save_weights("model.weights.h5")  # not model.trainable_variables',
    TF1: "saver = tf.compat.v1.train.Saver(tf.compat.v1.global_variables())  # not trainable_variables()",
    SLIM: "saver = tf.compat.v1.train.Saver(slim.get_variables())",
}

SNIPPETS: dict[str, dict[str, str]] = {
    "not-finite": {
        KERAS: "optimizer = keras.optimizers.Adam(1e-4, clipnorm=1.0)",
        TF1: (
            "gradients, variables = zip(*optimizer.compute_gradients(loss))\n"
            "gradients, _ = tf.clip_by_global_norm(gradients, 1.0)\n"
            "train_op = optimizer.apply_gradients(zip(gradients, variables))"
        ),
        SLIM: "train_op = slim.learning.create_train_op(loss, optimizer, clip_gradient_norm=1.0)",
    },
    "statistics-not-saved": _EVERYTHING,
    "updates-never-ran": _RUN_UPDATES,
    "updates-never-ran-since-source": _RUN_UPDATES,
    "wrong-preprocessing": {
        KERAS: (
            "# in the model, so that no caller can forget it; here for pixels in [-1, 1]\n"
            "images = keras.Input((224, 224, 3))\n"
            "features = base(keras.layers.Rescaling(1 / 127.5, offset=-1)(images))"
        ),
        TF1: "images = tf.cast(images, tf.float32) / 127.5 - 1  # the same line in training and evaluation",
        SLIM: (
            "# one function for training, evaluation and export; is_training switches its augmentation alone\n"
            "images = preprocessing_fn(images, size, size)"
        ),
    },
    "not-batchnorm: labels": {
        KERAS: (
            "# the same names, in the same order, wherever data is read\n"
            "names = sorted(train_class_names)\n"
            "test = keras.utils.image_dataset_from_directory(folder, class_names=names)"
        ),
        TF1: "labels = labels - 1  # where the files number their classes from 1, and the network from 0",
        SLIM: "# slim's class 0 may be the background: labels_offset\nlabels = labels - labels_offset",
    },
    "batch-composition": _BATCHES,
    "partially-restored": {
        KERAS: 'model.load_weights("model.weights.h5")  # without skip_mismatch, which leaves layers out silently',
        TF1: (
            "variables = tf.compat.v1.global_variables(scope)  # with the moving statistics\n"
            "tf.compat.v1.train.Saver(variables).restore(session, checkpoint)"
        ),
        SLIM: (
            "variables = slim.get_model_variables(scope)\n"
            "restore = slim.assign_from_checkpoint_fn(checkpoint, variables, ignore_missing_vars=False)"
        ),
    },
    "frozen-base-normalised-by-batch": {
        KERAS: "base.trainable = False\nfeatures = base(images, training=False)",
        TF1: "features = network(images, training=False)  # whatever the head's switch is",
        SLIM: (
            "with slim.arg_scope([slim.batch_norm, slim.dropout], is_training=False):\n    features = network(images)"
        ),
    },
    "frozen-statistics-trained-weights": {
        KERAS: (
            "# freeze the weights with the statistics, or let both move\n"
            "for layer in base.layers:\n"
            "    layer.trainable = False"
        ),
        TF1: "train_op = optimizer.minimize(loss, var_list=head_variables)  # where the statistics stay",
        SLIM: (
            "train_op = slim.learning.create_train_op(loss, optimizer, variables_to_train=head_variables)\n"
            "# or is_training=True for the layers whose weights train"
        ),
    },
    "statistics-lag": {
        KERAS: "x = keras.layers.BatchNormalization(momentum=0.95)(x)  # or finetune.transfer(..., bn_decay=0.95)",
        TF1: "x = tf.compat.v1.layers.batch_normalization(x, momentum=0.95, training=is_training)",
        SLIM: "with slim.arg_scope([slim.batch_norm], decay=0.95):\n    logits = network(images)",
    },
    "averaged-weights-raw-statistics": {
        KERAS: (
            "optimizer.finalize_variable_values(model.trainable_variables)  # the averages become the weights\n"
            "finetune.recalibrate_bn(model, train)"
        ),
        TF1: "average = ema.apply(tf.compat.v1.trainable_variables() + moving_statistics)",
        SLIM: "average = ema.apply(slim.get_model_variables())  # moving statistics are among them",
    },
    "statistics-noisy": {
        KERAS: "x = keras.layers.BatchNormalization(momentum=0.99)(x)  # and batches of 32 or more",
        TF1: "x = tf.compat.v1.layers.batch_normalization(x, momentum=0.99, training=is_training)",
        SLIM: "with slim.arg_scope([slim.batch_norm], decay=0.99):\n    logits = network(images)",
    },
    "trained-in-inference-mode": _RUN_UPDATES,
    "not-batchnorm: undertrained": {
        KERAS: "model.fit(train, epochs=20)",
        TF1: "for step in range(10 * steps):\n    session.run(train_op)",
        SLIM: "slim.learning.train(train_op, folder, number_of_steps=10 * steps)",
    },
    "not-batchnorm: overfitting": {
        KERAS: (
            'flip = keras.layers.RandomFlip("horizontal")  # before the base\n'
            "optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.01)"
        ),
        TF1: "images = tf.image.random_flip_left_right(images)  # of the training images alone",
        SLIM: "with slim.arg_scope(arg_scope(weight_decay=1e-3)):\n    logits = network(images)",
    },
}
"""Cause -> library -> code. `different-data` has none: its test images must be made as the training images are."""
