"""What is shipped: wheel and source distribution, file by file, and that the wheel runs where nothing else is."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from finetune import __version__
from tests.support.places import ROOT

NAME = f"finetune_backbones-{__version__}"
PACKAGES = ("checkpoints", "finetune")
DATA = {
    "checkpoints/bundled/README.md",
    "checkpoints/bundled/resnet_v1_demo.ckpt.data-00000-of-00001",
    "checkpoints/bundled/resnet_v1_demo.ckpt.index",
    "checkpoints/py.typed",
    "checkpoints/structures.json.gz",
    "finetune/py.typed",
    "finetune/reporting/templates/MODEL_CARD.md",
    "finetune/reporting/templates/base.html",
    "finetune/reporting/templates/data.html",
    "finetune/reporting/templates/diagnosis.html",
    "finetune/reporting/templates/preview.html",
    "finetune/reporting/templates/report.html",
    "finetune/reporting/templates/run.html",
}
# What lies about in a tree that is worked in, and must not get out.
LITTER = (
    "checkpoints/bundled/.part/resnet.ckpt",
    "checkpoints/resnet_v1_50.ckpt",
    "finetune/__pycache__/run.cpython-311.pyc",
    "finetune/data/photos.npz",
    "finetune/notes.txt",
    "finetune/reporting/templates/old/report.html",
    "runs/run-001/config.json",
    "tests/test_own.py",
    "benchmarks/own.py",
    "build/lib/finetune/removed_long_ago.py",
)


def in_packages():
    """Every module of the tree and the data named above."""
    modules = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    return modules | DATA


def build(tree, kind):
    """The one file that setuptools makes of `tree`, as `python -m build --no-isolation` would."""
    out = tree / "dist"
    out.mkdir(exist_ok=True)
    program = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, str(out)], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The tree with its tests and caches, and more that does not belong in it."""
    to = tmp_path_factory.mktemp("tree")
    for name in (*PACKAGES, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("work"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, to)
    for name in LITTER:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_text("")
    return to


@pytest.fixture(scope="module")
def wheel(tree):
    # `build/` is what setuptools finds of an earlier build and would pack again: `make clean` and CI have none.
    shutil.rmtree(tree / "build")
    return build(tree, "wheel")


@pytest.fixture(scope="module")
def sdist(tree):
    return build(tree, "sdist")


def names_in_wheel(path):
    with zipfile.ZipFile(path) as file:
        return set(file.namelist())


@pytest.mark.slow
def test_the_wheel_holds_the_packages_their_data_the_licence_and_nothing_else(wheel):
    about = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
    assert names_in_wheel(wheel) == in_packages() | {f"{NAME}.dist-info/{name}" for name in about}


def test_the_wheel_says_what_it_is_and_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as file:
        metadata = file.read(f"{NAME}.dist-info/METADATA").decode()
        top = file.read(f"{NAME}.dist-info/top_level.txt").decode().split()
        entries = file.read(f"{NAME}.dist-info/entry_points.txt").decode()
    assert sorted(top) == sorted(PACKAGES)
    assert entries.split() == ["[console_scripts]", "finetune", "=", "finetune.__main__:main"]
    lines = metadata.splitlines()
    assert "License-Expression: Apache-2.0" in lines
    assert "Requires-Python: <3.14,>=3.11" in lines
    assert "Requires-Dist: tensorflow<2.22,>=2.19" in lines
    assert not [line for line in lines if line.startswith("Requires-Dist: pytest") and "extra ==" not in line]


@pytest.mark.slow
def test_the_source_distribution_holds_the_same_and_what_it_takes_to_build_it(sdist):
    with tarfile.open(sdist) as file:
        found = {member.name.removeprefix(NAME + "/") for member in file if member.isfile()}
    generated = {name for name in found if name.startswith("finetune_backbones.egg-info/")}
    beside = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    assert found - generated == in_packages() | beside


@pytest.mark.slow
def test_a_wheel_from_the_source_distribution_is_the_same(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    again = build(tmp_path / NAME, "wheel")
    assert names_in_wheel(again) == names_in_wheel(wheel)
    with zipfile.ZipFile(again) as ours, zipfile.ZipFile(wheel) as theirs:
        for name in in_packages():
            assert ours.read(name) == theirs.read(name) == (ROOT / name).read_bytes(), name


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    return target


def run(installed, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(arguments, cwd=installed.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_command_of_the_wheel_runs_from_where_it_is_installed(installed):
    command = str(installed / "bin" / "finetune")
    where = "import checkpoints, finetune; print(checkpoints.__file__); print(finetune.__file__)"
    assert run(installed, sys.executable, "-c", where).split() == [
        str(installed / package / "__init__.py") for package in PACKAGES
    ]
    assert run(installed, command, "--version") == f"finetune, version {__version__}\n"
    assert "diagnose-bn" in run(installed, command, "--help")


@pytest.mark.slow
def test_the_data_of_the_wheel_are_found(installed):
    bundled = installed / "checkpoints" / "bundled" / "resnet_v1_demo.ckpt"
    told = run(installed, str(installed / "bin" / "finetune"), "checkpoint", "inspect", str(bundled))
    assert "resnet_v1_demo" in told
    pages = "from finetune.reporting import rendering; print(rendering.__file__)"
    assert str(installed) in run(installed, sys.executable, "-c", pages)


def test_the_citation_names_this_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {__version__}" in lines
    assert "license: Apache-2.0" in lines
