"""The budget, who goes first, who stays, and what is left behind."""

import os
import shutil
from collections import namedtuple

import numpy as np
import pytest

from finetune.errors import WrongUse
from finetune.training.feature_cache import feature_store
from finetune.training.feature_cache.keys import of_places

ROW = 1000 * 4 + 20
ABOUT = {"shape": [1000], "dtype": "float32", "cut": "pool"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    return tmp_path


def made(key, rows, *, used, budget=None):
    ids = of_places(rows)
    with feature_store.opened(key, ABOUT, ids, budget=budget) as entry:
        entry.append(ids, np.zeros((rows, 1000), np.float32))
    os.utime(feature_store.cache_folder() / key / "about.json", (used, used))


def keys():
    return [one.key for one in feature_store.entries()]


def test_entries_are_listed_with_the_least_recently_used_first():
    made("a", 3, used=200)
    made("b", 5, used=100)
    assert keys() == ["b", "a"]
    first = feature_store.entries()[0]
    assert (first.images, first.size, first.busy, first.about["cut"]) == (5, 5 * ROW, False, "pool")
    with feature_store.opened("b", ABOUT, of_places(5), budget=None):
        assert [one.busy for one in feature_store.entries()] == [False, True]
    assert keys() == ["a", "b"]  # used just now


def test_the_least_recently_used_make_room_and_no_more_than_needed():
    for number, key in enumerate("abcd"):
        made(key, 10, used=100 + number, budget=40 * ROW)
    made("e", 15, used=200, budget=40 * ROW)
    assert keys() == ["c", "d", "e"]


def test_an_entry_that_grows_is_counted_with_what_it_will_have():
    made("a", 10, used=100, budget=40 * ROW)
    made("b", 10, used=101, budget=40 * ROW)
    made("b", 31, used=102, budget=40 * ROW)
    assert keys() == ["b"]
    assert feature_store.entries()[0].images == 41  # rows are added by whoever opened it, here without looking


def test_what_runs_hold_stays_and_what_does_not_fit_is_refused_without_removing_anything():
    made("a", 10, used=100)
    with feature_store.opened("b", ABOUT, of_places(20), budget=40 * ROW) as held:
        # 20 rows are announced, though none is written yet.
        with (
            pytest.raises(feature_store.OverBudget, match=r"other runs are using .* of --cache-budget"),
            feature_store.opened("c", ABOUT, of_places(21), budget=40 * ROW),
        ):
            pass
        assert sorted(keys()) == ["a", "b"]
        made("c", 20, used=300, budget=40 * ROW)
        assert sorted(keys()) == ["b", "c"]
        held.append(of_places(1), np.zeros((1, 1000), np.float32))
    with (
        pytest.raises(feature_store.OverBudget, match="more than --cache-budget"),
        feature_store.opened("d", ABOUT, of_places(9), budget=0),
    ):
        pass
    assert sorted(keys()) == ["b", "c"]
    assert sorted(path.name for path in feature_store.cache_folder().iterdir()) == [".lock", "b", "c"]


def test_by_default_a_quarter_of_the_disk_and_never_the_last_of_it(monkeypatch):
    usage = namedtuple("usage", "total used free")
    spare = 2**28
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 400 * ROW))
    assert feature_store.default_budget() == 100 * ROW
    with pytest.raises(feature_store.OverBudget, match="a quarter of the free disk"):
        made("a", 101, used=1)
    # The budget would allow it, the disk does not: 256 MiB are left for the runs themselves.
    with pytest.raises(feature_store.OverBudget, match=r"has .* free"):
        made("a", 10, used=1, budget=100 * ROW)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, spare + 11 * ROW))
    made("a", 10, used=1, budget=100 * ROW)
    assert keys() == ["a"]


def test_clear_removes_all_or_some_and_never_what_is_in_use():
    for key in ("aa1", "aa2", "bb1"):
        made(key, 1, used=1)
    with pytest.raises(WrongUse, match=r"no entry 'x' in the cache: .* there is aa1, aa2, bb1"):
        feature_store.clear(("x",))
    removed, held = feature_store.clear(("aa1",))
    assert ([one.key for one in removed], held) == (["aa1"], [])
    with feature_store.opened("bb1", ABOUT, of_places(1), budget=None) as entry:
        removed, held = feature_store.clear()
        assert ([one.key for one in removed], [one.key for one in held]) == (["aa2"], ["bb1"])
        assert len(entry) == 1
    feature_store.clear()
    assert keys() == []


def test_a_place_that_is_not_there_is_an_empty_cache(home):
    assert (feature_store.entries(), feature_store.clear()) == ([], ([], []))
    assert not any(home.iterdir())


def test_what_a_killed_process_was_making_or_removing_goes_with_the_next():
    made("a", 1, used=1)
    (feature_store.cache_folder() / "half").mkdir()
    (feature_store.cache_folder() / "half" / "rows.bin").write_bytes(b"x")
    shutil.copytree(feature_store.cache_folder() / "a", feature_store.cache_folder() / ".removed.b")
    (feature_store.cache_folder() / "odd").mkdir()
    (feature_store.cache_folder() / "odd" / "about.json").write_text('{"planned": "x"}')
    for number, shape in enumerate(("[0]", '["x"]', "[1e999]")):
        (feature_store.cache_folder() / f"shape{number}").mkdir()
        (feature_store.cache_folder() / f"shape{number}" / "about.json").write_text(
            f'{{"planned": 1, "dtype": "float32", "shape": {shape}}}'
        )
    assert keys() == ["a"]
    made("c", 1, used=2)
    assert sorted(path.name for path in feature_store.cache_folder().iterdir()) == [".lock", "a", "c"]


def test_no_permission_and_no_directory_are_errors_with_a_place(home):
    (home / "features").write_text("a file")
    with pytest.raises(NotADirectoryError) as caught:
        made("a", 1, used=1)
    assert caught.value.filename == str(home / "features")
