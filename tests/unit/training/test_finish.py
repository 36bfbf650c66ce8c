"""Averaged weights: the recursion, resumed to the bit, and the statistics that belong to them in the run's model."""

import dataclasses

import keras
import numpy as np
import pytest

from finetune.config import RunConfig, check_config
from finetune.errors import Interrupted, WrongUse
from finetune.runs import model as models
from finetune.runs.model import evaluate_run
from finetune.training import advice, finish, start
from finetune.training.loop.state import State
from finetune.training.loop.train import ImageFeed, train
from tests.unit.training.loop.test_train import CONFIG, Listener, classifier, dataset
from tests.unit.training.test_advice import ready

EMA = dataclasses.replace(CONFIG, ema=0.7)


class Averaging(Listener):
    """Keeps the weights after every step, and the averages."""

    def __init__(self, model, **settings):
        super().__init__(**settings)
        self.model, self.weights, self.averages = model, [], None

    def on_step(self, **values):
        super().on_step(**values)
        self.weights.append({v.path: np.array(v, np.float64) for v in self.model.trainable_variables})

    def on_averages(self, weights):
        self.averages = weights


def trained(stop_at=None, path=None, resume_from=None):
    model = classifier()
    listener = Averaging(model, stop_at=stop_at, path=path)
    train(ImageFeed(model, dataset(), EMA), EMA, listener, resume_from=resume_from)
    return model, listener


@pytest.fixture(scope="module")
def unbroken():
    return trained()


@pytest.mark.slow
def test_the_average_is_the_recursion_begun_at_the_first_step(unbroken):
    model, listener = unbroken
    expected = listener.weights[0]
    for weights in listener.weights[1:]:
        expected = {path: 0.7 * expected[path] + 0.3 * value for path, value in weights.items()}
    assert listener.averages.keys() == expected.keys() == {v.path for v in model.trainable_variables}
    for path, value in listener.averages.items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-4, atol=1e-6)
    # The averages are handed out; the model keeps the last step's weights.
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(np.array(variable, np.float64), listener.weights[-1][variable.path])


# After the second of nine steps; and after the last one, before anything was made of the averages.
@pytest.mark.slow
@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("stop", [2, 9])
def test_averages_resume_to_the_bit(unbroken, tmp_path, stop):
    path = tmp_path / "state.npz"
    with pytest.raises(Interrupted):
        trained(stop_at=stop, path=path)
    _, listener = trained(resume_from=State.load(path))
    for name, value in unbroken[1].averages.items():
        np.testing.assert_array_equal(value, listener.averages[name], err_msg=name)


@pytest.mark.slow
def test_the_run_keeps_both_and_recalibrates_for_the_average(tmp_path):
    config = RunConfig(
        backbone="resnet_v1_demo",
        data="demo-target",
        examples=120,
        validation=0.0,
        epochs=2,
        image_size=16,
        batch_size=20,
        learning_rate=0.003,
        bn_decay=0.9,
        freeze_until="block1",
        ema=0.5,
    )
    finished = start.start(config, run_dir=tmp_path / "run")
    result = finished.read("result.json")
    weights = result["weights"]
    assert (weights["kind"], weights["ema"], weights["statistics"]) == ("averaged", 0.5, "recalibrated")
    assert result["bn"]["recalibrated"]
    assert result["proof"]["holds"]
    last = evaluate_run(finished.path / finish.LAST_STEP)
    assert last.correct == weights["last_step"]["test"]["is_training_false"]["correct"]
    assert evaluate_run(finished.path).correct == result["test"]["is_training_false"]["correct"]

    averaged, before = (models.open_trained(path).model for path in (finished.path, finished.path / finish.LAST_STEP))
    kernels = [
        [np.array(model.get_layer(name).kernel) for model in (averaged, before)]
        for name in ("head.logits", "resnet_v1_demo.conv1")
    ]
    assert not np.array_equal(*kernels[0])
    np.testing.assert_array_equal(*kernels[1])  # frozen
    # Measured anew where they update; in frozen layers the source's stay.
    stock = [
        {
            layer.name: np.array(layer.moving_mean)
            for layer in model.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        }
        for model in (averaged, before)
    ]
    source = models.load_snapshot(finished)
    changed = {name for name in stock[0] if not np.array_equal(stock[0][name], source[name][0])}
    assert changed
    assert all("block2" in name or "block3" in name for name in changed)
    name = min(changed, key=list(stock[0]).index)
    assert not np.allclose(stock[0][name], stock[1][name], rtol=1e-3)


def test_too_much_of_the_first_weights_is_warned_of():
    from checkpoints.catalog.lookup import find_row

    config = dataclasses.replace(CONFIG, ema=0.999, preprocess="inception")
    (warning,) = advice.warnings(ready(config, find_row("resnet_v1_demo"), steps=300, batch_statistics=False))[-1:]
    assert "--ema 0.999 over 300 steps: 74% of the average" in warning
    assert "give --ema 0.98 or less" in warning
    assert 0.98**300 < 0.01


def test_average_and_best_epoch_contradict():
    with pytest.raises(WrongUse, match=r"--ema 0\.9 and --patience 2 contradict each other"):
        check_config(dataclasses.replace(CONFIG, ema=0.9, patience=2))
