"""An interrupted run on features goes on as if it had not been; several steps in a call are the steps they were."""

import dataclasses

import numpy as np
import pytest

from finetune.errors import Interrupted
from finetune.training.feature_cache import extraction
from finetune.training.loop import optimizer as optimizers
from finetune.training.loop.step import TrainStep
from tests.support.small_features import CONFIG, Listener, classifier, generated, trained

pytestmark = pytest.mark.usefixtures("home")


def changed(**values):
    return dataclasses.replace(CONFIG, **values)


def skewed():
    """The generated images, with a tenth of the last class."""
    data = generated()
    few = np.flatnonzero((data.train.labels < 2) | (np.arange(100) % 30 == 2))
    return dataclasses.replace(data, train=data.train.take(few))


# 6 steps an epoch: within the first, at an epoch's end, in the second, in the last.
@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("stops", "steps"), [((1,), 4), ((6,), 4), ((7, 2), 4), ((17,), 1)])
def test_resumed_equals_unbroken_to_the_bit(monkeypatch, stops, steps):
    from finetune.training.feature_cache import feature_feed

    monkeypatch.setattr(feature_feed, "_MOST_STEPS", steps)
    config = changed(augment="flip")
    whole = trained(classifier(), generated(), config)
    state, seen = None, []
    for stop in stops:
        listener = Listener(stop_at=stop)
        with pytest.raises(Interrupted):
            trained(classifier(), generated(), config, listener=listener, resume_from=state)
        assert len(listener.losses) < stop + steps
        state = listener.state
        seen += listener.losses
    rest = trained(classifier(), generated(), config, resume_from=state)
    assert seen + rest.losses == whole.losses
    for a, b in zip(whole.weights, rest.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_classes_of_different_size_are_balanced_as_on_images_and_after_a_resume():
    data = skewed()
    config = changed(augment="flip", sampler="balanced", loss="focal", focal_gamma=2.0, epochs=1)
    images = trained(classifier(), data, dataclasses.replace(config, cache_features="off"))
    whole = trained(classifier(), data, config)
    assert whole.losses == pytest.approx(images.losses, rel=1e-5)
    listener = Listener(stop_at=1)
    with pytest.raises(Interrupted):
        trained(classifier(), data, config, listener=listener)
    rest = trained(classifier(), data, config, resume_from=listener.state)
    assert listener.losses + rest.losses == whole.losses


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_several_steps_in_one_call_are_the_same_steps(optimizer):
    config = changed(optimizer=optimizer, clip_norm=1.0, label_smoothing=0.1)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(5, 8, 16, 16, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (5, 8))
    results = []
    for together in (False, True):
        model = classifier(freeze=())
        variables = model.trainable_variables
        both = TrainStep(model, optimizers.build(config, variables, steps=5), variables, config)
        step = both.several() if together else both.traced()
        if together:
            losses, corrects = (value.numpy().tolist() for value in step(inputs, labels))
        else:
            pairs = [step(one, some) for one, some in zip(inputs, labels, strict=True)]
            losses, corrects = ([float(pair[i]) for pair in pairs] for i in (0, 1))
        results.append((losses, corrects, [np.array(v) for v in model.variables]))
    assert results[0][:2] == results[1][:2]
    for a, b in zip(results[0][2], results[1][2], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_stopped_while_features_are_computed_they_are_not_computed_again(monkeypatch):
    monkeypatch.setattr(extraction, "batch_size", lambda image_size: 32)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match="while features were computed"):
        trained(classifier(), generated(), CONFIG, stop=lambda: next(asked))
    outcome = trained(classifier(), generated(), CONFIG)
    assert (outcome.about["computed"], outcome.about["read"]) == (182 - 3 * 32, 3 * 32)
