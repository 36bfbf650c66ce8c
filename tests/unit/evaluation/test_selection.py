"""Which epoch is kept, by each of the scores."""

import pytest

from finetune.evaluation.selection import common_selection, kept_epoch, selection_score

ROWS = [
    {"epoch": 1, "validation_accuracy": 0.9, "validation_macro_f1": 0.2, "validation_loss": 0.7},
    {"epoch": 2, "validation_accuracy": 0.9, "validation_macro_f1": 0.6, "validation_loss": 0.3},
    {"epoch": 3, "validation_accuracy": 0.5, "validation_macro_f1": 0.5, "validation_loss": None},
    {"epoch": 4, "validation_accuracy": 0.6, "validation_macro_f1": 0.1, "validation_loss": 0.4},
]


@pytest.mark.parametrize(("select_by", "best"), [("accuracy", 1), ("macro-f1", 2), ("loss", 2)])
def test_the_best_epoch_with_patience_and_the_last_without(select_by, best):
    assert kept_epoch(ROWS, patience=True, select_by=select_by)["epoch"] == best
    assert kept_epoch(ROWS, patience=False, select_by=select_by)["epoch"] == 4


def test_a_score_that_is_not_known():
    assert selection_score(ROWS[2], "loss") is None
    assert selection_score({"validation_loss": float("nan")}, "loss") is None
    assert kept_epoch(ROWS, patience=True, select_by="balanced-accuracy") is None
    assert kept_epoch([], patience=True) is None


def test_runs_that_name_different_scores_are_ranked_by_accuracy():
    assert common_selection(["macro-f1", "macro-f1"]) == "macro-f1"
    assert common_selection(["macro-f1", "loss"]) == common_selection([]) == "accuracy"
