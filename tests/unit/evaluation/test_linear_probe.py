"""The linear probe: labels that were changed on purpose, sets that were moved on purpose, scikit-learn's own area."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from finetune.evaluation import linear_probe
from finetune.evaluation.linear_probe import TooFew, drift, suspect_labels


def clusters(count, classes=4, width=20, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = rng.normal(0, 1.2, (classes, width))
    return (centres[labels] + rng.normal(0, 1, (count, width))).astype(np.float32), labels


def test_changed_labels_come_first():
    features, labels = clusters(600)
    chosen = np.random.default_rng(1).permutation(600)[:12]
    changed = labels.copy()
    changed[chosen] = (changed[chosen] + 1) % 4
    found = suspect_labels(features, changed)
    assert np.isin(chosen, found.ranked()[:18]).all()
    assert np.isin(chosen, found.suspects(changed, 0.03)).all()
    assert len(found.suspects(changed, 0.03)) <= 18
    assert len(found.suspects(changed, 0.01)) == 6
    assert np.array_equal(found.predicted[chosen], labels[chosen])
    assert found.judged.all()
    assert found.accuracy > 0.95


def test_classes_with_few_images_are_not_judged():
    features, labels = clusters(200)
    labels[:3], labels[3:7] = 11, 12
    found = suspect_labels(features, labels)
    assert np.array_equal(found.judged, ~np.isin(labels, (11, 12)))
    assert np.isnan(found.confidence[:7]).all()
    assert (found.predicted[:7] == -1).all()
    assert not set(found.ranked()) & set(range(7))
    with pytest.raises(TooFew, match="fewer than two classes"):
        suspect_labels(features, np.zeros(200, np.int64))


def test_many_classes_are_judged_by_components(monkeypatch):
    monkeypatch.setattr(linear_probe, "_MANY", 11)
    monkeypatch.setattr(linear_probe, "_COMPONENTS", 16)
    features, labels = clusters(240, classes=12, width=40)
    assert suspect_labels(features, labels).accuracy > 0.9


def test_areas_are_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    scores, which = rng.integers(0, 30, (90, 4)).astype(float), rng.integers(0, 2, (90, 4))
    expected = [roc_auc_score(which[:, one], scores[:, one]) for one in range(4)]
    assert linear_probe._areas(scores, which) == pytest.approx(expected)


def test_sets_that_are_alike_and_sets_that_are_not():
    features, _ = clusters(800)
    alike = drift(features[:500], features[500:])
    assert not alike.differs
    assert alike.images == (500, 300)
    assert 0.5 < alike.bound < 0.62
    moved = drift(features[:500], features[500:] + 0.5)
    assert moved.differs
    assert moved.auc > 0.8
    with pytest.raises(TooFew, match="19 images in a set"):
        drift(features[:500], features[:19])


@pytest.mark.slow
def test_the_bound_keeps_its_promise():
    rng = np.random.default_rng(5)
    wrong = sum(drift(*rng.normal(size=(2, 60, 8)), seed=seed).differs for seed in range(60))
    assert wrong <= 8  # 3 are expected; more than 8 come once in 300 times
