"""A preprocessing of the user's own that fails somewhere in the middle of a run is one error with its own words."""

from pathlib import Path

import pytest

from tests.support.commands import typed

MODULE = """
import numpy as np

def raises(images):
    raise KeyError("no such scale")

def grows(images):
    return np.repeat(images, 2, axis=1)

def words(images):
    return np.full(images.shape, "x")

calls = 0

def later(images):
    global calls
    calls += 1
    if calls > 3:
        raise RuntimeError("the fourth batch")
    return images / 255
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", "failed: KeyError: 'no such scale'"),
        ("grows", "gave [20, 32, 16, 3] for images [20, 16, 16, 3]: expected the same shape"),
        ("words", "failed: ValueError"),
        ("later", "failed: RuntimeError: the fourth batch"),
    ],
)
def test_it_is_told_as_it_was(function: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = f"own_{function}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    result = typed(f"run TINY --quiet --preprocess {module}:{function} --run-dir r")
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith(f"Error: --preprocess {module}:{function} {said}"), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "r").exists()
