"""Stochastic weight averaging in the loop: the mean of the weights after each epoch, resumed to the bit."""

import dataclasses

import numpy as np
import pytest

from finetune.config import check_config
from finetune.errors import Interrupted, WrongUse
from finetune.training.loop.mean_weights import MeanWeights
from finetune.training.loop.state import State
from finetune.training.loop.train import ImageFeed, Phases, train
from tests.unit.training.loop.test_train import CONFIG, Listener, classifier, dataset

SWA = dataclasses.replace(CONFIG, swa_start=2, schedule="constant", dropout=0.0)


class Averaging(Listener):
    """Keeps the weights after every epoch, and the averages."""

    def __init__(self, model, **settings):
        super().__init__(**settings)
        self.model, self.weights, self.averages = model, [], None

    def on_epoch(self, history):
        super().on_epoch(history)
        self.weights.append({v.path: np.array(v, np.float64) for v in self.model.trainable_variables})

    def on_averages(self, weights):
        self.averages = weights


def trained(stop_at=None, path=None, resume_from=None, **more):
    model = classifier(SWA)
    listener = Averaging(model, stop_at=stop_at, path=path)
    train(ImageFeed(model, dataset(), SWA), SWA, listener, resume_from=resume_from, **more)
    return model, listener


@pytest.fixture(scope="module")
def unbroken():
    return trained()


def test_the_average_is_the_mean_of_the_weights_after_each_epoch_from_the_first_one_on(unbroken):
    model, listener = unbroken
    assert len(listener.weights) == 3
    assert listener.averages.keys() == {variable.path for variable in model.trainable_variables}
    for path, value in listener.averages.items():
        expected = np.mean([weights[path] for weights in listener.weights[1:]], axis=0)
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected.astype(np.float32), err_msg=path)
        # The model keeps the last step's weights.
        last = {one.path: np.array(one) for one in model.trainable_variables}[path]
        np.testing.assert_array_equal(last, listener.weights[-1][path])


# Three steps an epoch: before the average begins, within it, and after the last step.
@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("stop", [8, 2, 9])
def test_it_resumes_to_the_bit(unbroken, tmp_path, stop):
    path = tmp_path / "state.npz"
    with pytest.raises(Interrupted):
        trained(stop_at=stop, path=path)
    _, listener = trained(resume_from=State.load(path))
    for name, value in unbroken[1].averages.items():
        np.testing.assert_array_equal(value, listener.averages[name], err_msg=name)


class Twice(Phases):
    """Two phases, the second from the third epoch on."""

    first_epochs = (0, 2)


@pytest.mark.slow
def test_it_begins_with_the_last_phase_at_the_earliest():
    _, listener = trained(phases=Twice())
    for path, value in listener.averages.items():
        np.testing.assert_array_equal(value, listener.weights[-1][path].astype(np.float32))


def test_the_mean_of_equal_numbers_is_that_number():
    values = np.float32([0.1, 1 / 3, 1e-30, -3.3e37, 0.0, 1e-45])
    for count in (1, 2, 3, 7, 1000):
        mean = MeanWeights.of({"a": values} for _ in range(count)).mean()["a"].astype(np.float32)
        np.testing.assert_array_equal(mean, values)
    ones = [np.float32([1, 2]), np.float32([2, 4]), np.float32([6, 0])]
    np.testing.assert_array_equal(MeanWeights.of({"a": one} for one in ones).mean()["a"], np.mean(ones, axis=0))


@pytest.mark.parametrize(("other", "value"), [("patience", 2), ("ema", 0.9)])
def test_another_choice_of_weights_contradicts(other, value):
    with pytest.raises(WrongUse, match=r"--swa-start 2 .*contradict each other|and --swa-start 2 contradict"):
        check_config(dataclasses.replace(SWA, **{other: value}))
