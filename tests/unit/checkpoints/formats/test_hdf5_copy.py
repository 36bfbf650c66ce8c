"""A copy of a Keras file of weights: the values that are given change, every other one stays, and Keras loads it."""

import keras
import numpy as np
import pytest

from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from checkpoints.formats.hdf5_copy import write_keras_copy


def network():
    image = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(4, 3, name="conv")(image))
    return keras.Model(image, keras.layers.Dense(2, name="top")(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".weights.h5", ".h5", ".keras"])
def test_only_the_given_values_change(tmp_path, ending):
    model, path, out = network(), tmp_path / f"x{ending}", tmp_path / f"y{ending}"
    model.save_weights(path) if ending == ".weights.h5" else model.save(path)
    opened = open_checkpoint(path)
    name = next(one for one in opened.shapes if one.endswith(("bn/moving_mean", "batch_normalization/vars/2")))
    value = np.arange(4, dtype=np.float32)
    write_keras_copy(out, opened, {name: value})
    copied = open_checkpoint(out)
    assert list(copied.shapes) == list(opened.shapes)
    for one in opened.shapes:
        np.testing.assert_array_equal(copied.read(one), value if one == name else opened.read(one))
    again = network()
    again.load_weights(out)
    np.testing.assert_array_equal(again.get_layer("bn").moving_mean, value)
    np.testing.assert_array_equal(again.get_layer("top").kernel, model.get_layer("top").kernel)


def test_a_value_without_a_place_leaves_nothing(tmp_path):
    network().save(tmp_path / "x.h5")
    with pytest.raises(CheckpointError, match=r"x\.h5 has no place for nowhere/mean \(1 of 1 values\)"):
        write_keras_copy(tmp_path / "y.h5", open_checkpoint(tmp_path / "x.h5"), {"nowhere/mean": np.zeros(2)})
    assert not (tmp_path / "y.h5").exists()
