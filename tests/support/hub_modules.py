"""SavedModels as TensorFlow Hub's ImageNet modules were made: TF1 slim graphs, wrapped, their update ops honoured."""

import warnings

import tensorflow as tf
from tensorflow.python.eager.wrap_function import VariableHolder, WrappedGraph

from finetune.inference.reference import mend
from tests.support import slim_oracle

SCOPE = "thin"
CONV1 = f"{SCOPE}/conv1"


def write(path, *, momentum=True, training=True, size=None, wrap=lambda features: features, decay=0.9, seed=0):
    """Write a thin slim ResNet v1 for images in [0, 1] to `path`; returns its variables by name.

    momentum, training: whether `__call__` takes them; without momentum the decay is `decay`.
    """
    mend()
    holder = VariableHolder(share_variables=True)
    graph = WrappedGraph(variable_holder=holder)
    images = tf.TensorSpec([None, size, size, 3], tf.float32)
    share = tf.TensorSpec([], tf.float32)
    tf.compat.v1.disable_tensor_equality()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tf_slim calls what TensorFlow deprecates
            functions = {flag: graph.wrap_function(_network(flag), [images, share], name=f"is_training_{flag}")
                         for flag in (False, True)}  # fmt: skip
    finally:
        tf.compat.v1.enable_tensor_equality()
    variables = {variable.name.removesuffix(":0"): variable for variable in holder.variables.values()}
    values = slim_oracle.random_variables({name: one.shape.as_list() for name, one in variables.items()}, seed)
    for name, variable in variables.items():
        variable.assign(values[name])
    module = tf.train.Checkpoint()
    module.variables = list(variables.values())
    module.trainable_variables = [one for one in module.variables if one.trainable]
    module.regularization_losses = []
    if momentum and training:

        @tf.function
        def call(inputs, training=False, batch_norm_momentum=0.99):
            return wrap(functions[training](inputs, batch_norm_momentum))

        for flag in (False, True):
            call.get_concrete_function(images, training=flag, batch_norm_momentum=share)
    elif training:

        @tf.function
        def call(inputs, training=False):
            return wrap(functions[training](inputs, tf.constant(decay)))

        for flag in (False, True):
            call.get_concrete_function(images, training=flag)
    else:
        call = tf.function(lambda inputs: wrap(functions[False](inputs, tf.constant(decay))), input_signature=[images])
    module.__call__ = call
    tf.saved_model.save(module, str(path))
    return values


def _network(is_training):
    import tf_slim as slim
    from tf_slim.nets import resnet_v1 as nets

    def build(images, decay):
        updates = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)
        before = len(updates)
        with (
            tf.compat.v1.variable_scope(SCOPE, reuse=tf.compat.v1.AUTO_REUSE),
            slim.arg_scope(nets.resnet_arg_scope(weight_decay=0.0, batch_norm_decay=decay)),
            slim.arg_scope([slim.batch_norm], is_training=is_training),
        ):
            x = slim.conv2d(images * 2.0 - 1.0, 8, 3, scope="conv1")
            blocks = [nets.resnet_v1_block("block1", 4, 1, stride=1)]
            pooled, _ = nets.resnet_v1(x, blocks, None, is_training, include_root_block=False, scope="body")
        updates = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.UPDATE_OPS)[before:]
        with tf.control_dependencies(updates):
            return tf.squeeze(pooled, [1, 2])

    return build
