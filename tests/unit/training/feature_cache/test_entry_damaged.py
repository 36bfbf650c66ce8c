"""Features that have changed on the disk are computed anew, said once, and never trained on."""

import os

import numpy as np
import pytest

from finetune.training.feature_cache import feature_store, preparing
from finetune.training.feature_cache.entry import RECORD
from tests.processes.test_shared_features import PROGRAM
from tests.support.small_features import CONFIG, classifier, generated, trained
from tests.support.warm_process import WarmProcess


@pytest.fixture
def filled(home):
    """A run's outcome, and the entry it filled: 150 rows, and the test images' in another one."""
    first = trained(classifier(), generated(), CONFIG)
    path = next(one.path for one in feature_store.entries() if one.about["statistics"] == "moving")
    assert first.about["computed"] == 150 + 32
    return first, path


def flip(path, byte, mask=0x10):
    with path.open("r+b") as file:
        file.seek(byte)
        (value,) = file.read(1)
        file.seek(byte)
        file.write(bytes([value ^ mask]))


def changes(path):
    row = (path / "rows.bin").stat().st_size // 150

    def cut(name, size):
        return lambda: os.truncate(path / name, size)

    return {
        "one bit of a row": (1, 1, lambda: flip(path / "rows.bin", 17 * row + 5)),
        "a bit of three rows": (3, 3, lambda: [flip(path / "rows.bin", n * row) for n in (0, 80, 149)]),
        "a checksum": (1, 1, lambda: flip(path / "index.bin", 9 * RECORD.itemsize + 17)),
        "a name": (1, 0, lambda: flip(path / "index.bin", 9 * RECORD.itemsize + 3)),
        "rows cut": (51, 0, cut("rows.bin", 99 * row + 7)),
        "index cut": (50, 0, cut("index.bin", 100 * RECORD.itemsize)),
        "rows gone": (150, 0, cut("rows.bin", 0)),
        "a block of zeros": (150, 150, lambda: (path / "rows.bin").write_bytes(bytes(150 * row))),
    }


KINDS = ["one bit of a row", "a bit of three rows", "a checksum", "a name", "rows cut", "index cut", "rows gone",
         "a block of zeros"]  # fmt: skip


SLOW = ("a bit of three rows", "index cut", "rows gone", "a block of zeros")


@pytest.mark.slow
@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("what", [pytest.param(what, marks=pytest.mark.slow if what in SLOW else []) for what in KINDS])
def test_changed_rows_are_computed_anew_and_said_once(what, filled):
    first, path = filled
    computed, told, change = changes(path)[what]
    change()
    again = trained(classifier(), generated(), CONFIG)
    assert again.about["computed"] == computed
    said = [one for one in again.said if "have changed since they were written" in one]
    assert len(said) == (told > 0)
    if told:
        assert f"{told} of 150 rows of {path} have changed" in said[0]
    assert again.losses == first.losses
    for a, b in zip(again.weights, first.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    # Mended: the next run reads everything.
    third = trained(classifier(), generated(), CONFIG)
    assert (third.about["computed"], [one for one in third.said if "changed" in one]) == (0, [])
    assert third.losses == first.losses


@pytest.mark.slow
def test_a_damaged_row_under_batch_statistics_has_its_whole_batch_computed(filled):
    first, _ = filled
    path = next(one.path for one in feature_store.entries() if one.about["statistics"] == "batch")
    flip(path / "rows.bin", 40)
    again = trained(classifier(), generated(), CONFIG)
    assert again.about["computed"] == 16
    assert again.test == first.test


def test_a_disk_that_keeps_nothing_is_not_used(home, monkeypatch):
    monkeypatch.setattr(preparing.Entry, "damaged", lambda self, ids: self.find(ids))
    with pytest.raises(preparing.WrongUse, match="does not keep what is written to it"):
        trained(classifier(), generated(), CONFIG)


@pytest.mark.slow
def test_two_processes_find_the_same_damage(filled):
    """Both get all rows right, whoever disowns them and whoever computes them."""
    small, path = filled
    program = PROGRAM.replace("count=1550", "count=150")
    row = (path / "rows.bin").stat().st_size // 150
    for number in range(0, 150, 10):
        flip(path / "rows.bin", number * row + 1)
    both = [WarmProcess(program, "0.02") for _ in range(2)]
    try:
        for one in both:
            assert one.stdout.readline() == "ready\n"
        for one in both:
            one.stdin.write("\n")
            one.stdin.flush()
        for one in both:
            one.communicate(timeout=300)
            assert one.returncode == 0
    finally:
        for one in both:
            one.kill()
            one.wait()
    after = trained(classifier(), generated(), CONFIG)
    assert (after.about["computed"], [one for one in after.said if "changed" in one]) == (0, [])
    assert after.losses == small.losses
