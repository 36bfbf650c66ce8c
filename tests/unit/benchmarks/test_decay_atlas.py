"""The decay atlas averages batch statistics itself, for all decays of one run: a run with that decay has the same."""

import importlib.util

import numpy as np
import pytest

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import bn_layers
from finetune.config import RunConfig
from finetune.training.display import Display
from finetune.training.loop.train import ImageFeed, train
from finetune.training.prepare import prepare
from tests.support.places import ROOT

PATH = ROOT / "benchmarks" / "decay_atlas" / "run.py"
DECAYS = (0.5, 0.95)


@pytest.fixture(scope="module")
def atlas():
    spec = importlib.util.spec_from_file_location("decay_atlas", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepared(decay):
    config = RunConfig(
        "resnet_v1_demo", data="demo-target", examples=96, validation=0.0, image_size=16, batch_size=16, epochs=2,
        bn_decay=decay, recalibrate_at_end=False,
    )  # fmt: skip
    return prepare(config, Display(), load_weights=True)


@pytest.mark.slow
def test_averaged_statistics_are_those_of_a_run_with_that_decay(atlas):
    one = prepared(0.5)
    for layer in bn_layers(one.model):
        layer.momentum = 0.0
    averages = atlas.Averages(one.model, DECAYS)
    train(ImageFeed(one.model, one.dataset, one.config), one.config, averages)
    for decay in DECAYS:
        real = prepared(decay)
        train(ImageFeed(real.model, real.dataset, real.config), real.config, atlas.Averages(real.model, ()))
        for name, (mean, variance) in KerasSubject(real.model).snapshot().items():
            sigma = np.sqrt(variance + 1e-5)
            assert np.max(np.abs(averages.moving[decay][name][0] - mean) / sigma) < 1e-3
            np.testing.assert_allclose(averages.moving[decay][name][1], variance, rtol=1e-3)


def test_a_column_has_exactly_its_updates(atlas):
    for batch in atlas.BATCHES:
        for updates in atlas.UPDATES:
            images, epochs = atlas.plan(updates, batch)
            assert images <= atlas.MOST_IMAGES
            assert (images // batch) * epochs == updates
