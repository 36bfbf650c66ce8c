"""What is installed for whom: the two locks, `make demo`, and the lines that tell a user how to install an extra."""

import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import finetune
from finetune import _version
from finetune._version import install_line, requirement
from finetune.config.tracker_setting import NEEDS
from tests.support.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].keys() - {"dev"}
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def pinned(lock):
    """Distribution -> its version."""
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))


def names(requirements):
    return {re.match(r"[\w-]+", line)[0] for line in requirements}


def test_the_base_lock_is_the_part_of_the_whole_without_extras():
    base, everything = pinned("requirements.txt"), pinned("constraints.txt")
    assert base.items() <= everything.items()
    assert names(PROJECT["dependencies"]) <= base.keys()
    of_extras = names(line for group in PROJECT["optional-dependencies"].values() for line in group)
    assert of_extras <= everything.keys()
    assert not of_extras & base.keys()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_demo_installs_the_base_alone(tmp_path):
    def typed(goal):
        line = ["make", "--dry-run", "--always-make", f"VENV={tmp_path}/venv", goal]
        return subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    assert "--require-hashes --only-binary :all: --requirement requirements.txt" in typed("demo")
    assert "constraints.txt" not in typed("demo")
    assert "--require-hashes --no-build-isolation --requirement constraints.txt" in typed("test")


def test_every_install_line_of_a_page_works_today():
    found = {}
    for page in PAGES:
        for line, extra in re.findall(r"pip install (['\"]?[\w.-]+\[(\w+)\]['\"]?)", page.read_text()):
            assert line == requirement(extra), f"{page.relative_to(ROOT)}: expected pip install {requirement(extra)}"
            found[extra] = page
    assert found.keys() == EXTRAS
    readme = (ROOT / "README.md").read_text().partition("| extra | what it adds |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in readme.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == EXTRAS


def test_every_install_line_of_a_message_names_an_extra():
    named = set(NEEDS)
    for path in (ROOT / "finetune").rglob("*.py"):
        text = path.read_text()
        named |= set(re.findall(r"(?:\binstall_line\(|\b_require\(|\bextra=)['\"](\w+)['\"]", text))
        assert "pip install" not in text or path.name == "_version.py", f"{path}: use finetune._version.install_line"
    assert named == EXTRAS


def test_the_day_of_publication(monkeypatch):
    assert install_line("onnx") == "pip install '.[onnx]' (in a checkout of finetune)"
    monkeypatch.setattr(_version, "PUBLISHED", True)
    assert install_line("onnx") == "pip install 'finetune-backbones[onnx]'"
    assert install_line(options="--upgrade") == "pip install --upgrade finetune-backbones"


def test_windows_gets_one_message(monkeypatch, capsys):
    from finetune import __main__

    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(finetune.FinetuneError, match="this is Windows: install WSL 2"):
        from finetune import diagnose_bn  # noqa: F401
    with pytest.raises(SystemExit) as stopped:
        __main__.main()
    assert str(stopped.value.code).startswith("Error: finetune runs on Linux and macOS, and this is Windows")
