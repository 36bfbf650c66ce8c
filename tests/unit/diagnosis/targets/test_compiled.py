"""What files say of their training: the steps that Keras took, its loss, its averages."""

import h5py
import keras
import numpy as np
import pytest
import tf_keras

from finetune.diagnosis.targets.compiled import trained_on_binary, training_of

pytestmark = pytest.mark.filterwarnings("ignore:You are saving")
STEPS = 3


def trained(library, optimizer):
    """A model of one unit after three steps."""
    model = library.Sequential([library.Input((4,)), library.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer, "binary_crossentropy", run_eagerly=True)
    for _ in range(STEPS):
        model.train_on_batch(np.ones((2, 4), "float32"), np.ones((2, 1), "float32"))
    return model


@pytest.mark.parametrize(
    ("library", "optimizer", "suffix", "averages"),
    [
        (tf_keras, tf_keras.optimizers.legacy.Adam(), ".h5", None),
        (tf_keras, tf_keras.optimizers.legacy.SGD(momentum=0.9), ".h5", None),
        (tf_keras, tf_keras.optimizers.Adam(use_ema=True), ".h5", True),
        (tf_keras, tf_keras.optimizers.RMSprop(), ".keras", False),
        (keras, keras.optimizers.SGD(), ".keras", False),
        (keras, keras.optimizers.Adam(), ".h5", False),
    ],
)
def test_the_steps_are_those_that_keras_took(library, optimizer, suffix, averages, tmp_path):
    path = tmp_path / f"own{suffix}"
    trained(library, optimizer).save(path)
    assert training_of(path) == (STEPS, averages)
    assert trained_on_binary(path, None)


@pytest.mark.parametrize("name", ["training/Adam/iterations:0", "Adam_1/iter:0", "SGD/iterations_2:0", "iteration:0"])
def test_the_counter_has_a_name_in_each_version(name, tmp_path):
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file[f"optimizer_weights/{name}"] = np.float32(STEPS)  # Keras 2.0 counted in floats
        file["optimizer_weights/training/Adam/beta_1:0"] = np.float32(0.9)
    assert training_of(tmp_path / "own.h5") == (STEPS, None)


def test_a_file_that_says_nothing(tmp_path):
    tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(1)]).save(tmp_path / "own.h5")
    (tmp_path / "other").write_bytes(b"no model")
    for name in ("own.h5", "other", "missing"):
        assert training_of(tmp_path / name) == (None, None)
        assert not trained_on_binary(tmp_path / name, None)
