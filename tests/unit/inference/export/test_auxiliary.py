"""The auxiliary head of a slim export: slim's own shapes, the source's values where they fit."""

from pathlib import Path

import numpy as np
import pytest

from checkpoints import store
from checkpoints.catalog.lookup import find_row
from checkpoints.formats.slim import write_slim
from finetune.inference.export.auxiliary import auxiliary_head

PUBLISHED = {
    "inception_v3": {"Conv2d_2a_5x5/weights": (5, 5, 128, 768), "Conv2d_2b_1x1/weights": (1, 1, 768, 7)},
    "inception_v4": {"Conv2d_1b_1x1/weights": (1, 1, 1024, 128), "Aux_logits/weights": (768, 7)},
    "inception_resnet_v2": {"Conv2d_1b_1x1/weights": (1, 1, 1088, 128), "Logits/weights": (768, 7)},
}
"""Some variables of the published files, with other classes."""


@pytest.fixture(autouse=True)
def _nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "is_cached", lambda *_, **__: None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_are_those_of_the_published_files(name: str) -> None:
    spec = find_row(f"slim/{name}")
    arrays, note = auxiliary_head(spec, side=299, outputs=7, source=None)
    assert "freshly initialised" in note
    assert len(arrays) == 10
    root = spec.head[0].partition("/")[0]
    for variable, shape in PUBLISHED[name].items():
        assert arrays[f"{root}/AuxLogits/{variable}"].shape == shape
    assert arrays[f"{root}/AuxLogits/Conv2d_1b_1x1/BatchNorm/moving_variance"].tolist() == [1] * 128


def test_what_fits_comes_from_the_source(tmp_path: Path) -> None:
    conv = np.ones((1, 1, 768, 128), np.float32)
    source = {
        "my/Inception/AuxLogits/Conv2d_1b_1x1/weights": conv,
        "my/Inception/AuxLogits/Conv2d_2b_1x1/weights": np.ones((1, 1, 768, 1001), np.float32),
    }
    write_slim(tmp_path / "m", source)
    arrays, note = auxiliary_head(find_row("slim/inception_v3"), side=299, outputs=7, source=tmp_path / "m")
    np.testing.assert_array_equal(arrays["InceptionV3/AuxLogits/Conv2d_1b_1x1/weights"], conv)
    assert arrays["InceptionV3/AuxLogits/Conv2d_2b_1x1/weights"].shape == (1, 1, 768, 7)
    assert "from the source checkpoint, but for its" in note


def test_small_images_have_none_and_it_is_said() -> None:
    arrays, note = auxiliary_head(find_row("slim/inception_v3"), side=96, outputs=7, source=None)
    assert not arrays
    assert "create_aux_logits=False" in note
    assert auxiliary_head(find_row("slim/resnet_v1_50"), side=224, outputs=7, source=None) == ({}, "")
