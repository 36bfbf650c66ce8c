"""When one result is better than another: seeds, test sets, images one by one."""

import math

import numpy as np
import pytest

from finetune.evaluation.significance import Paired, Repeats, compare_paired, difference_words, rank_results


def single(name, test, validation=None, examples=1000):
    return Repeats(name, (test,), (validation,), examples)


def test_variance_pools_the_test_set_and_the_seeds():
    tests = (0.91, 0.93, 0.90)
    found = Repeats("a", tests, (None,) * 3, 2000)
    p = np.mean(tests)
    assert found.variance == pytest.approx(p * (1 - p) / 2000 + np.var(tests, ddof=1) / 3)
    assert single("b", 0.9).variance == pytest.approx(0.9 * 0.1 / 1000)


def test_a_repeat_without_a_result_does_not_count():
    found = Repeats("a", (0.9, None, 0.8), (0.7, 0.7, None), 1000)
    assert found.mean == pytest.approx(0.85)
    assert found.variance == pytest.approx(0.85 * 0.15 / 1000 + np.var([0.9, 0.8], ddof=1) / 2)
    assert found.validation_mean is None


def test_images_that_differ_decide_where_accuracies_cannot():
    """90 % and 91 % of 10,000 images: plain where only 100 images differ, noise where 5,000 do."""
    best, other = single("best", 0.91, examples=10_000), single("other", 0.90, examples=10_000)
    assert difference_words(single("x", 0.905, examples=10_000), best) == "= best within noise"
    assert difference_words(other, best, Paired(gained=0, lost=100)) == "-1.0 points"
    assert difference_words(other, best, Paired(gained=2450, lost=2550)) == "= best within noise"


def test_the_edge_of_noise_among_images_that_differ():
    assert Paired(gained=36, lost=64).within_noise is False  # 28 of 100: 2.8 standard errors
    assert Paired(gained=40, lost=60).within_noise is True  # 20 of 100: exactly two
    assert Paired(0, 0).within_noise is True


def test_paired_counts():
    one, reference = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 0], bool)
    assert compare_paired(one, reference) == Paired(gained=2, lost=1)


def test_ranked_by_validation_only_where_all_have_it():
    results = [single("a", 0.9, 0.5), single("b", 0.6, 0.8)]
    assert rank_results(results) == ("validation", [1, 0])
    assert rank_results([*results, single("c", 0.7)]) == ("test", [0, 2, 1])
    assert rank_results([]) == ("validation", [])


def test_images_that_are_right_in_part_are_paired_as_whole_ones_are():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 100)) < 0.6
    whole, parts = compare_paired(one, other), compare_paired(one.astype(float), other.astype(float))
    assert (parts.gained, parts.lost, parts.standard_error) == (whole.gained, whole.lost, whole.standard_error)
    assert parts.interval(100) == whole.interval(100)
    halves = compare_paired(one / 2, other / 2)
    assert halves.standard_error == whole.standard_error / 2
    both = whole + halves
    assert both.standard_error == pytest.approx(math.hypot(whole.standard_error, halves.standard_error))
    assert both.reversed().gained == both.lost
