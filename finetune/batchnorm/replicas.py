"""Batch statistics over the replicas of `tf.distribute`. Every replica holds an equal share of the global batch.

Outside a step on several replicas the count is one, and all functions are the identity.
"""

import tensorflow as tf


def count() -> int:
    """Number of replicas of the step that is being traced."""
    context = tf.distribute.get_replica_context()
    return int(context.num_replicas_in_sync) if context else 1


def mean(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Each of `values`, averaged over the replicas. No gradient is needed."""
    if count() == 1:
        return values
    reduced = tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, [value / count() for value in values]
    )
    return list(reduced)


def moments(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and population variance `[channels]` of float32 `[share, height, width, channels]` over all replicas.

    As "cross-GPU BatchNorm" (Peng et al. 2018, MegDet, section 3.3), except that the replicas exchange means and
    variances instead of sums and squares. The variance of the whole follows by the parallel formula (Chan, Golub &
    LeVeque 1979); `E[x^2] - E[x]^2` would cancel in float32. There is one exchange in each direction.
    """
    own = tf.stack(tf.nn.moments(values, [0, 1, 2]))
    context = tf.distribute.get_replica_context()
    row = tf.one_hot(context.replica_id_in_sync_group, count())
    # A sum in which every replica fills its own row is a gather. Its gradient is again a sum over replicas.
    rows = context.all_reduce(tf.distribute.ReduceOp.SUM, row[:, None, None] * own)
    means, variances = rows[:, 0], rows[:, 1]
    whole = tf.reduce_mean(means, axis=0)
    return whole, tf.reduce_mean(variances + tf.square(means - whole), axis=0)
