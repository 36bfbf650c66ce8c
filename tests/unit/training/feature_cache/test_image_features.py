"""Features for the check of the data: a backbone's own, kept in the cache; and which backbone is chosen."""

import numpy as np
import pytest

from finetune.backbone import load_backbone
from finetune.data import pipeline
from finetune.data.dataset import Split
from finetune.data.preprocessing import find_preprocessing
from finetune.errors import WrongUse
from finetune.training.feature_cache import image_features
from finetune.training.feature_cache.extraction import Progress
from tests.support.commands import tiny_backbone


@pytest.fixture
def said(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return []


def progress(said):
    return Progress(said.append, lambda done, total: said.append((done, total)), lambda: False, said.append)


def split(count, seed):
    return Split(np.random.default_rng(seed).integers(0, 256, (count, 20, 20, 3), np.uint8), np.zeros(count, np.int64))


def find(name, **others):
    return image_features.find(name, **{"checkpoint": None, "image_size": None, "side": 16, **others})


def test_features_are_the_networks_and_computed_once(said, monkeypatch):
    found, parts = find(str(tiny_backbone())), (split(40, 0), split(7, 1))
    features = found.features(parts, progress(said))
    assert [one.shape[0] for one in features] == [40, 7]
    spec = found.spec
    model = load_backbone(spec, image_size=16).model
    pixels = pipeline.prepared(parts[1].images, 16, find_preprocessing(spec.preprocessing))
    assert features[1] == pytest.approx(np.asarray(model(pixels, training=False)), abs=1e-4)
    computed = len(said)
    again = found.features(parts[::-1], progress(said))
    assert np.array_equal(again[1], features[0])
    assert len(said) == computed  # nothing was computed

    def full(*arguments, **options):
        raise image_features.feature_store.OverBudget("they would take 1 GiB")

    monkeypatch.setattr(image_features.feature_store, "opened", full)
    assert np.array_equal(found.features(parts, progress(said))[1], features[1])
    assert said[-1] == "features are not kept: they would take 1 GiB"


def test_the_most_accurate_small_row_that_is_here(said, monkeypatch):
    assert find(None) is None
    monkeypatch.setattr(
        image_features.store,
        "is_cached",
        lambda row: "a file" if "mobilenet_v1" in row.name or "101" in row.name else None,
    )
    found = find(None, side=32)
    assert (found.spec.id, found.image_size) == ("slim/mobilenet_v1_1.0", 96)


@pytest.mark.parametrize(
    ("name", "others", "words"),
    [
        (None, {"checkpoint": "some.ckpt"}, "name it with --backbone"),
        ("cifar_resnet", {}, "no weights are published for it"),
        ("resnet_v1_dem", {}, "did you mean resnet_v1_demo"),
    ],
)
def test_what_is_no_backbone_with_weights(said, name, others, words):
    with pytest.raises(Exception, match=words) as error:
        find(name, **others)
    assert isinstance(error.value, WrongUse) or "unknown backbone" in str(error.value)
