"""The loop: resumed equals unbroken, a bad loss stops it, patience puts the best weights back."""

import dataclasses

import keras
import numpy as np
import pytest

from finetune.backbone import freezing
from finetune.backbone.head import attach_head
from finetune.batchnorm.surgery import adopt, bn_layers
from finetune.config import RunConfig
from finetune.data.dataset import Dataset, Split
from finetune.errors import FinetuneError, Interrupted
from finetune.evaluation.evaluator import Evaluation
from finetune.training.loop import optimizer as optimizers
from finetune.training.loop import train as loop
from finetune.training.loop.state import State
from finetune.training.loop.step import TrainStep
from finetune.training.loop.train import ImageFeed, train

CONFIG = RunConfig(
    backbone="x",
    image_size=8,
    preprocess="unit",
    augment="crop-flip",
    crop_padding=1,
    epochs=3,
    batch_size=16,
    learning_rate=0.01,
    weight_decay=0.01,
    bn_decay=0.9,
    dropout=0.3,
    hidden=8,
    patience=None,
)


def dataset(seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(90) % 3
    images = (rng.integers(0, 80, (90, 8, 8, 3)) + labels[:, None, None, None] * 60).astype(np.uint8)
    split = Split(images, labels)
    parts = (np.arange(60), np.arange(60, 75), np.arange(75, 90))
    train_split, validation, test = (split.take(part) for part in parts)
    return Dataset("x", ("a", "b", "c"), train_split, validation, test, "generated")


def classifier(config=CONFIG):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = attach_head(adopt(keras.Model(inputs, x), unbiased=True), 3, dropout=config.dropout, hidden=config.hidden)
    layers = freezing.layer_infos(model, {"body": ["conv", "bn"]}, "")
    freezing.apply(model, freezing.resolve(layers), decay=0.9, updates=True)
    return model


class Listener:
    """Stops after `stop_at` steps; keeps the last state as it would lie on disk."""

    def __init__(self, stop_at=None, path=None):
        self.stop_at, self.path, self.steps, self.losses, self.saved = stop_at, path, 0, [], 0

    def on_step(self, *, epoch, step, steps, images, loss):
        self.steps += 1
        self.losses.append(loss)

    def on_epoch(self, history):
        self.history = history

    def save(self, state):
        self.saved += 1
        if self.path:
            state.save(self.path)

    def stop_requested(self):
        return self.stop_at is not None and self.steps >= self.stop_at


def untimed(history):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in history]


@pytest.fixture(scope="module")
def unbroken():
    model, listener = classifier(), Listener()
    history = train(ImageFeed(model, dataset(), CONFIG), CONFIG, listener)
    return [np.array(v) for v in model.variables], untimed(history), listener.losses


@pytest.mark.slow
def test_it_learns(unbroken):
    _, history, losses = unbroken
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"] < 1.2
    # The head starts at zero: the first loss is log(classes) whatever the features are.
    assert losses[0] == pytest.approx(np.log(3), abs=1e-6)
    assert history[-1]["step"] == len(losses) == 9


# 3 steps an epoch: within the first, at the very end of one (before its evaluation), in the second, in the last.
@pytest.mark.slow
@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("stops", [(1,), (3,), (4,), (2, 3, 3), (8,)])
def test_resumed_equals_unbroken_to_the_bit(unbroken, tmp_path, stops):
    weights, history, losses = unbroken
    state, seen, path = None, [], tmp_path / "state.npz"
    for stop in stops:
        listener = Listener(stop_at=stop, path=path)
        with pytest.raises(Interrupted):
            train(ImageFeed(classifier(), dataset(), CONFIG), CONFIG, listener, resume_from=state)
        state = State.load(path)
        seen += listener.losses
    model, listener = classifier(), Listener()
    resumed = train(ImageFeed(model, dataset(), CONFIG), CONFIG, listener, resume_from=state)
    assert seen + listener.losses == losses
    assert untimed(resumed) == history
    for a, b in zip(weights, model.variables, strict=True):
        np.testing.assert_array_equal(a, np.array(b))


@pytest.mark.slow
def test_mixed_labels_are_scored_by_their_shares_and_resume_to_the_bit(tmp_path):
    config, path = dataclasses.replace(CONFIG, mixup=0.5, cutmix=1.0), tmp_path / "state.npz"
    model, listener = classifier(), Listener()
    history = train(ImageFeed(model, dataset(), config), config, listener)
    assert {row["train_labels"] for row in history} == {"mixed"}
    # The first loss is log(classes) whatever the shares are, and the head that starts at zero names class 0.
    assert listener.losses[0] == pytest.approx(np.log(3), abs=1e-6)
    with pytest.raises(Interrupted):
        train(ImageFeed(classifier(), dataset(), config), config, Listener(stop_at=5, path=path))
    again = classifier()
    assert untimed(
        train(ImageFeed(again, dataset(), config), config, Listener(), resume_from=State.load(path))
    ) == untimed(history)
    for a, b in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


def test_a_step_on_shares_counts_them():
    model = classifier(dataclasses.replace(CONFIG, dropout=0.0, hidden=None))
    model.get_layer("head.logits").bias.assign([0.0, 5.0, 0.0])
    config = dataclasses.replace(CONFIG, label_smoothing=0.1, mixup=0.2)
    optimizer = optimizers.build(config, model.trainable_variables, steps=10)
    step = TrainStep(model, optimizer, model.trainable_variables, config).traced()
    shares = np.array([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]], np.float32)
    loss, correct = step(np.zeros((2, 8, 8, 3), np.float32), shares)
    assert float(correct) == 0.75
    log_p = np.array([0.0, 5.0, 0.0]) - np.log(np.exp([0.0, 5.0, 0.0]).sum())
    assert float(loss) == pytest.approx(-((shares * 0.9 + 0.1 / 3) * log_p).sum(), rel=1e-5)


@pytest.mark.slow
def test_equal_rates_by_variable_change_no_bit(unbroken):
    weights, history, _ = unbroken
    model = classifier()
    assert (
        untimed(
            train(ImageFeed(model, dataset(), CONFIG), CONFIG, Listener(), rates={v.path: 1.0 for v in model.variables})
        )
        == history
    )
    for a, b in zip(weights, model.variables, strict=True):
        np.testing.assert_array_equal(a, np.array(b))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    model = classifier()
    config = dataclasses.replace(CONFIG, learning_rate=1e30, warmup=0.0)
    with pytest.raises(FinetuneError, match=r"the loss is (nan|inf) at step \d+ \(epoch 1\)"):
        train(ImageFeed(model, dataset(), config), config, Listener())


def test_weights_that_are_not_finite_after_the_last_step_stop_the_run_too():
    """The loss of a step is of the weights before it: those that the last one leaves are looked at themselves."""
    model = classifier()
    listener = Listener()
    bad = model.trainable_variables[0]

    def ruin(*, step, steps, **_):
        if step == steps:
            bad.assign(np.full(bad.shape, np.inf, np.float32))

    listener.on_step = ruin
    with pytest.raises(FinetuneError, match=rf"{bad.path} holds values that are not finite: the run has stopped"):
        train(
            ImageFeed(model, dataset(), dataclasses.replace(CONFIG, epochs=1)),
            dataclasses.replace(CONFIG, epochs=1),
            listener,
        )
    assert listener.saved == 0  # what cannot be gone on from is not kept


@pytest.mark.slow
def test_patience_stops_early_and_puts_the_best_weights_back():
    # Labels of the validation images are noise: accuracy does not keep rising.
    data = dataset()
    rng = np.random.default_rng(3)
    data = dataclasses.replace(data, validation=Split(data.validation.images, rng.permutation(data.validation.labels)))
    config = dataclasses.replace(CONFIG, epochs=30, patience=2)
    kept = {}

    class Keeping(Listener):
        def on_epoch(self, history):
            super().on_epoch(history)
            kept[history[-1]["epoch"]] = [np.array(v) for v in model.variables]

    model = classifier()
    history = train(ImageFeed(model, data, config), config, Keeping())
    accuracies = [row["validation_accuracy"] for row in history]
    best = int(np.argmax(accuracies)) + 1
    assert len(history) < 30
    assert len(history) - best == 2
    for a, b in zip(kept[best], model.variables, strict=True):
        np.testing.assert_array_equal(a, np.array(b))


@pytest.mark.parametrize(("select_by", "values"), [("loss", (0.5, 0.4, 0.6)), ("macro-f1", (0.1, 0.3, 0.2))])
def test_the_score_that_selects_decides_the_best_epoch_and_patience(monkeypatch, select_by, values):
    """The accuracy rises all the time, and does not matter."""
    scores = iter(values)

    @dataclasses.dataclass(frozen=True)
    class Made(Evaluation):
        accuracy = property(lambda self: 0.9)
        loss = property(lambda self: self.loss_sum)
        macro_f1 = property(lambda self: self.loss_sum)

    monkeypatch.setattr(loop, "_evaluated", lambda *_: Made(1, 1, 1, next(scores)))
    config = dataclasses.replace(CONFIG, epochs=9, patience=1, select_by=select_by)
    kept, model = {}, classifier()

    class Keeping(Listener):
        def on_epoch(self, history):
            kept[len(history)] = [np.array(v) for v in model.variables]

    history = train(ImageFeed(model, dataset(), config), config, Keeping())
    assert [row[f"validation_{select_by.replace('-', '_')}"] for row in history] == list(values)
    for a, b in zip(kept[2], model.variables, strict=True):
        np.testing.assert_array_equal(a, np.array(b))


def test_weight_decay_is_kept_off_batchnorm_and_biases():
    model = classifier()
    variables = model.trainable_variables
    config = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=0.1, weight_decay=0.5, schedule="constant")
    optimizer = optimizers.build(config, variables, steps=1)
    before = [np.array(v) for v in variables]
    optimizer.apply([np.zeros(v.shape, np.float32) for v in variables], variables)
    for variable, old in zip(variables, before, strict=True):
        shrinks = len(variable.shape) > 1
        np.testing.assert_allclose(variable, old * (0.95 if shrinks else 1.0), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "weight_decay"), [("sgd", 0.1), ("adamw", 0.1), ("adamw", 0.0)])
def test_rates_by_variable_multiply_rate_and_weight_decay(optimizer, weight_decay):
    """With a rate of 1 to the bit Keras's own optimizer; with a half, Keras's own at half the learning rate."""
    config = dataclasses.replace(
        CONFIG, optimizer=optimizer, learning_rate=0.01, weight_decay=weight_decay, schedule="constant"
    )
    rng = np.random.default_rng(0)

    def moved(rates, learning_rate=0.01):
        variables = classifier().trainable_variables
        settings = dataclasses.replace(config, learning_rate=learning_rate)
        found = optimizers.build(settings, variables, steps=1, rates=rates and {v.path: rates(v) for v in variables})
        for gradients in given:
            found.apply(gradients, variables)
        return {v.path: np.array(v) for v in variables}

    shapes = [v.shape for v in classifier().trainable_variables]
    given = [[rng.normal(size=shape).astype(np.float32) for shape in shapes] for _ in range(3)]
    plain, halved = moved(None), moved(None, 0.005)
    for path, value in moved(lambda v: 1.0).items():
        np.testing.assert_array_equal(value, plain[path], err_msg=path)
    for path, value in moved(lambda v: 0.5 if "conv" in v.path else 1.0).items():
        np.testing.assert_allclose(value, (halved if "conv" in path else plain)[path], atol=1e-7, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "last"), [("cosine", 0.0), ("constant", 0.01)])
def test_schedule_warms_up_and_ends_where_it_should(schedule, last):
    config = dataclasses.replace(CONFIG, schedule=schedule, warmup=0.1)
    optimizer = optimizers.build(config, classifier().trainable_variables, steps=100)
    rates = []
    for step in range(101):
        optimizer.iterations.assign(step)
        rates.append(float(np.asarray(optimizer.learning_rate)))
    assert rates[100] == pytest.approx(last, abs=1e-9)
    assert max(rates) == pytest.approx(0.01)
    if schedule == "cosine":
        assert rates[0] == 0.0
        assert rates[10] == pytest.approx(0.01)
        assert rates[55] == pytest.approx(0.005, rel=0.02)


@pytest.mark.slow
def test_no_validation_split_is_fine():
    data = dataclasses.replace(dataset(), validation=None)
    model = classifier()
    history = train(
        ImageFeed(model, data, dataclasses.replace(CONFIG, epochs=1)), dataclasses.replace(CONFIG, epochs=1), Listener()
    )
    assert "validation_accuracy" not in history[0]
    assert bn_layers(model)
