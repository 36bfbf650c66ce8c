import numpy as np

from finetune.data.dataset import Split, hold_out, stratified_subset
from finetune.data.label_sets import label_counts, multi_hot, strata

LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 0, 0], [0, 1, 0]], np.uint8)


def test_an_image_counts_for_its_rarest_label():
    assert multi_hot([("b", "a"), ()], ("a", "b")).tolist() == [[1, 1], [0, 0]]
    assert label_counts(LABELS, 3).tolist() == [4, 2, 1]
    assert strata(LABELS).tolist() == [0, 1, 3, 2, 0, 1]
    assert strata(np.array([2, 0])).tolist() == [2, 0]


def test_rare_labels_are_held_out_in_proportion():
    rng = np.random.default_rng(0)
    labels = (rng.random((1000, 4)) < [0.5, 0.2, 0.05, 0.02]).astype(np.uint8)
    split = Split(np.zeros((1000, 1, 1, 1), np.uint8), labels)
    for part, share in ((hold_out(split, 0.2, 0)[1], 0.2), (stratified_subset(split, 1000, 0), 1.0)):
        assert np.all(np.abs(label_counts(part.labels, 4) - share * label_counts(labels, 4)) <= [20, 12, 1, 1])
