"""Every image counted once, whatever the batches; ties and NaN; against a plain NumPy count."""

import keras
import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from finetune.batchnorm.scores import Scores
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import adopt
from finetune.data import pipeline
from finetune.data.dataset import Split
from finetune.data.preprocessing import find_preprocessing
from finetune.evaluation.evaluator import Averaged, Evaluation, Evaluator, Tempered, count, mirrored, total


def test_count_equals_a_plain_count_in_float64():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (200, 10)).astype(np.float32), rng.integers(0, 10, 200)
    scored = count(logits, labels)
    exact = logits.astype(np.float64)
    probabilities = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    assert scored.correct == int((logits.argmax(1) == labels).sum())
    top5 = np.argsort(-logits, axis=1)[:, :5]
    assert scored.correct_top5 == int(sum(label in row for label, row in zip(labels, top5, strict=True)))
    assert scored.loss_sum == pytest.approx(-np.log(probabilities[np.arange(200), labels]).sum(), rel=1e-12)


def test_ties_go_to_the_lower_class_as_argmax_does():
    scored = [count(np.zeros((1, 10), np.float32), np.array([label])) for label in range(10)]
    assert [part.correct for part in scored] == [1] + [0] * 9
    assert [part.correct_top5 for part in scored] == [1] * 5 + [0] * 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_logits_that_are_not_finite_are_never_correct(bad):
    logits = np.array([[5.0, bad, 0.0]], np.float32)
    assert count(logits, np.array([0])).correct == 0


def test_huge_logits_do_not_overflow():
    assert count(np.array([[1e4, 0.0]], np.float32), np.array([1])).loss_sum == pytest.approx(1e4)


def test_total_divides_once():
    parts = [Evaluation(3, 1, 2, 0.5), Evaluation(1, 1, 1, 0.25)]
    assert total(parts) == Evaluation(4, 2, 3, 0.75)
    assert total(parts).accuracy == 0.5


def test_images_of_one_batch_have_nothing_to_do_with_each_other():
    """Not their scale, in which a common maximum would lose the smaller, nor a NaN."""
    logits = np.array([[1e4, 0.0], [0.0, 1.0], [np.nan, 0.0]])
    scored = [count(logits[[index]], np.array([1])) for index in range(3)]
    assert [part.correct for part in scored] == [0, 1, 0]
    assert count(logits, np.array([1, 1, 1])).correct == 1
    assert count(logits[:2], np.array([1, 1])) == total(scored[:2])
    assert scored[1].loss_sum == pytest.approx(np.log1p(np.exp(-1)), rel=1e-12)


def test_scores_by_class_are_those_of_all_images_together():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 3, 50)  # the last class has no image
    logits[7] = np.nan
    whole = count(logits, labels)
    predicted = np.where(np.arange(50) == 7, -1, logits.argmax(axis=1))
    assert whole.macro_f1 == pytest.approx(f1_score(labels, predicted, labels=range(3), average="macro"))
    assert whole.balanced_accuracy == pytest.approx(recall_score(labels, predicted, labels=range(3), average="macro"))
    parts = total(count(logits[part], labels[part]) for part in (slice(0, 20), slice(20, 30), slice(30, 50)))
    assert parts.by_class == whole.by_class
    assert parts.to_json().items() >= {"macro_f1": whole.macro_f1, "balanced_accuracy": whole.balanced_accuracy}.items()


def test_the_quotients_of_a_count():
    scored = Evaluation(examples=50, correct=10, correct_top5=30, loss_sum=100.0)
    assert scored.loss == 2.0
    assert scored.standard_error == pytest.approx(np.sqrt(0.2 * 0.8 / 50), rel=1e-12)
    assert scored.to_json() == {
        "accuracy": 0.2,
        "loss": 2.0,
        "examples": 50,
        "correct": 10,
        "standard_error": scored.standard_error,
    }


@pytest.fixture(scope="module")
def evaluator():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    logits = keras.layers.Dense(3)(keras.layers.Dropout(0.5)(keras.layers.Flatten()(x)))
    return Evaluator(KerasSubject(adopt(keras.Model(inputs, logits), unbiased=False)))


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (37, 4, 4, 3), dtype=np.uint8), rng.integers(0, 3, 37))


def evaluate(evaluator, split, batch_size, statistics="moving"):
    batches = pipeline.eval_batches(
        split, batch_size=batch_size, image_size=4, preprocessing=find_preprocessing("inception")
    )
    return evaluator.evaluate(batches, statistics)


def test_the_batch_size_does_not_matter_with_moving_statistics(evaluator, split):
    results = [evaluate(evaluator, split, size) for size in (1, 2, 5, 16, 36, 37, 64)]
    assert {result.examples for result in results} == {37}
    assert len({result.correct for result in results}) == 1
    np.testing.assert_allclose([result.loss for result in results], results[0].loss, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [2, 16, 37, 64])
def test_batch_statistics_count_every_image_once_too(evaluator, split, batch_size):
    assert evaluate(evaluator, split, batch_size, "batch").examples == 37


def test_one_pass_gives_the_counts_what_was_said_and_what_each_layer_saw(split):
    """Against NumPy in float64; batch statistics normalise each batch by itself, and pool over all of them."""
    inputs = keras.Input((4, 4, 3))
    logits = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.BatchNormalization(epsilon=1e-3)(inputs)))
    model, called, preprocessing = adopt(keras.Model(inputs, logits), unbiased=False), [], find_preprocessing("unit")
    evaluator = Evaluator(KerasSubject(model), on_batch=lambda: called.append(1))
    batches = pipeline.eval_batches(split, batch_size=8, image_size=4, preprocessing=preprocessing)
    seen = [np.asarray(images, np.float64) for images, *_ in batches]
    kernel, bias = (np.asarray(value, np.float64) for value in model.layers[-1].get_weights())

    def scores(images, mean, variance):
        return ((images - mean) / np.sqrt(variance + 1e-3)).reshape(len(images), -1) @ kernel + bias

    moving = np.concatenate([scores(images, 0, 1) for images in seen])
    batch = np.concatenate([scores(images, images.mean((0, 1, 2)), images.var((0, 1, 2))) for images in seen])
    counted = np.concatenate([np.asarray(counted) for *_, counted in batches])
    for statistics, logits in (("moving", moving[counted]), ("batch", batch[counted])):
        passed = evaluator.examine(batches, statistics)
        expected = -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[np.arange(37), split.labels]
        assert passed.images.labels.tolist() == split.labels.tolist()
        assert passed.images.classes.tolist() == logits.argmax(1).tolist()
        assert passed.images.correct.tolist() == (logits.argmax(1) == split.labels).tolist()
        np.testing.assert_allclose(passed.images.label_log_probability, -expected, rtol=1e-4)
        assert passed.evaluation.examples == 37
        assert passed.evaluation.correct == passed.images.correct.sum()
        assert passed.evaluation.loss_sum == pytest.approx(expected.sum(), rel=1e-5)
        assert passed.evaluation == evaluator.evaluate(batches, statistics)
        assert len(called) == 2 * len(batches)
        called.clear()
    assert evaluator.evaluate(batches) == evaluator.evaluate(batches, "moving") != passed.evaluation

    pixels = np.concatenate(seen).reshape(-1, 3)
    again = evaluator.examine(batches, "batch")
    assert again.evaluation == passed.evaluation
    assert len(again.moments) == len(passed.moments) == 1
    for found in (*again.moments, *passed.moments):
        assert found.count == len(pixels)
        np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-6)
        np.testing.assert_allclose(found.variance, pixels.var(0), rtol=1e-5)


def test_label_offset_shifts_the_classes(evaluator, split):
    shifted = Split(split.images, np.minimum(split.labels, 1))
    batches = pipeline.eval_batches(shifted, batch_size=8, image_size=4, preprocessing=find_preprocessing("inception"))
    logits = np.concatenate([evaluator._subject.forward("moving")(images)[0] for images, _, _ in batches])
    kept = np.concatenate([np.asarray(counted) for _, _, counted in batches])
    labels = np.concatenate([np.asarray(labels) for _, labels, _ in batches])
    expected = int((logits[kept].argmax(1) == labels[kept] + 1).sum())
    assert Evaluator(evaluator._subject, label_offset=1).evaluate(batches).correct == expected


@pytest.mark.parametrize("statistics", ["moving", "batch"])
def test_flipped_is_the_mean_of_both_probabilities(evaluator, split, statistics):
    """Against NumPy in float64, from the logits of the images and of their mirror images."""
    subject = evaluator._subject
    run, preprocessing = subject.forward(statistics), find_preprocessing("unit")
    logits = [
        np.asarray(run(np.asarray(preprocessing.apply(images)))[0], np.float64)
        for images in (split.images, split.images[:, :, ::-1])
    ]
    odds = [np.exp(one - one.max(axis=1, keepdims=True)) for one in logits]
    mean = sum(one / one.sum(axis=1, keepdims=True) for one in odds) / 2
    expected = -np.log(mean[np.arange(len(split)), split.labels]).sum()

    batches = pipeline.eval_batches(split, batch_size=len(split), image_size=4, preprocessing=preprocessing)
    scored = Evaluator(Averaged(subject, mirrored)).evaluate(batches, statistics)
    assert scored.examples == len(split)
    assert scored.correct == int((mean.argmax(axis=1) == split.labels).sum())
    assert scored.loss_sum == pytest.approx(expected, rel=1e-5)
    assert scored.loss_sum != pytest.approx(evaluator.evaluate(batches, statistics).loss_sum, rel=1e-4)


def test_flipping_certain_logits_does_not_overflow():
    inputs = keras.Input((2, 2, 3))
    model = keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="ones")(keras.layers.Flatten()(inputs)))
    model.layers[-1].kernel.assign(np.repeat([[1e4], [-1e4]], 6, axis=1).reshape(12, 1) * [[1.0, -1.0]])
    split = Split(np.full((1, 2, 2, 3), 255, np.uint8), np.array([0]))
    batches = pipeline.eval_batches(split, batch_size=1, image_size=2, preprocessing=find_preprocessing("unit"))
    assert np.isfinite(Evaluator(Averaged(KerasSubject(model), mirrored)).evaluate(batches).loss_sum)


def test_independent_labels_are_scored_as_keras_scores_them():
    """K sigmoids: Keras's `categorical_accuracy`, `binary_accuracy` and `binary_crossentropy` of one-hot labels."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (60, 5)).astype(np.float32), rng.integers(0, 5, 60)
    scored, one_hot = count(logits, labels, per_label=True), np.eye(5)[labels]
    chances = keras.ops.sigmoid(logits)
    of_keras = [
        float(np.mean(metric(one_hot, chances)))
        for metric in (keras.metrics.categorical_accuracy, keras.metrics.binary_accuracy)
    ]
    assert [scored.accuracy, scored.label_accuracy] == pytest.approx(of_keras)
    assert scored.loss == pytest.approx(float(np.mean(keras.losses.binary_crossentropy(one_hot, chances))), abs=1e-5)
    assert scored.to_json()["label_accuracy"] == scored.label_accuracy
    assert "label_accuracy" not in count(logits, labels).to_json()


@pytest.mark.parametrize("scores", [Scores(1), Scores(5, per_label=True)])
def test_the_mean_of_mirrored_sigmoids_is_that_of_probabilities(scores):
    images = keras.Input((4, 6, 3))
    inputs = keras.layers.Flatten()(images)
    model = adopt(keras.Model(images, keras.layers.Dense(scores.units)(inputs)), unbiased=False)
    pixels = np.random.default_rng(0).normal(size=(7, 4, 6, 3)).astype(np.float32)
    logits, _ = Averaged(KerasSubject(model, scores), mirrored).forward("moving")(pixels)
    expected = np.mean([keras.ops.sigmoid(model(one)) for one in (pixels, pixels[:, :, ::-1])], axis=0)
    found = keras.ops.sigmoid(logits) if scores.per_label else keras.ops.softmax(logits)[:, 1:]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_temperature_divides_the_logits(evaluator, split):
    pixels = split.images.astype(np.float32)
    plain, divided = (one.forward("moving")(pixels)[0] for one in (evaluator._subject, Tempered(evaluator._subject, 4)))
    np.testing.assert_allclose(divided, np.asarray(plain) / 4, rtol=1e-6)
