import numpy as np
import pytest

from finetune.data.sources.label_lists import named_labels, numbered
from finetune.errors import FinetuneError

PLACES = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("found", "several", "expected"),
    [
        ([(0, 1), (1, 0), (0, 1)], False, [1, 0, 1]),
        ([(0, 1), (1, 0), (0, 1)], True, [[0, 1], [1, 0], [0, 1]]),
        ([(0, 1), (1, 1), (0, 0)], False, [[0, 1], [1, 1], [0, 0]]),
        ([(2,), (0, 2), ()], False, [[0, 0, 1], [1, 0, 1], [0, 0, 0]]),
        ([2, (1, 0), 1], False, [[0, 0, 1], [1, 1, 0], [0, 1, 0]]),
        ([2, 0, 1], False, [2, 0, 1]),
        ([2, 0, 1], True, [[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    ],
)
def test_lists_are_rows_or_numbers(found, several, expected):
    labels = numbered(found, PLACES, "label", several=several)
    assert labels.tolist() == expected
    assert labels.dtype == (np.uint8 if np.ndim(expected) == 2 else np.int64)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([(0, 1), (0, 2.5), (1,)], "b has the labels 0, 2.5 in label: expected a row of 0 and 1 as long as all others"),
        ([(0, 1), (0, float("nan")), (1,)], "b has the labels 0, nan"),
        ([(0, 1), (1, -1), (1,)], "or the numbers of labels from 0 on, which -1 is not"),
        ([(0,), (), (1,)], r"b has no label of numbers: expected a label of each image, .* give --multi-label"),
    ],
)
def test_other_numbers_are_refused_with_their_place(found, said):
    with pytest.raises(FinetuneError, match=said):
        numbered(found, PLACES, "label", several=False)


def test_columns_get_the_names_of_their_numbers():
    hot = np.array([[0, 1, 0], [0, 1, 1]], np.uint8)
    assert named_labels(hot, None, "x")[0] == ("1", "2")
    names, labels = named_labels(hot, {0: "a", 1: "b", 2: "c", 3: "d"}, "x")
    assert (names, labels.tolist()) == (("a", "b", "c", "d"), [[0, 1, 0, 0], [0, 1, 1, 0]])
    with pytest.raises(FinetuneError, match=r"a label is 2, which labels\.txt does not name"):
        named_labels(hot, {1: "b"}, "x")
