"""Where catalogue, network, weights and BN meet: the real ImageNet weights, and what is refused."""

import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from checkpoints.catalog.lookup import find_row
from checkpoints.errors import CheckpointError
from finetune.backbone import load_backbone
from finetune.batchnorm.surgery import BatchNormOptions, bn_layers
from finetune.errors import WrongUse
from finetune.inference.verification import read_photos, verify
from tests.support.places import SHARED

FILES = {
    "slim-v1": ("mobilenet_v1_0.25", SHARED / "checkpoints/slim/v1/mobilenet_v1_0.25_224.ckpt"),
    "keras": ("keras/mobilenet_0.25", SHARED / "checkpoints/keras/mobilenet_2_5_224_tf.h5"),
    "slim-v2": ("mobilenet_v1_0.25", SHARED / "checkpoints/slim/v2/mobilenet_v1_0.25_224.ckpt"),
}
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real weights and photos: {SHARED} is absent")


@real
@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("kind", FILES)
def test_real_weights_classify_real_photos(kind):
    name, path = FILES[kind]
    photos = SHARED / "data/imagenet_photos"
    verified = verify(name, checkpoint=path, photos=photos)
    assert (verified.photos.correct, verified.photos.correct_top5, verified.photos.examples) == (60, 83, 100)


@pytest.mark.slow
@real
def test_the_same_features_from_all_three_files():
    images = read_photos(SHARED / "data/imagenet_photos").at(224).images[:8].astype(np.float32) / 127.5 - 1
    features = []
    for name, path in FILES.values():
        loaded = load_backbone(find_row(name), image_size=224, checkpoint=path)
        features.append(loaded.model(images, training=False).numpy())
    for other in features[1:]:
        np.testing.assert_allclose(other, features[0], atol=1e-5 * np.abs(features[0]).max())


# MobileNet's depthwise layers, ResNet's names, a graph whose published files carry other names than the network.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "application", "size"),
    [
        ("keras/mobilenet_0.5", lambda: keras.applications.MobileNet(weights=None, alpha=0.5), 96),
        pytest.param("keras/resnet50", lambda: keras.applications.ResNet50(weights=None), 64, marks=pytest.mark.slow),
        pytest.param(
            "keras/inception_v3", lambda: keras.applications.InceptionV3(weights=None), 96, marks=pytest.mark.slow
        ),
        pytest.param(
            "keras/inception_resnet_v2",
            lambda: keras.applications.InceptionResNetV2(weights=None),
            96,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "keras/densenet121", lambda: keras.applications.DenseNet121(weights=None), 64, marks=pytest.mark.slow
        ),
        pytest.param(
            "keras/resnet50v2", lambda: keras.applications.ResNet50V2(weights=None), 64, marks=pytest.mark.slow
        ),
    ],
)
def test_a_published_style_h5_with_head_gives_the_original_features(name, application, size, tmp_path):
    import h5py

    original = application()
    rng = np.random.default_rng(0)
    for layer in original.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.8, 1.2, layer.moving_variance.shape))
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, original)
    spec = find_row(name)
    loaded = load_backbone(spec, image_size=size, checkpoint=tmp_path / "weights.h5")
    assert "old head" in loaded.report.ignored
    head = load_backbone(spec, image_size=spec.image_size, checkpoint=tmp_path / "weights.h5", head="published")
    images = rng.normal(0, 1, (2, spec.image_size, spec.image_size, 3)).astype(np.float32)
    original.layers[-1].activation = None
    reference = np.asarray(keras.Model(original.input, original.layers[-2].output)(images, training=False))
    ours = np.asarray(keras.Model(head.model.input, head.model.layers[-2].output)(images, training=False))
    assert np.abs(ours - reference).max() < 1e-5 * np.abs(reference).max()
    assert all(layer.statistics == "batch" and not layer.unbiased for layer in bn_layers(loaded.model))


def test_a_checkpoint_of_another_network_is_refused_with_both_lists(tmp_path):
    from checkpoints.formats.slim import write_slim

    write_slim(tmp_path / "model.ckpt", {"other/conv1/weights": np.zeros((3, 3, 3, 8), np.float32)})
    with pytest.raises(CheckpointError) as error:
        load_backbone(find_row("resnet_v1_demo"), image_size=32, checkpoint=tmp_path / "model.ckpt")
    assert "other/conv1/weights" in str(error.value)
    assert "resnet_v1_demo/" in str(error.value)


@real
def test_a_file_of_the_other_kind_is_refused_by_name():
    with pytest.raises(CheckpointError, match=r"slim-v2 file, but keras/mobilenet_0\.25"):
        load_backbone(find_row("keras/mobilenet_0.25"), image_size=96, checkpoint=FILES["slim-v2"][1])


def test_images_that_are_too_small_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(WrongUse, match="image size 16 px is too small for slim/resnet_v1_50: expected at least 32 px"):
        load_backbone(find_row("resnet_v1_50"), image_size=16, checkpoint=tmp_path / "missing.ckpt")


def test_slim_feeds_n_over_n_minus_one_and_epsilon_can_be_chosen():
    loaded = load_backbone(find_row("resnet_v1_demo"), image_size=32, batchnorm=BatchNormOptions(epsilon=0.01))
    assert all(layer.unbiased and layer.epsilon == 0.01 for layer in bn_layers(loaded.model))
