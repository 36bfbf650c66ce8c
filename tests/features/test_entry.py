"""Rows by the name of their image: whole or not there, whoever was killed when, however many write."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from finetune.errors import FinetuneError
from finetune.features.entry import ID, Entry

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
    ("rows", "index", "whole"), [(10 * 24, 4 * 16, 4), (10 * 24, 4 * 16 + 7, 4), (5 * 24 + 3, 10 * 16, 5), (0, 160, 0)]
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


HOLDER = """
import sys, time
import numpy as np
from pathlib import Path
from finetune.features.entry import Entry
of_places = lambda count: np.frombuffer(np.random.default_rng(1).bytes(16 * 4000), "S16")[:count]
entry = Entry(Path(sys.argv[1]), (3, 2), np.dtype("float32"))
print(entry.claim(of_places(10)[:5]).tolist(), flush=True)
time.sleep(60)
"""


def test_what_another_process_is_at_is_claimed_until_it_is_gone(entry):
    ids = of_places(10)
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(entry.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "[True, True, True, True, True]\n"
        assert entry.claim(ids).tolist() == [False] * 5 + [True] * 5
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    assert entry.claim(ids).all()


WRITER = """
import os, sys
import numpy as np
from pathlib import Path
from finetune.features.entry import Entry
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


def test_writers_killed_at_any_moment_leave_only_right_rows(entry):
    ids = of_places(4000)
    rng = np.random.default_rng(0)
    for _ in range(4):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(entry.path), str(n)], stdout=subprocess.PIPE)
            for n in range(2)
        ]
        for writer in writers:
            writer.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.4))
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()
        found = entry.find(ids)
        there = np.flatnonzero(found >= 0)
        np.testing.assert_array_equal(entry.read(found[there]), values(there))
    last = subprocess.run([sys.executable, "-c", WRITER, str(entry.path), "9"], capture_output=True, timeout=60)
    assert last.stdout.endswith(b"done\n"), last.stderr
    np.testing.assert_array_equal(entry.read(entry.find(ids)), values(range(4000)))
    assert len(entry) == 4000  # nobody computed what another had
