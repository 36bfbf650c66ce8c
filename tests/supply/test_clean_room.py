"""The wheel in an empty environment with what it requires and nothing else: the README's commands run there."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.docs import stand_ins
from tests.docs.doc_pages import commands
from tests.docs.test_docs_run import Shortening, shelf  # noqa: F401
from tests.supply.test_distributions import tree, wheel  # noqa: F401
from tests.support.places import ROOT

README = ROOT / "README.md"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def room(wheel, tmp_path_factory):  # noqa: F811
    """The scripts of the environment."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "--disable-pip-version-check", "--quiet", "install"]
    locked = ["--require-hashes", "--only-binary", ":all:", "--requirement", str(ROOT / "requirements.txt")]
    subprocess.run([*pip, *locked], check=True)
    subprocess.run([*pip, str(wheel)], check=True)  # what the wheel requires, but for the lock, would come now
    return venv / "bin"


def typed(room, words, folder, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment = {**kept, "PATH": f"{room}:{os.environ['PATH']}", **variables}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def test_nothing_is_missing_and_nothing_more_is_there(room, tmp_path):
    assert typed(room, ["pip", "check"], tmp_path).returncode == 0
    listed = typed(room, ["pip", "list", "--format", "freeze"], tmp_path).stdout.lower()
    have = {line.partition("==")[0].replace("_", "-") for line in listed.splitlines()} - {"pip", "finetune-backbones"}
    lock = (ROOT / "requirements.txt").read_text()
    assert have <= {line.partition("==")[0] for line in lock.splitlines() if "==" in line}


def test_the_commands_of_the_readme_run(room, shelf, tmp_path):  # noqa: F811
    """Slim networks of the catalogue are the bundled one here, whose weights need no download."""
    place = tmp_path / "page"
    place.mkdir()
    stand_ins.lay_out(shelf, place)
    shorten, wrong, ran = Shortening(README), [], 0
    for where, words in [("README.md", ["diagnose-bn", "--demo"]), *commands(README)]:
        if "train_dir/" in words:  # a checkpoint of the thin network that stands in for a row
            continue
        words, _ = shorten(["resnet_v1_demo" if word.startswith("resnet_v1_") else word for word in words])
        done = typed(room, ["finetune", *words], place)
        ran += 1
        if done.returncode not in ((0, 3, 4) if words[0] == "diagnose-bn" else (0,)):
            wrong.append(f"{where}: finetune {shlex.join(words)}: {done.returncode}\n{done.stderr[-2000:]}")
    assert not wrong, "\n".join(wrong)
    assert ran >= 8


def test_python_finds_it_and_an_extra_is_named(room, tmp_path):
    program = "import sys, finetune; assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    assert typed(room, ["python", "-c", program], tmp_path).returncode == 0
    done = typed(room, ["finetune", "backbones", "verify", "resnet_v1_demo"], tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "tf_slim is not installed: pip install '.[slim]'" in done.stderr
