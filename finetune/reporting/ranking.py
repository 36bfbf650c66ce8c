"""Rank runs: repeats with other seeds are pooled, and each is compared with the best by the noise of the test set."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.config import settings_with
from finetune.evaluation import significance
from finetune.evaluation.predictions import AnyPredictions
from finetune.evaluation.selection import common_selection, score_name, selection_score
from finetune.reporting.record import RunRecord

_NOT_COMPARED = settings_with("not_compared")
ANOTHER_TEST_SET = "another test set"


def rank_runs(
    records: Sequence[RunRecord], predictions: Mapping[str, AnyPredictions]
) -> tuple[list[RunRecord], dict[str, Any]]:
    """The runs in order, ranked ones first, then those without a result; and the part of a report about all runs.

    `predictions` are those of the finished runs, by name. A group is finished runs that differ only in the seed.
    `gained` and `lost` are set where its test images could be compared one by one with those of the best group.
    """
    together: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.result is not None:
            settings = {k: v for k, v in record.config.to_json().items() if k not in ("seed", *_NOT_COMPARED)}
            together.setdefault(repr(settings), []).append(record)
    groups = list(together.values())
    select_by = common_selection(one.config.select_by for group in groups for one in group)
    results = [_results(group, select_by) for group in groups]
    by, order = significance.rank_results(results)
    score = score_name(select_by)
    ranked = []
    for rank, position in enumerate(order, 1):
        mine, best, result = groups[position], groups[order[0]], results[position]
        pairs = None
        if len(mine) == len(best) == 1 and rank > 1 and _same_images(mine[0], best[0], predictions):
            pairs = significance.compare_paired(predictions[mine[0].name].outcomes, predictions[best[0].name].outcomes)
        words = "best" if rank == 1 else significance.difference_words(result, results[order[0]], pairs)
        comparable = all(_comparable(one, best[0], predictions) for one in mine)
        group = {
            "rank": rank,
            "name": result.name,
            "runs": [one.name for one in mine],
            "test_accuracy": result.mean,
            "test_accuracy_spread": result.spread,
            "standard_error": result.variance**0.5,
            "validation_accuracy": result.validation_mean,
            "validation_accuracy_spread": result.validation_spread,
            "select_by": select_by,
            "validation_selected": significance.mean_of([one.kept.get(f"validation_{score}") for one in mine]),
            "test_selected": significance.mean_of([one.test_scores.get(score) for one in mine]),
            "verdict": words if comparable else ANOTHER_TEST_SET,
            "gained": pairs.gained if pairs else None,
            "lost": pairs.lost if pairs else None,
        }
        ranked.append(group)
    finished = [record for position in order for record in groups[position]]
    about = {
        "ranked_by": f"{by}_{score if by == 'validation' else 'accuracy'}" if ranked else None,
        "ranking": significance.ranking_words(by, score=select_by) if ranked else None,
        "within_noise": significance.FORMULA,
        "within_noise_paired": significance.PAIRED_FORMULA,
        "differs": _differs(records),
        "remarks": _remarks(finished, predictions),
        "groups": ranked,
    }
    return [*finished, *(record for record in records if record.result is None)], about


def _results(group: list[RunRecord], select_by: str) -> significance.Repeats:
    seeds = len({one.config.seed for one in group})
    repeats = f" ({len(group)} {'seeds' if seeds == len(group) else 'runs'})" if len(group) > 1 else ""
    return significance.Repeats(
        name=group[0].name + repeats,
        test=tuple(one.test for one in group),
        validation=tuple(one.validation for one in group),
        examples=min(one.examples for one in group),
        selected=None if select_by == "accuracy" else tuple(selection_score(one.kept, select_by) for one in group),
    )


def _differs(records: Sequence[RunRecord]) -> list[str]:
    """Settings that differ between the runs, in the order of the config, without those that do not change a result."""
    names = [name for name in records[0].config.to_json() if name not in _NOT_COMPARED] if records else []
    return [name for name in names if len({repr(getattr(one.config, name)) for one in records}) > 1]


def _same_images(one: RunRecord, other: RunRecord, predictions: Mapping[str, AnyPredictions]) -> bool:
    """Whether both were tested on the same images in the same order.

    Equal labels are not enough: a test set drawn from folders by another seed has the same labels in the same order.
    """
    if not np.array_equal(predictions[one.name].labels, predictions[other.name].labels):
        return False
    assert one.result is not None
    assert other.result is not None
    fingerprint = one.result.get("data_fingerprint")
    if fingerprint and fingerprint == other.result.get("data_fingerprint"):
        return True
    drawn = ("data", "test", "seed", "skip_bad_images")
    return one.data.get("source") == other.data.get("source") and all(
        getattr(one.config, name) == getattr(other.config, name) for name in drawn
    )


def _comparable(one: RunRecord, other: RunRecord, predictions: Mapping[str, AnyPredictions]) -> bool:
    """Whether both test sets have the same classes, and the same number of images of each."""
    mine, others = (np.sort(predictions[record.name].labels, axis=0) for record in (one, other))
    return one.class_names == other.class_names and np.array_equal(mine, others)


def _remarks(finished: Sequence[RunRecord], predictions: Mapping[str, AnyPredictions]) -> list[str]:
    others = [one.name for one in finished[1:] if not _comparable(one, finished[0], predictions)]
    if not others:
        return []
    return [
        f"{', '.join(others)} {'was' if len(others) == 1 else 'were'} tested on other images or classes than "
        f"{finished[0].name}: these accuracies cannot be compared"
    ]
