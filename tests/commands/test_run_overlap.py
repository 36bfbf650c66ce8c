"""`finetune run` on data whose test images are training images."""

import json

import numpy as np
import pytest

from tests.support.commands import typed

RUN = "run --backbone TINY_FILE --epochs 1 --image-size 16 --batch-size 10 --validation 0 --quiet "


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (count, 16, 16, 3), np.uint8) for count in (20, 10))
    test[3] = train[8]
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=train, y_train=np.arange(20) % 2, x_test=test, y_test=np.arange(10) % 2)
    return path


def test_refused_before_anything_is_written(data, tmp_path):
    result = typed(f"{RUN} --data {data} --run-dir {tmp_path}/run")
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    assert (
        "1 of 10 test images is among the training images too, such as test image 3, which is training image 8" in text
    )
    assert "--allow-overlap" in text
    assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_allowed_it_is_noted(data, tmp_path):
    result = typed(f"{RUN} --data {data} --allow-overlap --run-dir {tmp_path}/run")
    assert result.exit_code == 0, result.output
    remarks = json.loads((tmp_path / "run/data.json").read_text())["remarks"]
    assert [one for one in remarks if "test image 3, which is training image 8" in one]
    assert json.loads((tmp_path / "run/config.json").read_text())["allow_overlap"] is True
