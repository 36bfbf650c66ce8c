"""Data whose label i means another class than in the run: refused with what sits where, whoever reads the data."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import stop_at, tree, typed

NAMES = ["cat", "dog", "newt", "wasp"]
RUN = "run --backbone TINY_FILE --epochs 2 --image-size 16 --batch-size 8 --validation 0 --quiet --learning-rate 0.01"
ORDER = [0, 3, 2, 1]
"""Of `NAMES`, as the other files have them: dog and wasp have changed places."""


def drawn(seed, label):
    pixels = np.random.default_rng([seed, label]).integers(0, 130, (16, 16, 3))
    pixels[..., label % 3] += 40 * (1 + label // 3)
    return pixels.astype(np.uint8)


def write_arrays(path, names, train=6, test=3):
    """The same images under the same names, numbered as `names` are."""
    arrays = {}
    for split, first, each in (("train", 0, train), ("test", 100, test)):
        chosen = [(number, name) for number in range(each) for name in names]
        arrays[f"x_{split}"] = np.stack([drawn(first + number, NAMES.index(name)) for number, name in chosen])
        arrays[f"y_{split}"] = np.array([names.index(name) for _, name in chosen])
    np.savez(path, **arrays, class_names=np.array(names))
    return path


def write_folders(root, names):
    for split, first, each in (("train", 0, 6), ("test", 100, 3)):
        for label, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            for number in range(each):
                Image.fromarray(drawn(first + number, label)).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`run`, finished, and `parts`, stopped at step 2, both trained on `own.npz`, and the same images otherwise."""
    place = tmp_path_factory.mktemp("order")
    own = write_arrays(place / "own.npz", NAMES)
    write_arrays(place / "other.npz", [NAMES[place] for place in ORDER])
    write_arrays(place / "unnamed.npz", NAMES)
    with np.load(own) as arrays:
        np.savez(place / "unnamed.npz", **{name: arrays[name] for name in arrays.files if name != "class_names"})
    result = typed(f"{RUN} --data {own} --run-dir {place}/run")
    assert result.exit_code == 0, result.output
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        assert typed(f"{RUN} --data {own} --run-dir {place}/parts").exit_code == 130
    return place


def refused(line, place):
    before = tree(place)
    result = typed(line)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.count("Error: ") == 1
    assert tree(place) == before
    return " ".join(result.stderr.split())


SWAPPED = (
    "another order: class 1 is 'dog' in the run and 'wasp' in the data, class 3 is 'wasp' in the run and 'dog' in the "
    "data; every such image would count as wrong. Number the data's classes as the run does (0 'cat', 1 'dog', "
    "2 'newt', 3 'wasp'), its labels with them"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "evaluate {run} --data-dir {data} --json",
        "diagnose-bn {run} --data-dir {data}",
        "recalibrate-bn {run} --data-dir {data}",
        "export {run} --format savedmodel --out {place}/exported --data-dir {data}",
        "features {run} --layer global_pool --data-dir {data} --out {place}/features.npz",
    ],
)
def test_arrays_in_another_order(command, place):
    data = place / "other.npz"
    said = refused(command.format(run=place / "run", place=place, data=data), place)
    assert f"{data}: x_train, x_test has the classes of {place / 'run'} in {SWAPPED}" in said


@pytest.mark.slow
def test_a_folder_is_in_the_order_of_the_names_and_the_run_is_not(place, tmp_path):
    """Class folders are numbered as their names sort: a run on arrays in another order cannot be scored on them."""
    turned = write_arrays(tmp_path / "turned.npz", NAMES[::-1])
    run = tmp_path / "run"
    assert typed(f"{RUN} --data {turned} --run-dir {run}").exit_code == 0
    folder = write_folders(tmp_path / "folder", NAMES)
    said = refused(f"evaluate {run} --data-dir {folder}", tmp_path)
    assert "class 0 is 'wasp' in the run and 'cat' in the data" in said
    assert "class 2 is 'dog' in the run and 'newt' in the data and 1 more" in said
    # The very same images, found under the names of a run in their order, are scored.
    right = typed(f"evaluate {place}/run --data-dir {folder} --json")
    assert json.loads(right.stdout)["examples"] == 12, right.output


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat", "dog", "gnu", "newt"], "it has 'gnu', which the run has not; it lacks 'wasp' of the run; class 2 is "
                                        "'newt' in the run and 'gnu' in the data"),
        (["cat", "dog", "newt"], "which has 4: it lacks 'wasp' of the run: give the data of the run"),
        ([*NAMES, "yak"], "which has 4: it has 'yak', which the run has not: give the data of the run"),
    ],
)  # fmt: skip
def test_other_classes_are_named(names, words, place, tmp_path):
    folder = write_folders(tmp_path / "folder", names)
    assert words in refused(f"evaluate {place}/run --data-dir {folder}", place)


def test_numbers_in_place_of_names(place):
    said = refused(f"evaluate {place}/run --data-dir {place}/unnamed.npz", place)
    assert "class 0 is 'cat' in the run and '0' in the data" in said


@pytest.mark.parametrize("command", ["run --resume {run} --quiet", "evaluate {run}"])
def test_the_file_itself_was_written_anew_in_another_order(command, place):
    run = place / ("parts" if "resume" in command else "run")
    kept = (place / "own.npz").read_bytes()
    shutil.copy(place / "other.npz", place / "own.npz")
    try:
        assert SWAPPED in refused(command.format(run=run), place)
    finally:
        (place / "own.npz").write_bytes(kept)


def test_a_folder_with_other_class_folders_for_the_test_than_for_training(tmp_path):
    folder = write_folders(tmp_path / "folder", NAMES)
    (folder / "test" / "dog").rename(folder / "test" / "Dog")
    said = refused(f"{RUN} --data {folder} --run-dir {tmp_path}/run", tmp_path)
    assert "test/ has Dog, which train/ has not; test/ lacks dog of train/: expected the same class folders" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_resumed_on_a_folder_whose_classes_were_renamed(tmp_path, monkeypatch):
    folder = write_folders(tmp_path / "folder", NAMES)
    with monkeypatch.context() as patch:
        stop_at(1, patch)
        assert typed(f"{RUN} --data {folder} --run-dir {tmp_path}/run").exit_code == 130
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "zebra")
    said = refused(f"run --resume {tmp_path}/run --quiet", tmp_path)
    assert "it has 'zebra', which the run has not; it lacks 'cat' of the run" in said
    assert "class 0 is 'cat' in the run and 'dog' in the data" in said
    assert "put it back, or start a new run" in said


def test_class_names_that_are_no_names(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    result = json.loads((tmp_path / "run/result.json").read_text())
    (tmp_path / "run/result.json").write_text(json.dumps({**result, "class_names": [1, None]}))
    assert "result.json has no list of names in class_names" in refused(f"evaluate {tmp_path}/run", tmp_path)
