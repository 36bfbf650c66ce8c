"""What is kept of each image: held against SciPy, and read back from files that may be damaged."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from finetune.errors import FinetuneError
from finetune.evaluation.predictions import _NAMES, join_predictions, load_predictions, predictions_from_logits


def logits(n=200, classes=8, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, classes)) * 4).astype(np.float32), rng.integers(0, classes, n)


def test_probabilities_as_scipy_has_them():
    scores, labels = logits()
    said = predictions_from_logits(scores, labels)
    exact = softmax(scores.astype(np.float64), axis=1)
    order = np.argsort(-exact, axis=1)[:, :5]
    assert np.array_equal(said.top_classes, order)
    assert said.top_probabilities == pytest.approx(np.take_along_axis(exact, order, 1), rel=1e-6)
    own = log_softmax(scores.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    assert said.label_log_probability == pytest.approx(own, rel=1e-6)
    assert np.array_equal(said.correct, scores.argmax(axis=1) == labels)


def test_ties_fewer_classes_than_five_and_logits_that_are_not_finite():
    said = predictions_from_logits(
        np.array([[1.0, 1.0, 0.0], [np.nan, 0.0, 1.0], [0.0, np.inf, 1.0]]), np.array([1, 2, 1])
    )
    assert said.top_classes.tolist() == [[0, 1, 2], [-1] * 3, [-1] * 3]
    assert said.confidences.tolist() == [pytest.approx(np.e / (2 * np.e + 1)), 0, 0]
    assert said.label_log_probability[1] == -np.inf
    assert not said.correct.any()


def test_images_of_one_batch_have_nothing_to_do_with_each_other():
    """Not their scale, in which a common maximum would lose the smaller, nor their order."""
    scores = np.array([[1e4, 0.0, -5.0], [0.0, 2.0, 1.0]])
    said = predictions_from_logits(scores, np.array([0, 2]))
    assert said.top_classes.tolist() == [[0, 1, 2], [1, 2, 0]]
    assert said.top_probabilities[1] == pytest.approx(softmax(scores[1])[[1, 2, 0]], rel=1e-6)
    assert said.label_log_probability == pytest.approx(log_softmax(scores, axis=1)[[0, 1], [0, 2]], rel=1e-6)


def test_of_many_equal_logits_the_lower_classes_come_first():
    """As argmax has it; NumPy's own order of equal values is another."""
    scores = np.random.default_rng(0).integers(0, 3, (20, 100)).astype(np.float32)
    expected = [sorted(range(100), key=lambda place: (-row[place], place))[:5] for row in scores]
    assert predictions_from_logits(scores, np.zeros(20, int)).top_classes.tolist() == expected


def test_what_is_kept_is_of_the_types_it_says():
    said = predictions_from_logits(*logits())
    kinds = [getattr(said, name).dtype.name for name in _NAMES]
    assert kinds == ["int64", "int64", "float32", "float32"]
    nothing = predictions_from_logits(np.full((1, 3), np.nan), np.array([0]))
    assert nothing.top_probabilities.tolist() == [[0, 0, 0]]


def test_huge_logits_do_not_overflow():
    said = predictions_from_logits(np.array([[3e38, -3e38]], np.float32), np.array([1]))
    assert said.confidences.tolist() == [1.0]
    assert said.label_log_probability[0] == np.finfo(np.float32).min


def test_joined_saved_and_read_back(tmp_path):
    scores, labels = logits()
    parts = [predictions_from_logits(scores[part], labels[part]) for part in (slice(0, 64), slice(64, 200))]
    whole, path = predictions_from_logits(scores, labels), tmp_path / "predictions.npz"
    join_predictions(parts).save(path)
    read = load_predictions(path, classes=8)
    for name in ("labels", "top_classes", "top_probabilities", "label_log_probability"):
        assert np.array_equal(getattr(read, name), getattr(whole, name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, "it has no 'labels'"),
        ({"labels": np.full(200, 8)}, "classes beyond 0 to 7"),
        ({"labels": np.full(200, -1)}, "classes beyond 0 to 7"),
        ({"labels": np.zeros((200, 2), int)}, "not of a model with 8 classes"),
        ({"top_classes": np.full((200, 5), 9)}, "classes beyond 0 to 7"),
        ({"top_classes": np.zeros((200, 3), int)}, "not of a model with 8 classes"),
        ({"top_classes": np.zeros((200, 5))}, "of another type"),
        ({"top_probabilities": np.full((200, 5), np.nan, np.float32)}, "not finite"),
        ({"labels": np.array([{}] * 200, object)}, "damaged"),
        ({"top_classes": np.full((200, 5), -2)}, "classes beyond 0 to 7"),
        ({"top_classes": np.full((200, 5), 8)}, "classes beyond 0 to 7"),
        (
            {
                "labels": np.zeros(0, int),
                "top_classes": np.zeros((0, 5), int),
                "top_probabilities": np.zeros((0, 5)),
                "label_log_probability": np.zeros(0),
            },
            "classes beyond 0 to 7",
        ),
    ],
)
def test_files_that_will_not_do(tmp_path, change, words):
    said = predictions_from_logits(*logits())
    names = ("labels", "top_classes", "top_probabilities", "label_log_probability")
    arrays = {**{name: getattr(said, name) for name in names}, **change}
    path = tmp_path / "predictions.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(FinetuneError, match=words) as raised:
        load_predictions(path, classes=8)
    assert str(path) in str(raised.value)
    assert "delete it, and the run is scored again" in str(raised.value)


def test_a_file_of_another_model(tmp_path):
    path = tmp_path / "predictions.npz"
    predictions_from_logits(*logits()).save(path)
    with pytest.raises(FinetuneError, match="not of a model with 3 classes"):
        load_predictions(path, classes=3)
