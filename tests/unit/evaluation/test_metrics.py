"""Confusion, scores and calibration, held against scikit-learn and against plain loops."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from finetune.evaluation import metrics

CLASSES = 7


def drawn(seed=0, n=500):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES - 1, n)  # the last class has no image
    predicted = np.where(rng.random(n) < 0.6, labels, rng.integers(1, CLASSES, n))
    predicted[predicted == 2] = 3  # class 2 is never predicted
    return labels, predicted


def test_confusion_and_scores_as_scikit_learn_has_them():
    labels, predicted = drawn()
    names = range(CLASSES)
    assert np.array_equal(
        metrics.confusion(labels, predicted, CLASSES), confusion_matrix(labels, predicted, labels=names)
    )
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=np.nan
    )
    scores = metrics.per_class(labels, predicted, CLASSES)
    for place, score in enumerate(scores):
        found = [np.nan if value is None else value for value in (score.precision, score.recall, score.f1)]
        assert found == pytest.approx([precision[place], recall[place], f1[place]], nan_ok=True)
        assert score.images == support[place]
        assert score.predicted == np.sum(predicted == place)
    assert scores[2].precision is None
    assert scores[CLASSES - 1].recall is None
    with_images = list(range(CLASSES - 1))
    expected = f1_score(labels, predicted, labels=with_images, average="macro", zero_division=0)
    assert metrics.macro_f1(scores) == pytest.approx(expected)
    some = labels[labels != 0]  # scikit-learn warns of predicted classes without images
    scores = metrics.per_class(some, predicted[labels != 0], CLASSES)
    with pytest.warns(UserWarning, match="not in y_true"):
        assert metrics.balanced_accuracy(scores) == pytest.approx(balanced_accuracy_score(some, predicted[labels != 0]))


def test_a_threshold_has_the_largest_f1_of_all_there_are():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    probabilities = rng.dirichlet(np.ones(4), 60) + np.eye(4)[labels]
    probabilities = np.round(probabilities / probabilities.sum(axis=1, keepdims=True), 2)  # with ties
    found = metrics.thresholds(probabilities, labels)
    for label, one in enumerate(found[:3]):
        own, values = labels == label, probabilities[:, label]
        every = {cut: f1_score(own, values >= cut) for cut in np.unique(values)}
        assert one.f1 == pytest.approx(max(every.values()))
        assert f1_score(own, values >= one.threshold) == pytest.approx(one.f1)
        assert one.images == own.sum()
        least = max(cut for cut, f1 in every.items() if f1 == max(every.values()))
        below = max(np.unique(values)[np.unique(values) < least])
        assert one.threshold == pytest.approx((least + below) / 2)
    assert found[3] == metrics.Threshold(None, None, 0)
    # Where all images are of the class, all pass: the limit lies between the lowest probability and 0.
    assert metrics.thresholds(np.array([[0.4, 0.6], [0.8, 0.2]]), np.array([0, 0]))[0] == metrics.Threshold(0.2, 1.0, 2)


def test_what_got_no_prediction_is_a_miss_and_nowhere_in_the_matrix():
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, -1, 1, 0])
    assert metrics.confusion(labels, predicted, 2).tolist() == [[1, 0], [1, 1]]
    first, second = metrics.per_class(labels, predicted, 2)
    assert (first.precision, first.recall) == (0.5, 0.5)
    assert (second.precision, second.recall) == (1.0, 0.5)


def test_classes_beyond_those_predicted_have_scores_too():
    first, second, third = metrics.per_class(np.array([0, 0, 1]), np.array([0, 0, 0]), 3)
    assert (first.f1, second.f1, third.f1) == (pytest.approx(4 / 5), 0, None)
    assert (second.precision, second.predicted, third.images) == (None, 0, 0)


def test_calibration_error_bin_by_bin():
    rng = np.random.default_rng(1)
    sure = rng.beta(3, 1.5, 2000).astype(np.float32)
    right = rng.random(2000) < sure**2
    found = metrics.calibration(sure, right)
    expected, largest = 0.0, 0.0
    for m in range(1, 16):
        inside = (sure.astype(np.float64) > (m - 1) / 15) & (sure.astype(np.float64) <= m / 15)
        if inside.any():
            gap = abs(right[inside].mean() - sure[inside].astype(np.float64).mean())
            expected += gap * inside.sum() / 2000
            largest = max(largest, gap)
        one = found.bins[m - 1]
        assert (one.low, one.high, one.images) == ((m - 1) / 15, m / 15, inside.sum())
        if inside.any():
            assert one.confidence == pytest.approx(sure[inside].astype(np.float64).mean())
            assert one.accuracy == pytest.approx(right[inside].mean())
    assert found.expected_error == pytest.approx(expected)
    assert found.largest_error == pytest.approx(largest)


def test_calibration_at_the_edges():
    certain = metrics.calibration(np.array([1.0, 1.0, 0.0]), np.array([True, False, False]))
    assert [one.images for one in certain.bins] == [1, *[0] * 13, 2]
    assert certain.expected_error == pytest.approx(2 / 3 * 0.5)
    assert (certain.bins[5].confidence, certain.bins[5].accuracy) == (None, None)
    assert certain.largest_error == pytest.approx(0.5)
    assert certain.to_json()["bins"][14] == {"low": 14 / 15, "high": 1, "images": 2, "confidence": 1, "accuracy": 0.5}
    right = metrics.calibration(
        np.array([0.5]), np.array([True]), bins=2
    )  # the last bin has no image, the first is off
    assert (right.expected_error, right.largest_error, [one.images for one in right.bins]) == (0.5, 0.5, [1, 0])
    beyond = metrics.calibration(np.array([1 + 1e-7]), np.array([True]))  # a sum of float32, rounded
    assert (len(beyond.bins), beyond.bins[14].images) == (15, 1)


def test_most_confused_come_first_and_hits_do_not_count():
    table = np.array([[90, 2, 0], [7, 1, 0], [0, 3, 5]])
    assert metrics.confused(table, 5) == [(1, 0, 7), (2, 1, 3), (0, 1, 2)]
    assert metrics.confused(table, 1) == [(1, 0, 7)]
    assert metrics.confused(np.diag([3, 4]), 5) == []
    # Of equally common ones the first classes come first, also of more than NumPy keeps in order by itself.
    assert (
        metrics.confused(np.ones((10, 10), int), 12)
        == [(true, taken, 1) for true in (0, 1) for taken in range(10) if taken != true][:12]
    )


def test_average_precision_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, scores = (rng.random((200, 5)) < [0.5, 0.1, 0.02, 0.9, 0]).astype(np.uint8), rng.normal(size=(200, 5))
    scores[:, 1] = np.round(scores[:, 1])  # equal scores
    found = metrics.average_precisions(scores, labels)
    assert found[4] is None
    expected = sklearn.average_precision_score(labels[:, :4], scores[:, :4], average=None)
    np.testing.assert_allclose(found[:4], expected, rtol=0, atol=1e-12)
    assert metrics.mean_average_precision(found) == pytest.approx(expected.mean(), abs=1e-12)
    limits, probabilities = [0.4, 0.6, None, 0.5, None], 1 / (1 + np.exp(-scores))
    at, yes = metrics.scores_at(probabilities, labels, limits), probabilities >= [0.4, 0.6, 0.5, 0.5, 0.5]
    assert at["micro_f1"] == pytest.approx(sklearn.f1_score(labels, yes, average="micro"))
    assert at["macro_f1"] == pytest.approx(sklearn.f1_score(labels[:, :4], yes[:, :4], average="macro"))
    assert at["exact_match"] == sklearn.accuracy_score(labels, yes)
    chosen = metrics.thresholds(probabilities, labels)
    assert [one.images for one in chosen] == labels.sum(axis=0).tolist()
    for label in range(4):
        own = [sklearn.f1_score(labels[:, label], probabilities[:, label] >= one) for one in probabilities[:, label]]
        assert chosen[label].f1 == pytest.approx(max(own))
        decided = probabilities[:, label] >= chosen[label].threshold
        assert sklearn.f1_score(labels[:, label], decided) == pytest.approx(max(own))


def test_r_precision_of_one_label_is_top_1():
    logits = np.array([[3.0, 1, 2], [0, 0, 0], [-1, -2, -3], [1, -1, -1], [2, 1, 3]])
    labels = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 0]], np.uint8)
    assert metrics.r_precision(logits, labels).tolist() == [1.0, 1.0, 1.0, 0.0, 0.5]
    rng = np.random.default_rng(0)
    scores, own = rng.normal(size=(50, 4)).round(), rng.integers(0, 4, 50)
    one_hot = np.eye(4, dtype=np.uint8)[own]
    assert np.array_equal(metrics.r_precision(scores, one_hot), scores.argmax(axis=1) == own)
