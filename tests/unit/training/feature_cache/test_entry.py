"""Rows by the name of their image: whole or not there, whoever was killed when, however many write."""

import os
import signal
import time

import numpy as np
import pytest

from finetune.errors import FinetuneError
from finetune.training.feature_cache.entry import ID, Entry
from tests.support.warm_process import WarmProcess

SHAPE = (3, 2)


def of_places(count):
    """Names; the processes below draw the same without waiting for TensorFlow."""
    return np.frombuffer(np.random.default_rng(1).bytes(16 * 4000), ID)[:count]


@pytest.fixture
def entry(tmp_path):
    opened = Entry(tmp_path, SHAPE, np.dtype("float32"))
    yield opened
    opened.close()


def values(numbers):
    return np.asarray(numbers, np.float32)[:, None, None] + np.arange(6, dtype=np.float32).reshape(SHAPE) / 10


def test_rows_come_back_by_name_in_any_order(entry):
    ids = of_places(50)
    entry.append(ids[:20], values(range(20)))
    entry.append(ids[40:], values(range(40, 50)))
    assert len(entry) == 30
    np.testing.assert_array_equal(entry.find(ids) >= 0, [number < 20 or number >= 40 for number in range(50)])
    for wanted in ([3, 4, 5, 41, 42], [49, 0, 7, 7, 12, 41, 11], [], [0]):
        rows = entry.find(ids[wanted])
        np.testing.assert_array_equal(entry.read(rows), values(wanted))


def test_the_files_are_what_numpy_maps(entry):
    entry.append(of_places(5), values(range(5)))
    mapped = np.memmap(entry.path / "rows.bin", np.float32, "r", shape=(5, *SHAPE))
    np.testing.assert_array_equal(mapped, values(range(5)))


def test_names_with_zeros_at_the_end_are_names_like_others(entry):
    raw = [b"\0" * 16, b"\0" * 15 + b"\1", b"\1" + b"\0" * 15, b"\1" * 16]
    ids = np.frombuffer(b"".join(raw), ID)
    entry.append(ids, values(range(4)))
    np.testing.assert_array_equal(entry.read(entry.find(ids)), values(range(4)))
    assert entry.find(np.frombuffer(b"\1\1" + b"\0" * 14, ID)).tolist() == [-1]


# As a kill leaves them: rows without their names, half a name, a file cut off by a full disk.
@pytest.mark.parametrize(
    ("rows", "index", "whole"), [(10 * 24, 4 * 20, 4), (10 * 24, 4 * 20 + 7, 4), (5 * 24 + 3, 10 * 20, 5), (0, 200, 0)]
)
def test_what_is_half_written_is_not_there_and_is_written_over(entry, rows, index, whole):
    ids = of_places(12)
    entry.append(ids[:10], values(range(10)))
    os.truncate(entry.path / "rows.bin", rows)
    os.truncate(entry.path / "index.bin", index)
    assert len(entry) == whole
    assert np.flatnonzero(entry.find(ids) >= 0).tolist() == list(range(whole))
    rest = np.arange(11, whole - 1, -1)
    entry.append(ids[rest], values(rest))
    np.testing.assert_array_equal(entry.read(entry.find(ids)), values(range(12)))


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error_not_a_crash(entry):
    ids = of_places(4)
    entry.append(ids, values(range(4)))
    rows = entry.find(ids)
    os.truncate(entry.path / "rows.bin", 30)
    with pytest.raises(FinetuneError, match="finetune cache clear"):
        entry.read(rows)


def flipped(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    with path.open("r+b") as file:  # the file the processes hold, not another of its name
        file.write(content)


def test_any_flipped_bit_of_rows_or_index_leaves_no_wrong_row(entry):
    """Every bit of the index, and of the rows a hundred: a row is damaged, or nobody finds it, or it is right."""
    ids, right = of_places(6), values(range(6))
    entry.append(ids, right)
    rows, index = entry.path / "rows.bin", entry.path / "index.bin"
    rng = np.random.default_rng(3)
    for path, bits in ((index, range(6 * 20 * 8)), (rows, rng.choice(6 * 24 * 8, 100, replace=False).tolist())):
        for bit in bits:
            flipped(path, bit)
            again = Entry(entry.path, SHAPE, np.dtype("float32"))  # another process: it has checked nothing yet
            bad = again.damaged(ids)
            found = again.find(ids)
            sound = (found >= 0) & ~np.isin(found, bad)
            assert sound.sum() == 5, (path.name, bit)
            np.testing.assert_array_equal(again.read(found[sound]), right[sound])
            again.close()
            flipped(path, bit)
    assert not len(entry.damaged(ids))


def test_a_row_under_another_rows_name_is_damaged(entry):
    ids = of_places(2)
    entry.append(ids, values(range(2)))
    content = (entry.path / "rows.bin").read_bytes()
    (entry.path / "rows.bin").write_bytes(content[24:] + content[:24])
    assert entry.damaged(ids).tolist() == [0, 1]


def test_disowned_rows_are_none_for_every_process_and_get_new_ones(entry):
    ids = of_places(4)
    entry.append(ids, values(range(4)))
    other = Entry(entry.path, SHAPE, np.dtype("float32"))
    flipped(entry.path / "rows.bin", 24 * 8 * 2 + 5)
    bad = entry.damaged(ids)
    assert bad.tolist() == [2]
    entry.disown(bad)
    assert other.find(ids).tolist() == [0, 1, -1, 3]
    other.append(ids[2:3], values([2]))
    assert not len(entry.damaged(ids))
    np.testing.assert_array_equal(entry.read(entry.find(ids)), values(range(4)))
    other.close()


HOLDER = """
import sys, time
import numpy as np
from pathlib import Path
from finetune.training.feature_cache.entry import Entry
of_places = lambda count: np.frombuffer(np.random.default_rng(1).bytes(16 * 4000), "S16")[:count]
entry = Entry(Path(sys.argv[1]), (3, 2), np.dtype("float32"))
print(entry.claim(of_places(10)[:5]).tolist(), flush=True)
time.sleep(60)
"""


def test_what_another_process_is_at_is_claimed_until_it_is_gone(entry):
    ids = of_places(10)
    other = WarmProcess(HOLDER, str(entry.path))
    try:
        assert other.stdout.readline() == "[True, True, True, True, True]\n"
        assert entry.claim(ids).tolist() == [False] * 5 + [True] * 5
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.close()
    assert entry.claim(ids).all()


WRITER = """
import os, sys
import numpy as np
from pathlib import Path
from finetune.training.feature_cache.entry import Entry
of_places = lambda count: np.frombuffer(np.random.default_rng(1).bytes(16 * 4000), "S16")[:count]
entry = Entry(Path(sys.argv[1]), (3, 2), np.dtype("float32"))
ids, rng = of_places(4000), np.random.default_rng(int(sys.argv[2]))
print("ready", flush=True)
for start in range(0, 4000, 8):
    part = ids[start : start + 8]
    free = entry.claim(part)
    late = entry.find(part) >= 0
    todo = free & ~late
    numbers = np.arange(start, start + 8)[todo]
    if len(numbers):
        base = np.arange(6, dtype=np.float32).reshape(3, 2) / 10
        entry.append(part[todo], numbers.astype(np.float32)[:, None, None] + base)
    entry.release(part[free])
print("done", flush=True)
"""


@pytest.mark.slow
def test_writers_killed_at_any_moment_leave_only_right_rows(entry):
    ids = of_places(4000)
    rng = np.random.default_rng(0)
    for _ in range(4):
        writers = [WarmProcess(WRITER, str(entry.path), str(n)) for n in range(2)]
        for writer in writers:
            writer.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.4))
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.close()
        found = entry.find(ids)
        there = np.flatnonzero(found >= 0)
        np.testing.assert_array_equal(entry.read(found[there]), values(there))
        assert not len(entry.damaged(ids))
    stdout, stderr = WarmProcess(WRITER, str(entry.path), "9").communicate(timeout=300)
    assert stdout.endswith("done\n"), stderr
    np.testing.assert_array_equal(entry.read(entry.find(ids)), values(range(4000)))
    assert len(entry) == 4000  # nobody computed what another had


@pytest.mark.parametrize("how", ["a bit", "another row", "cut and written over"])
def test_a_row_that_changes_while_it_is_used_is_an_error_not_a_value(entry, how):
    """Whoever found the row before keeps its number, and gets what was written under the name, or nothing."""
    ids = of_places(8)
    entry.append(ids[:4], values(range(4)))
    rows = entry.find(ids[:4])
    path = entry.path / "rows.bin"
    content = bytearray(path.read_bytes())
    if how == "a bit":
        content[3 * 24 + 7] ^= 1
        path.write_bytes(content)
    elif how == "another row":
        path.write_bytes(content[24:48] + content[:24] + content[48:])
    else:
        other = Entry(entry.path, SHAPE, np.dtype("float32"))
        os.truncate(path, 2 * 24)
        other.append(ids[4:], values(range(4, 8)))
        other.close()
    with pytest.raises(FinetuneError, match="its rows differ from what was written"):
        entry.read(rows)
    bad = entry.damaged(ids)
    entry.disown(bad)
    assert len(entry.damaged(ids)) == 0
    found = entry.find(ids)
    assert np.sum(found >= 0) == {"a bit": 3, "another row": 2, "cut and written over": 6}[how]
    whole = np.flatnonzero(found >= 0)
    np.testing.assert_array_equal(entry.read(found[whole]), values(whole))
