import warnings

import keras
import numpy as np
import pytest

import finetune
from finetune.diagnosis.monitor import BatchNormWarning
from tests.support import small_models

TEST, TRAIN = small_models.images()["test"], small_models.images()["train"]


def fitted(epochs=4, *, jit=False, momentum=small_models.MOMENTUM, **options):
    """(the model, its monitor, its history, the warnings of BatchNorm), after `fit`."""
    keras.utils.set_random_seed(0)
    model = small_models.network(keras, momentum=momentum)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], jit_compile=jit)
    monitor = finetune.BatchNormMonitor(TRAIN, test=TEST, images=100, **options)
    callbacks = [] if options.get("every") == 99 else [monitor]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(*TRAIN, epochs=epochs, batch_size=40, verbose=0, callbacks=callbacks).history
    return model, monitor, history, [one for one in caught if one.category is BatchNormWarning]


@pytest.fixture(scope="module")
def plain():
    """(the model, its history) without a monitor."""
    model, _, history, _ = fitted(every=99)
    return model, history


@pytest.mark.slow
def test_it_warns_by_cause_and_repairs_and_does_not_change_the_training(plain):
    model, monitor, history, caught = fitted(every=2, recalibrate=True)
    assert history["loss"] == plain[1]["loss"]
    for one, other in zip(plain[0].trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert monitor.verdict.cause == "statistics-lag"
    assert len(caught) == 1  # once for a cause
    assert "statistics-lag" in str(caught[0].message)
    assert all(len(history[name]) == 2 for name in ("bn_drift", "bn_false", "bn_true", "bn_recalibrated"))
    assert history["bn_false"][-1] < 0.5 < history["bn_recalibrated"][-1]
    assert history["bn_drift"][-1] > 0.5
    accuracy = [one.evaluate(*TEST, verbose=0)[1] for one in (plain[0], model)]
    assert accuracy[0] < 0.5 < 0.8 < accuracy[1]


@pytest.mark.slow
def test_it_stops_the_training(plain):
    monitor = finetune.BatchNormMonitor(TRAIN, images=40, stop=True)
    monitor.set_model(plain[0])
    plain[0].stop_training = False
    with pytest.warns(BatchNormWarning, match="epoch 1: statistics-lag"):
        monitor.on_epoch_end(0)
    assert plain[0].stop_training


@pytest.mark.slow
def test_it_says_nothing_of_healthy_statistics(plain):
    model, saved = plain[0], plain[0].get_weights()
    finetune.recalibrate_bn(model, TRAIN)
    monitor = finetune.BatchNormMonitor(TRAIN, test=TEST, images=40, stop=True)
    monitor.set_model(model)
    model.stop_training = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", BatchNormWarning)
        monitor.on_epoch_end(0)
    assert monitor.verdict.exit_code != 3
    assert not model.stop_training
    model.set_weights(saved)


@pytest.mark.slow
def test_it_works_under_xla_and_mixed_precision():
    assert fitted(every=4, jit=True)[1].verdict.cause == "statistics-lag"
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        assert fitted(every=4, recalibrate=True)[1].verdict.cause == "statistics-lag"
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_wrong_use_is_refused():
    with pytest.raises(finetune.WrongUse, match="every is 0"):
        finetune.BatchNormMonitor(TRAIN, every=0)
    monitor = finetune.BatchNormMonitor(TRAIN)
    monitor.set_model(
        keras.Sequential([keras.Input(small_models.SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)])
    )
    with pytest.raises(finetune.FinetuneError, match="no BatchNormalization layer to watch"):
        monitor.on_epoch_end(0)
