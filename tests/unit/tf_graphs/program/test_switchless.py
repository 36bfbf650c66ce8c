"""Programs with `is_training` a Python bool, as people write them: either of their graphs gives both modes."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.training.moving_averages import assign_moving_average
from tf_keras.src.legacy_tf_layers.normalization import batch_normalization

from finetune.errors import FinetuneError
from finetune.tf_graphs import open_graph
from tests.support.tf1_forms import arrays, conv, head, images, save_both, v1


def program(forms, dense=(), *, trained=slice(-1, None)):
    """A network with a layer of each of `forms` (and `dense`, after a matrix), its dropout, loss and train op.

    trained: the part of the weights that the train op trains, by default the last: gradients take most of the time.
    """

    def build(training):
        h = x = images()
        for index, form in enumerate(forms):
            h = tf.nn.relu(form(conv(h, f"conv{index}"), training, f"bn{index}"))
        h = tf.reduce_mean(h, [1, 2])
        for index, form in enumerate(dense):
            matrix = v1.get_variable(f"matrix{index}", [h.shape[-1], 5])
            h = tf.nn.relu(form(tf.matmul(h, matrix), training, f"dense{index}"))
        logits, loss = head(tf.nn.dropout(h, rate=1e-9) if training else h)
        with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
            v1.train.GradientDescentOptimizer(0.1).minimize(loss, var_list=v1.trainable_variables()[trained])
        return x, logits

    return build


def axes(x):
    return list(range(x.shape.rank - 1))


def population(x, training, name):
    """pop_mean and pop_var, assigned before the normalisation (r2rt's blog, and whoever read it)."""
    gamma, beta, mean, variance = arrays(name, x.shape[-1], "gamma", "beta", "pop_mean", "pop_var")
    if not training:
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)
    m, v = tf.nn.moments(x, axes(x))
    updates = [v1.assign(mean, mean * 0.9 + m * (1 - 0.9)), v1.assign(variance, variance * 0.9 + v * (1 - 0.9))]
    with tf.control_dependencies(updates):
        return tf.nn.batch_normalization(x, m, v, beta, gamma, 1e-3)


def averaged_moments(zero_debias):
    """ema.apply([mean, variance]), whose variables are called like the moments and start at 0 and 0."""

    def batch_norm(x, training, name):
        with v1.variable_scope(name):
            beta, gamma = arrays("x", x.shape[-1], "beta", "gamma")
            m, v = tf.nn.moments(x, axes(x), name="moments")
            ema = tf.train.ExponentialMovingAverage(0.9, zero_debias=zero_debias)
            update = ema.apply([m, v])
            if training:
                with tf.control_dependencies([update]):
                    m, v = tf.identity(m), tf.identity(v)
            else:
                m, v = ema.average(m), ema.average(v)
            return tf.nn.batch_normalization(x, m, v, beta, gamma, 1e-3)

    return batch_norm


def fused_outputs(x, training, name):
    """Averages of what the fused operation gives, by assign_sub in UPDATE_OPS."""
    gamma, beta, mean, variance = arrays(name, x.shape[-1], "gamma", "beta", "moving_mean", "moving_variance")
    if not training:
        return v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, is_training=False)[0]
    y, m, v = v1.nn.fused_batch_norm(x, gamma, beta)
    for moving, batch in ((mean, m), (variance, v)):
        v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, v1.assign_sub(moving, (1 - 0.9) * (moving - batch)))
    return y


def moving_average(zero_debias):
    """assign_moving_average of Google's Inception and ResNet, with what TensorFlow's zero_debias adds."""

    def batch_norm(x, training, name):
        with v1.variable_scope(name):
            beta, mean, variance = arrays("bn", x.shape[-1], "beta", "mu", "sigma2_var")
            m, v = (mean, variance) if not training else tf.nn.moments(x, axes(x))
            if training:
                updates = [assign_moving_average(a, b, 0.9, zero_debias) for a, b in ((mean, m), (variance, v))]
                with tf.control_dependencies(updates):
                    x = tf.identity(x)
            return tf.nn.batch_normalization(x, m, v, beta, None, 1e-5)

    return batch_norm


def formula(x, training, name):
    """gamma * (x - mean) / sqrt(variance + eps) + beta, and E[x^2] - E[x]^2."""
    gamma, beta, mean, variance = arrays(name, x.shape[-1], "gamma", "beta", "running_mean", "running_var")
    m, v = mean, variance
    if training:
        m = tf.reduce_mean(x, axes(x))
        v = tf.reduce_mean(x * x, axes(x)) - tf.square(m)
        for one, value in ((mean, m), (variance, v)):
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, one.assign(0.9 * one + 0.1 * value).op)
    return gamma * (x - m) / tf.sqrt(v + 1e-3) + beta


def sums(shifted):
    """tf.nn.moments as it was in TensorFlow 1.0 (sums over a count), and shifted as in 1.1; kept axes; no gamma."""

    def batch_norm(x, training, name):
        beta, mean, variance = arrays(name, x.shape[-1], "beta", "m", "var")
        m, v = mean, variance
        if training:
            if shifted:
                shift = tf.stop_gradient(tf.reduce_mean(x, axes(x), keepdims=True))
                short = tf.reduce_mean(x - shift, axes(x), keepdims=True)
                v = tf.reduce_mean(tf.math.squared_difference(x, shift), axes(x), keepdims=True) - tf.square(short)
                m = short + shift
            else:
                divisor = tf.math.reciprocal(tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32))
                m = tf.reduce_sum(x, axes(x)) * divisor
                v = tf.reduce_sum(tf.square(x), axes(x)) * divisor - tf.square(m)
            for one, value in ((mean, m), (variance, v)):
                value = tf.reshape(value, [-1])
                v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, v1.assign_add(one, 0.1 * (value - one)))
        return tf.nn.batch_normalization(x, m, v, beta, None, 1e-3)

    return batch_norm


def channels_first(x, training, name):
    """Statistics reshaped for channels that come first; moments taken twice, for the average and for x."""
    gamma, beta, mean, variance = arrays(name, x.shape[-1], "gamma", "beta", "avg", "var")
    x, shape = tf.transpose(x, [0, 3, 1, 2]), [1, x.shape[-1], 1, 1]
    m, v = (tf.reshape(each, shape) for each in (mean, variance))
    if training:
        for one, value in zip((mean, variance), tf.nn.moments(x, [0, 2, 3]), strict=True):
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, one.assign_sub(0.1 * (one - value)))
        m, v = tf.nn.moments(x, [0, 2, 3], keepdims=True)
    y = tf.nn.batch_normalization(x, m, v, tf.reshape(beta, shape), tf.reshape(gamma, shape), 1e-3)
    return tf.transpose(y, [0, 2, 3, 1])


def layers(fused):
    def batch_norm(x, training, name):
        return batch_normalization(x, training=training, momentum=0.9, fused=fused, name=name)

    return batch_norm


FORMS = (
    population,
    averaged_moments(False),
    averaged_moments(True),
    fused_outputs,
    moving_average(False),
    moving_average(True),
    formula,
    sums(False),
    sums(True),
    channels_first,
    layers(True),
    layers(False),
)
DENSE = (population, averaged_moments(False), layers(False))


@pytest.mark.filterwarnings("ignore:`tf.layers.batch_normalization` is deprecated")
@pytest.mark.parametrize("v2", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_either_graph_gives_what_the_sessions_of_both_give(tmp_path, v2):
    saved = save_both(tmp_path, program(FORMS, DENSE, trained=slice(None) if v2 else slice(-1, None)), v2=v2)
    assert np.abs(saved.true - saved.false).max() > 0.01
    for path, made in ((saved.training, "False"), (saved.testing, "True")):
        subject = open_graph(path, saved.checkpoint)
        assert len(subject.layers) == len(FORMS + DENSE)
        for mode, logits in (("batch", saved.true), ("moving", saved.false)):
            np.testing.assert_allclose(subject.forward(mode)(saved.images)[0], logits, atol=1e-4, err_msg=mode)
        assert any(f"without a switch: is_training={made} is made from it" in line for line in subject.lines)
        if path == saved.training:
            assert set(subject.decay.values()) == {0.9}
            assert subject.facts.wiring.train_op_runs_updates
            assert any("dropout off in both modes" in line for line in subject.lines)


def estimator(training):
    """TensorFlow's official ResNet in a `tf.estimator`: an iterator in front, channels first, updates beside the train
    op in a group, the loss with its decay of weights."""
    pairs = tf.data.Dataset.from_tensor_slices((np.zeros((9, 16, 16, 3), np.float32), np.zeros(9, np.int64)))
    pairs = pairs.shuffle(9).map(lambda x, y: (tf.image.random_flip_left_right(x), y)).repeat().batch(8)
    x, labels = v1.data.make_one_shot_iterator(pairs).get_next()
    h = tf.transpose(x, [0, 3, 1, 2])
    for index in range(2):
        h = tf.pad(h, [[0, 0], [0, 0], [1, 1], [1, 1]])
        h = conv(h, f"conv{index}", "NCHW")
        h = tf.nn.relu(batch_normalization(h, axis=1, training=training, momentum=0.997, epsilon=1e-5, fused=True))
    h = tf.squeeze(tf.reduce_mean(h, [2, 3], keepdims=True), [2, 3])
    logits = tf.identity(tf.matmul(h, v1.get_variable("dense/kernel", [6, 3])), "final_dense")
    tf.nn.softmax(logits, name="softmax_tensor")
    loss = v1.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
    loss += 1e-4 * tf.add_n([tf.nn.l2_loss(one) for one in v1.trainable_variables()])
    step = v1.train.get_or_create_global_step()
    minimised = v1.train.MomentumOptimizer(0.1, 0.9).minimize(loss, step) if training else tf.no_op()
    v1.add_to_collection("train_op", tf.group(minimised, *v1.get_collection(v1.GraphKeys.UPDATE_OPS)))
    return x, logits


@pytest.mark.filterwarnings("ignore:`tf.layers.batch_normalization` is deprecated")
def test_the_directory_of_an_estimator(tmp_path):
    saved = save_both(tmp_path, estimator)
    assert np.abs(saved.true - saved.false).max() > 0.01
    subject = open_graph(tmp_path)
    for mode, logits in (("batch", saved.true), ("moving", saved.false)):
        np.testing.assert_allclose(subject.forward(mode)(saved.images)[0], logits, atol=2e-6, err_msg=mode)
    assert [*subject.decay.values()] == [pytest.approx(0.997)] * 2
    assert subject.facts.updates == 7


def deviation(formula):
    """Averages in UPDATE_OPS, and `formula` of x, mean, variance, gamma, beta."""

    def batch_norm(x, training, name):
        gamma, beta, mean, variance = arrays(name, x.shape[-1], "gamma", "beta", "moving_mean", "moving_variance")
        m, v = tf.nn.moments(x, axes(x)) if training else (mean, variance)
        for one, value in ((mean, m), (variance, v)) if training else ():
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, assign_moving_average(one, value, 0.9, zero_debias=False))
        return formula(x, m, v, gamma, beta)

    return batch_norm


def scaled(x, m, scale, beta):
    return x * scale + (beta - m * scale)


def virtual_batches(x, training, name):
    return batch_normalization(x, training=training, momentum=0.9, virtual_batch_size=4, name=name)


DEVIATIONS = (
    deviation(lambda x, m, v, gamma, beta: gamma * (x - m) / (tf.sqrt(v) + 1e-3) + beta),
    deviation(lambda x, m, v, gamma, beta: (x - m) * tf.pow(v + 1e-3, -0.5) * gamma + beta),
    deviation(lambda x, m, v, gamma, beta: (x - m) / tf.pow(v + 1e-3, 0.5) * gamma + beta),
    deviation(lambda x, m, v, gamma, beta: scaled(x, m, gamma / tf.sqrt(v + 1e-3), beta)),
    deviation(lambda x, m, v, gamma, beta: (x - m) * (1.0 / tf.sqrt(v + 1e-3)) * gamma + beta),
    deviation(lambda x, m, v, gamma, beta: (x - m) / tf.sqrt(tf.maximum(v, 1e-3)) * gamma + beta),
    deviation(lambda x, m, v, gamma, beta: tf.math.divide_no_nan(x - m, tf.sqrt(v)) * gamma + beta),
)


@pytest.mark.filterwarnings("ignore:`tf.layers.batch_normalization` is deprecated")
@pytest.mark.parametrize(
    ("forms", "of_tests"), [(DEVIATIONS, True), ((virtual_batches,), False)], ids=["deviations", "virtual batches"]
)
def test_every_way_of_writing_the_deviation(tmp_path, forms, of_tests):
    """A graph for tests does not show that training used virtual batches."""
    saved = save_both(tmp_path, program(forms))
    assert np.abs(saved.true - saved.false).max() > 0.01
    for path in (saved.training, saved.testing) if of_tests else (saved.training,):
        subject = open_graph(path, saved.checkpoint)
        assert len(subject.layers) == len(forms)
        logits, measured = subject.forward("batch")(saved.images)
        np.testing.assert_allclose(logits, saved.true, atol=1e-4)
        np.testing.assert_allclose(subject.forward("moving")(saved.images)[0], saved.false, atol=1e-4)
        assert {n for _, _, n in measured} == {8 * 16 * 16}
    kernel = tf.train.load_checkpoint(str(saved.checkpoint)).get_tensor("conv0/kernel")
    mean, variance, _ = measured[0]
    seen = tf.nn.conv2d(saved.images.astype(np.float64), kernel.astype(np.float64), 1, "SAME").numpy()
    np.testing.assert_allclose(mean, seen.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(variance, seen.var((0, 1, 2)), rtol=1e-5)


def root_taken_twice(x, m, v, gamma, beta):
    return x * (gamma * tf.pow(v + 1e-3, -0.5)) + (beta - m * (gamma * tf.pow(v + 1e-3, -0.5)))


def groups(x, training, name):
    """Ghost batches by hand: moments of parts of the batch."""
    gamma, beta, mean, variance = arrays(name, x.shape[-1], "gamma", "beta", "moving_mean", "moving_variance")
    if not training:
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)
    parts = tf.reshape(x, [2, 4, 16, 16, x.shape[-1]])
    m, v = tf.nn.moments(parts, [1, 2, 3], keepdims=True)
    for one, value in ((mean, m), (variance, v)):
        v1.assign(one, 0.9 * one + 0.1 * tf.reduce_mean(tf.reshape(value, [2, -1]), 0))
    return tf.reshape(tf.nn.batch_normalization(parts, m, v, beta, gamma, 1e-3), tf.shape(x))


@pytest.mark.parametrize(
    ("form", "graphs"), [(deviation(root_taken_twice), ("training", "testing")), (groups, ("training",))]
)
def test_an_unknown_form_is_not_taken_for_a_network_without_batchnorm(tmp_path, form, graphs):
    saved = save_both(tmp_path, program((form,)))
    for name in graphs:
        with pytest.raises(FinetuneError, match=r"in a form that is not known .*is_training a placeholder"):
            open_graph(getattr(saved, name), saved.checkpoint)
