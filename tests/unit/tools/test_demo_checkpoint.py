"""The script behind the bundled checkpoint, shortened, and the way back to slim it goes."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

from checkpoints import store
from checkpoints.catalog.lookup import find_row
from checkpoints.formats import open_checkpoint
from finetune.backbone import load_backbone
from finetune.data import load_data
from finetune.data.sources import generated
from tools import demo_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    patch = pytest.MonkeyPatch()
    short = dataclasses.replace(demo_checkpoint.SETTINGS, examples=100, epochs=1, deterministic=False)
    patch.setattr(demo_checkpoint, "SETTINGS", short)
    patch.setitem(load_data._GENERATED, "demo-source", functools.partial(generated.demo_source, 400, 100))
    prefix = demo_checkpoint.make(folder)
    patch.undo()
    return folder / "run", prefix


@pytest.mark.slow
def test_it_writes_what_is_shipped(made):
    shipped = open_checkpoint(store.locate(find_row("resnet_v1_demo"), with_head=True))
    assert dict(open_checkpoint(made[1]).shapes) == dict(shipped.shapes)


@pytest.mark.slow
def test_the_slim_file_gives_the_logits_of_the_run(made):
    run, prefix = made
    loaded = load_backbone(find_row("resnet_v1_demo"), image_size=32, checkpoint=prefix, head="published")
    trained = keras.models.load_model(run / "model.keras")
    images = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(loaded.model(images, training=False), trained(images, training=False), atol=1e-5)
