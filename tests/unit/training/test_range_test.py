"""The learning-rate range test: its rule on known curves, that it leaves no trace, and a run with --lr auto."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from finetune.config import RunConfig
from finetune.errors import FinetuneError
from finetune.reporting import curves
from finetune.runs.directory import RunDir
from finetune.training import range_test, start
from finetune.training.loop.train import ImageFeed, train
from finetune.training.range_test import HIGHEST, LOWEST, STEPS, read, write_range_test
from tests.support.commands import tiny_backbone
from tests.unit.training.loop.test_train import CONFIG, Listener, classifier, dataset

RATES = [float(rate) for rate in np.geomspace(LOWEST, HIGHEST, STEPS)]
SETTINGS = {
    "data": "demo-target",
    "examples": 100,
    "epochs": 1,
    "image_size": 16,
    "batch_size": 20,
    "validation": 0.0,
}


def bowl(lowest, noise=0.0):
    """Flat at log(10), falling from a thousandth of `lowest` on, rising beyond; as a range test's losses are."""
    rng = np.random.default_rng(0)
    decades = np.log10(np.array(RATES) / lowest)
    losses = 2.3 - 1.5 * np.clip(1 + decades / 3, 0, 1) + 3 * np.clip(decades, 0, None)
    return list(losses + noise * rng.normal(size=STEPS))


@pytest.mark.parametrize("lowest", [1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_third_of_where_the_loss_is_lowest(lowest, noise):
    test = read(RATES, bowl(lowest, noise))
    assert test.lowest_at == pytest.approx(lowest, rel=0.7)
    assert test.chosen == pytest.approx(test.lowest_at / 3, rel=0.05)


@pytest.mark.parametrize("losses", [[], [2.3] * 100, list(np.linspace(2.3, 9.0, 40))])
def test_a_loss_that_falls_nowhere_is_an_error(losses):
    with pytest.raises(FinetuneError, match="--lr auto: the loss fell at no learning rate from 1e-06 to 10"):
        read(RATES[: len(losses)], losses)


def test_the_drawing_is_an_svg_that_says_its_numbers():
    text = curves.range_test(read(RATES, bowl(1e-2)).to_json())
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "chosen, 0.00" in text


@pytest.mark.slow
def test_a_run_keeps_the_number_and_the_curve(tmp_path):
    found = start.start(
        RunConfig(**SETTINGS, backbone=str(tiny_backbone()), learning_rate="auto"), run_dir=tmp_path / "auto"
    )
    test = json.loads((found.path / "lr_range.json").read_text())
    assert found.read("config.json")["learning_rate"] == test["learning_rate"] == test["chosen"]
    assert len(test["rates"]) == len(test["losses"]) == len(test["smoothed"]) <= STEPS
    assert test["losses"][0] == pytest.approx(np.log(10), abs=1e-5)
    assert (found.path / "lr_range.svg").read_text().startswith("<svg ")


@pytest.mark.slow
def test_the_test_leaves_no_trace(monkeypatch):
    """Not in weights, statistics or dropout's draws: training after it is the same to the bit."""
    monkeypatch.setattr(range_test, "STEPS", 40)
    fresh, tested = classifier(), classifier()
    found = range_test.range_test(tested, dataset().train, CONFIG)
    assert found == range_test.range_test(classifier(), dataset().train, CONFIG)
    for model in (fresh, tested):
        train(ImageFeed(model, dataset(), CONFIG), CONFIG, Listener())
    for a, b in zip(fresh.variables, tested.variables, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b), err_msg=a.path)


def test_the_model_is_put_back_also_where_the_test_fails(monkeypatch):
    model = classifier()
    before = [np.array(v) for v in model.variables]
    monkeypatch.setattr(range_test, "STEPS", 4)
    monkeypatch.setattr(range_test, "HIGHEST", 2e-6)
    with pytest.raises(FinetuneError, match="--lr auto"):
        range_test.range_test(model, dataset().train, CONFIG)
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, np.array(b))


def test_files_are_written_into_the_run(tmp_path):
    write_range_test(RunDir(tmp_path), read(RATES, bowl(1e-2)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr_range.json", "lr_range.svg"]
