import subprocess
import sys

import keras
import numpy as np
import pytest

import finetune
from finetune.backbone import find_backbone, load_backbone
from finetune.errors import UserError

IMAGES = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
LABELS = np.arange(8) % 3


@pytest.fixture(scope="module")
def model():
    return finetune.transfer("resnet_v1_demo", 3, image_size=32, freeze_until="block1", bn="block1=train", bn_decay=0.9)


def test_it_computes_the_features_of_the_published_weights(model):
    expected = load_backbone(find_backbone("resnet_v1_demo"), image_size=32).model(IMAGES, training=False)
    features = keras.Model(model.input, model.layers[-1].input)(IMAGES, training=False)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert model.output_shape == (None, 3)
    assert not np.any(model(IMAGES))  # the head starts at zero


def test_every_layer_is_keras_own_and_trains_as_planned(model):
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    trains = {layer.name: layer.trainable for layer in model.layers if layer.weights}
    norms = {name for name, layer in ((one.name, one) for one in model.layers) if "BatchNorm" in type(layer).__name__}
    assert {name for name in trains if "block1" in name and trains[name]} == {one for one in norms if "block1" in one}
    assert all(trains[name] for name in trains if "block2" in name)
    assert {model.get_layer(name).momentum for name in norms} == {0.9}


@pytest.mark.slow
def test_what_is_frozen_stays_in_keras_own_fit():
    model = finetune.transfer("resnet_v1_demo", 3, image_size=32, freeze="*")
    before = [np.array(one) for one in model.variables]
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    model.fit(IMAGES, LABELS, verbose=0)
    moved = [one.path for one, old in zip(model.variables, before, strict=True) if not np.array_equal(one, old)]
    assert {path.rpartition("/")[0] for path in moved} == {model.layers[-1].name}


@pytest.mark.slow
def test_it_loads_without_this_package(model, tmp_path):
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    program = (
        "import sys; sys.modules['finetune'] = sys.modules['checkpoints'] = None; import keras, numpy as np\n"
        f"model = keras.models.load_model(r'{tmp_path}/model.keras')\n"
        f"np.save(r'{tmp_path}/out.npy', model(np.load(r'{tmp_path}/images.npy')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model(IMAGES), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bn": "affine"}, "the BN policy 'affine' needs this package's own BatchNorm layer"),
        ({"bn": ["block1=stats"]}, "the BN policy 'stats' needs"),
        ({"bn": "nothing"}, "unknown BN policy 'nothing' in bn='nothing'"),
        ({"freeze_until": "block9"}, "unknown stage 'block9' in freeze_until: expected one of"),
        ({"classes": 1}, "classes is 1: expected a whole number from 2"),
        ({"bn_decay": 2}, "bn_decay is 2: expected a number inside"),
        ({"dropout": 1}, "dropout is 1: expected"),
        ({"name": "resnet_v1_deno"}, "did you mean resnet_v1_demo"),
        ({"name": "cifar_resnet"}, "no weights are published for"),
        ({"decay": 0.9}, "unknown argument decay: expected some of checkpoint, image_size"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(UserError) as caught:
        finetune.transfer(**{"name": "resnet_v1_demo", "classes": 3, "image_size": 32, **arguments})
    assert said in str(caught.value)
    assert "--" not in str(caught.value)
