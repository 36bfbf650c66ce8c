"""float16 with loss scaling, against float32, Keras's LossScaleOptimizer, and NumPy."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune.batchnorm.surgery import bn_layers
from finetune.config import RunConfig, check_config
from finetune.errors import FinetuneError, Interrupted, WrongUse
from finetune.training.loop import kernels, loss_scale
from finetune.training.loop import optimizer as optimizers
from finetune.training.loop.loss_scale import LossScale, Statistics
from finetune.training.loop.state import State
from finetune.training.loop.step import TrainStep
from finetune.training.loop.train import ImageFeed, train
from tests.unit.training.loop.test_kernels import IMAGES, LABELS, small
from tests.unit.training.loop.test_train import CONFIG, Listener, classifier, dataset, untimed

SETTINGS = RunConfig(
    "x", optimizer="sgd", learning_rate=0.05, schedule="constant", weight_decay=0.01, precision="float16"
)


def with_a_head():
    """A small model whose head lets gradients pass: it starts at zero otherwise."""
    model = small()
    head = model.layers[-1].kernel
    head.assign(np.random.default_rng(1).normal(0, 0.3, head.shape))
    return model


def steps(count, *, images=IMAGES, **how):
    """(losses, the model, its optimizer, values of all variables before) of some steps."""
    model, config = with_a_head(), dataclasses.replace(SETTINGS, **how)
    variables = model.trainable_variables
    optimizer = optimizers.build(config, variables, steps=count)
    before = [np.array(one) for one in model.variables]
    step = TrainStep(model, optimizer, variables, config).traced()
    losses = [float(step(images, LABELS)[0]) for _ in range(count)]
    return losses, model, optimizer, before


def test_gradients_are_those_of_float32():
    found = {}
    for precision in ("float32", "float16"):
        model = with_a_head()
        config = dataclasses.replace(SETTINGS, precision=precision)
        optimizer = optimizers.build(config, model.trainable_variables, steps=1)
        step = TrainStep(model, optimizer, model.trainable_variables, config)

        @tf.function(autograph=False)
        def gradients(step=step, model=model, precision=precision):
            with kernels.chosen(model, precision):
                return step._gradient(tf.constant(IMAGES), tf.constant(LABELS, tf.int64), tf.constant(16))[0]

        scale = 1.0 if precision == "float32" else 2.0**15
        found[precision] = [np.asarray(one, np.float64) / scale for one in gradients()]
        found[precision] += [np.array(one, np.float64) for one in Statistics(model).current()]
    for own, expected in zip(found["float16"], found["float32"], strict=True):
        # 11 bits a product, and sums of some hundreds of them: one part in a hundred of the largest.
        np.testing.assert_allclose(own, expected, atol=0.01 * np.abs(expected).max())


def test_it_learns_as_float32_does():
    expected, *_ = steps(20, precision="float32")
    found, model, optimizer, _ = steps(20)
    np.testing.assert_allclose(found, expected, rtol=0.05)
    assert found[-1] < 0.7 * found[0]
    assert {str(one.dtype) for one in model.trainable_variables} == {"float32"}
    assert int(optimizer.iterations) == 20
    assert int(optimizer.loss_scale.skipped_steps) == 0


def test_the_batch_statistics_are_summed_in_float32():
    """Of 16-bit maps of 1 + small, whose sum of squares has no digits left in float16."""
    values = (1 + np.random.default_rng(0).normal(0, 0.01, (16, 8, 8, 8))).astype(np.float16)
    layer = bn_layers(small())[0]
    outputs, mean, variance = layer._fused(tf.constant(values), batch=True)
    wide = np.float64(values)
    assert (outputs.dtype, mean.dtype, variance.dtype) == (tf.float16, tf.float32, tf.float32)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, wide.var(axis=(0, 1, 2), ddof=1), rtol=1e-3)


def test_an_overflow_changes_nothing_but_the_scale(monkeypatch):
    """Weights, moving statistics, the optimizer's averages and its count of steps stay, to the bit."""
    monkeypatch.setattr(loss_scale, "INITIAL", 2.0**40)
    losses, model, optimizer, before = steps(1, ema=0.9)
    assert np.isfinite(losses[0])
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert float(optimizer.loss_scale.value) == 2.0**39
    assert (int(optimizer.iterations), int(optimizer.loss_scale.skipped_steps)) == (0, 1)
    changed = [one.path for one in optimizer.variables if one.path.rpartition("/")[2] not in _COUNTERS]
    untouched = optimizers.build(dataclasses.replace(SETTINGS, ema=0.9), with_a_head().trainable_variables, steps=1)
    for one, other in zip(optimizer.variables, untouched.variables, strict=True):
        if one.path in changed:
            np.testing.assert_array_equal(one, other, err_msg=one.path)


_COUNTERS = ("loss_scale", "finite_steps", "skipped_steps")


def test_it_recovers_from_a_scale_that_is_far_too_large(monkeypatch):
    monkeypatch.setattr(loss_scale, "INITIAL", 2.0**40)
    losses, _, optimizer, _ = steps(40)
    skipped = int(optimizer.loss_scale.skipped_steps)
    assert 10 < skipped < 35
    assert float(optimizer.loss_scale.value) == 2.0 ** (40 - skipped)
    assert int(optimizer.iterations) == 40 - skipped
    assert len(set(losses[:skipped])) == 1  # the same weights
    assert losses[-1] < losses[0]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("how", [{}, {"microbatch": 8}])
def test_a_corrupt_batch_does_not_reach_the_moving_statistics(how):
    """The cause not-finite of the diagnosis: loss scaling skips the step after the batch has reached them."""
    images = IMAGES.copy()
    images[3] = np.nan
    losses, model, _, before = steps(1, images=images, **how)
    assert np.isnan(losses[0])
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    # The same batch in float32 does reach them.
    _, model, *_ = steps(1, images=images, precision="float32", **how)
    assert np.isnan(bn_layers(model)[0].moving_mean).any()


def test_the_scale_is_keras_own(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    finite = [1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    value = keras.Variable([1.0])
    stock = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), 2.0**15, dynamic_growth_steps=3)
    stock.build([value])
    own, ours = keras.Variable([1.0]), keras.optimizers.SGD(0.5)
    scale = LossScale(ours)
    ours.build([own])
    kept = Statistics(small())
    for one in finite:
        gradient = tf.constant([2.0**14 if one else np.inf])
        stock.apply([gradient], [value])
        scale.step([gradient], lambda gradients: ours.apply(gradients, [own]), kept, tf.constant(1.0))
        assert float(scale.value) == float(stock.dynamic_scale)
        np.testing.assert_array_equal(own, value)
    assert int(scale.skipped_steps) == finite.count(0)


@pytest.mark.slow
def test_clipping_sees_unscaled_gradients():
    free, clipped = (steps(1, clip_norm=norm)[1] for norm in (None, 1e3))
    for one, other in zip(free.variables, clipped.variables, strict=True):
        np.testing.assert_array_equal(one, other)


FLOAT16 = dataclasses.replace(CONFIG, precision="float16")


def looped(stop_at=None, path=None, resume_from=None):
    model, listener = classifier(), Listener(stop_at=stop_at, path=path)
    history = train(ImageFeed(model, dataset(), FLOAT16), FLOAT16, listener, resume_from=resume_from)
    return history, [np.array(one) for one in model.variables]


@pytest.mark.slow
def test_it_resumes_to_the_bit(monkeypatch, tmp_path):
    monkeypatch.setattr(loss_scale, "INITIAL", 2.0**26)  # some steps are skipped before the interruption and after it
    history, expected = looped()
    assert history[0]["skipped_steps"] > 0
    assert history[-1]["loss_scale"] == 2.0 ** (26 - history[-1]["skipped_steps"])
    with pytest.raises(Interrupted):
        looped(stop_at=2, path=tmp_path / "state.npz")
    again, found = looped(resume_from=State.load(tmp_path / "state.npz"))
    assert untimed(again) == untimed(history)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_scale_that_cannot_help_is_an_error(monkeypatch):
    monkeypatch.setattr(loss_scale, "INITIAL", 1.0)
    monkeypatch.setattr(tf.math, "is_finite", lambda value: tf.zeros_like(value, tf.bool))
    with pytest.raises(FinetuneError, match=r"not finite at a loss scale of 1 .*leave --precision float16 out"):
        looped()


def test_several_replicas_are_refused():
    with pytest.raises(WrongUse, match="--distribute mirrored and --precision float16"):
        check_config(dataclasses.replace(SETTINGS, distribute="mirrored"))
    check_config(dataclasses.replace(SETTINGS, distribute="mirrored", precision="bfloat16"))
