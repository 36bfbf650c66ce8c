"""A recalibrated copy differs in the values of moving statistics, and Keras 2 loads it with these."""

import zipfile

import h5py
import numpy as np
import pytest
import tf_keras
from tf_keras import layers

from finetune.backbone import open_model, write_back
from finetune.backbone.keras_2.legacy_file import open_legacy
from finetune.batchnorm.live import normalisations
from tests.support import keras_2_files as files


def mixed(path):
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return files.written(files.model(files.conv), path)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")


def nested(path):
    """Two BatchNorm layers in a model, one of them frozen, and one outside."""

    def body(x):
        inner = files.base()
        inner.layers[2].trainable = False
        return layers.BatchNormalization()(layers.Conv2D(6, 1)(inner(x, training=False)))

    return files.written(files.model(body), path)


def plain(path):
    return files.written(files.model(files.conv), path)


def synchronised(path):
    return files.written(files.model(lambda x: files.conv(x, layers.experimental.SyncBatchNormalization)), path)


def of_2_12(separator):
    def make(path):
        files.as_before_2_15(nested(path), separator)
        return path

    return make


KINDS = {
    **{f"{make.__name__}{suffix}": (make, suffix) for make in (plain, nested, mixed) for suffix in (".h5", ".keras")},
    "synchronised.h5": (synchronised, ".h5"),
    "2.12.keras": (of_2_12("/"), ".keras"),
    "2.12 on Windows.keras": (of_2_12("\\"), ".keras"),
}


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_statistics_differ(kind, tmp_path):
    make, suffix = KINDS[kind]
    path, out = make(tmp_path / f"own{suffix}"), tmp_path / f"copy{suffix}"
    before = path.read_bytes()
    model = open_model(path)
    rng = np.random.default_rng(5)
    for layer in normalisations(model):
        layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape))
        layer.moving_variance.assign(rng.uniform(1, 2, layer.moving_mean.shape))
    write_back(model, path, out)
    assert path.read_bytes() == before
    if suffix == ".keras":
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(out) as new:
            assert old.namelist() == new.namelist()
            assert all(old.read(name) == new.read(name) for name in old.namelist() if name != "model.weights.h5")
            for file, name in ((old, "old"), (new, "new")):
                (tmp_path / name).write_bytes(file.read("model.weights.h5"))
        changed, total = differences(tmp_path / "old", tmp_path / "new")
    else:
        changed, total = differences(path, out)
        assert all("moving_" in name for name in changed)
    assert (len(changed), total > 6) == (2 * len(normalisations(model)), True)
    again = tf_keras.models.load_model(out, compile=False) if "2.12" not in kind else open_legacy(out)
    images = files.images()
    got, expected = again(images, training=False).numpy(), np.asarray(model(images, training=False))
    np.testing.assert_allclose(got, expected, atol=2e-3 if "mixed" in kind else 1e-6)
    np.testing.assert_array_equal(normalisations(again)[0].moving_mean, normalisations(model)[0].moving_mean)


def differences(old, new):
    """(the datasets that differ, how many there are); attributes and all else must be equal."""
    changed, total = [], 0
    with h5py.File(old) as first, h5py.File(new) as second:
        assert repr(dict(first.attrs)) == repr(dict(second.attrs))

        def compare(name, place):
            nonlocal total
            other = second[name]
            assert repr(dict(place.attrs)) == repr(dict(other.attrs))
            if isinstance(place, h5py.Dataset):
                total += 1
                assert (place.dtype, place.shape) == (other.dtype, other.shape)
                if not np.array_equal(place[()], other[()]):
                    changed.append(name)

        first.visititems(compare)
    return changed, total
