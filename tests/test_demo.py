"""The script behind the bundled checkpoint, shortened, and the way back to slim it goes."""

import dataclasses

import keras
import numpy as np
import pytest

from checkpoints.catalog import find
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from finetune import backbone, models
from finetune.demo import pretrain
from finetune.errors import FinetuneError
from finetune.export import to_slim


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    patch = pytest.MonkeyPatch()
    short = dataclasses.replace(pretrain.SETTINGS, examples=400, epochs=1, deterministic=False)
    patch.setattr(pretrain, "SETTINGS", short)
    prefix = pretrain.make(folder)
    patch.undo()
    return folder / "run", prefix


def test_it_writes_what_is_shipped(made):
    shipped = open_checkpoint(backbone.store.locate(find("resnet_v1_demo"), with_head=True))
    assert dict(open_checkpoint(made[1]).shapes) == dict(shipped.shapes)


def test_the_slim_file_gives_the_logits_of_the_run(made):
    run, prefix = made
    loaded = backbone.load(find("resnet_v1_demo"), image_size=32, checkpoint=prefix, with_head=True)
    trained = keras.models.load_model(run / "model.keras")
    images = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(loaded.model(images, training=False), trained(images, training=False), atol=1e-5)


def test_nothing_is_overwritten(made):
    run, prefix = made
    with pytest.raises(CheckpointError, match="already there"):
        to_slim(models.open_trained(run).model, find("resnet_v1_demo"), prefix)


def test_a_keras_backbone_has_no_slim_names(made, tmp_path):
    with pytest.raises(FinetuneError, match="only slim backbones"):
        to_slim(models.open_trained(made[0]).model, find("keras/resnet50"), tmp_path / "model.ckpt")
