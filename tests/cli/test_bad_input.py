"""Whatever is wrong: one message with the value and the way out, the right exit code, nothing left behind."""

import errno
import json
import os
import pickle
import resource
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from typing_commands import tree, typed

from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim_writer import write_slim
from finetune import models

DEMO = Path(__file__).parents[2] / "checkpoints" / "bundled" / "resnet_v1_demo.ckpt"
PIXELS = 3 * 32 * 32
FIRST_UNIT = "resnet_v1_demo/block1/unit_1/bottleneck_v1"


class Evil:
    """Unpickled by anything but a careful reader, it makes a directory."""

    def __reduce__(self):
        return os.mkdir, ("PWNED",)


def write_cifar(folder, labels, first_batch=None):
    """A folder of CIFAR-10 with these training labels, or with these bytes for its first batch."""
    inner = folder / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    for name, of in (("data_batch_1", labels), ("test_batch", list(range(10)))):
        content = {b"data": np.zeros((len(of), PIXELS), np.uint8), b"labels": of}
        (inner / name).write_bytes(pickle.dumps(content, 2))
    if first_batch is not None:
        (inner / "data_batch_1").write_bytes(first_batch((inner / "data_batch_1").read_bytes()))


def write_checkpoints(folder):
    folder.mkdir()
    opened = open_checkpoint(DEMO)
    arrays = {name: opened.read(name) for name in opened.shapes}
    weights = f"{FIRST_UNIT}/conv1/weights"
    write_slim(folder / "other", {name.replace("block1", "stage1"): array for name, array in arrays.items()})
    write_slim(folder / "shape", {**arrays, weights: arrays[weights][..., :3]})
    write_slim(folder / "nan", {**arrays, weights: arrays[weights] * np.nan})
    for name, ending, kept in (("cut", "data-00000-of-00001", 100_000), ("cut-index", "index", 300)):
        for part in ("index", "data-00000-of-00001"):
            shutil.copy(f"{DEMO}.{part}", folder / f"{name}.{part}")
        os.truncate(folder / f"{name}.{ending}", kept)
    (folder / "text.h5").write_text("not HDF5")


def write_strangers(folder, run):
    """Copies of a run whose model is another's."""
    folder.mkdir()
    images = keras.Input((16, 16, 3))
    features = keras.layers.GlobalAveragePooling2D()(images)
    small = keras.Input((8, 8, 3))
    strangers = {
        "lambda": keras.Model(images, keras.layers.Dense(10)(keras.layers.Lambda(lambda x: x * 2)(features))),
        "classes": keras.Model(images, keras.layers.Dense(3)(features)),
        "two": keras.Model(images, [keras.layers.Dense(10)(features), features]),
        "size": keras.Model(small, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(small))),
        "plain": keras.Model(images, keras.layers.Dense(10)(features)),
    }
    for name, model in strangers.items():
        shutil.copytree(run, folder / name)
        model.save(folder / name / "model.keras")


@pytest.fixture(scope="module")
def place(tmp_path_factory, finished, interrupted):
    """The folder the commands are typed in, with everything they name."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "file").write_text("a file")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "cut.json").write_text('{"backbone": "resn')
    (folder / "newer.json").write_text('{"format_version": 99, "backbone": "resnet_v1_demo"}')
    (folder / "headless.json").write_text('{"data": "demo-target"}')
    (folder / "folder").mkdir()
    write_checkpoints(folder / "ckpt")
    write_strangers(folder / "of", finished[0])
    ten = list(range(10)) * 2
    write_cifar(folder / "cifar" / "empty-class", [9 if label == 3 else label for label in ten])
    write_cifar(folder / "cifar" / "label", [99, *ten])
    write_cifar(folder / "cifar" / "corrupt", ten, lambda content: content[:1000])
    write_cifar(folder / "cifar" / "evil", ten, lambda _: pickle.dumps({b"data": Evil(), b"labels": ten}))
    shutil.copytree(finished[0], folder / "run")
    shutil.copytree(interrupted, folder / "stopped run")
    return folder


@pytest.fixture
def refused(place, monkeypatch):
    """A command that must fail with the exit code, saying the words, once, and changing nothing."""
    monkeypatch.chdir(place)

    def check(line, exit_code, *words):
        before = tree(place)
        result = typed(line)
        assert result.exit_code == exit_code, result.output
        assert isinstance(result.exception, SystemExit)
        assert result.stdout == ""
        assert result.stderr.startswith("Error: "), result.stderr
        assert f"\n{result.stderr}".count("\nError: ") == 1
        assert "Traceback" not in result.stderr
        assert "unexpected" not in result.stderr.replace("unexpected extra argument", "")
        for word in words:
            assert word in result.stderr, (word, result.stderr)
        assert tree(place) == before
        return result.stderr

    return check


NAMES = [
    ("run", 2, "--backbone", "finetune backbones list"),
    ("run --backbone resnet_v1_11", 2, "'resnet_v1_11'", "did you mean resnet_v1_101?", "finetune backbones list"),
    ("run --backbone ''", 2, "''", "finetune backbones list"),
    ("run --backbone mobilenet_v1_0.2", 2, "'mobilenet_v1_0.2'", "did you mean mobilenet_v1_0.25?"),
    ("run SMALL --data demo-taget", 2, "'demo-taget'", "did you mean demo-target?", "cifar10"),
    ("run SMALL --preprocess incepton", 2, "'incepton'", "did you mean inception?"),
    ("run SMALL --preprocess ''", 2, "''", "inception"),
    ("run SMALL --optimizer sdg", 2, "--optimizer 'sdg'", "did you mean sgd?", "adamw"),
    ("run SMALL --schedule linear", 2, "--schedule 'linear'", "cosine, constant"),
    ("run SMALL --augment flop", 2, "--augment 'flop'", "did you mean flip?"),
    ("run SMALL --bn-updates maybe", 2, "--bn-updates 'maybe'", "on, off"),
    ("run SMALL --bn trian", 2, "'trian'", "did you mean train?", "freeze|affine|stats"),
    ("run SMALL --bn 'block1='", 2, "''", "train|freeze|affine|stats"),
    ("run SMALL --bn '=train'", 2, "'=train'", "no pattern", "POLICY"),
    ("run SMALL --bn 'blok1/*=train'", 2, "'blok1/*'", "matches no BN layer", "block1, block2"),
    ("run SMALL --freeze nothing", 2, "'nothing'", "matches no layer", "block1, block2"),
    ("run SMALL --freeze ''", 2, "''", "matches no layer"),
    ("run SMALL --freeze '*=maybe'", 2, "'maybe'", "PATTERN=train"),
    ("run SMALL --freeze '=train'", 2, "no pattern", "PATTERN"),
    ("run SMALL --freeze-until block9", 2, "'block9'", "conv1, block1, block2, block3"),
    ("run --bogus 3", 2, "--bogus", "finetune run --help"),
    ("run SMALL more", 2, "more", "finetune run --help"),
    ("rum SMALL", 2, "rum", "'run'", "finetune --help"),
    ("backbones show resnet_v1_5", 2, "did you mean resnet_v1_50?"),
    ("run SMALL --tta flop", 2, "--tta 'flop'", "did you mean flip?"),
    ("run SMALL --rand-augment 2", 2, "--rand-augment 2", "0.01 to 1"),
    ("run SMALL --mixup 0", 2, "--mixup 0", "0.01 to 10"),
    ("run --backbone x --lr atuo", 2, "'atuo'", "nor 'auto'"),
    ("run --backbone x --lr 0", 2, "--learning-rate 0.0", "or 'auto'"),
    ("run SMALL --preset linear-probe --unfreeze-epochs 2", 2, "nothing but the head trains", "--unfreeze-epochs"),
    ("run SMALL --preset gradual --epochs 1", 2, "1 of 1 epoch", "--epochs"),
    ("run SMALL --ema 1", 2, "--ema 1", "between 0 and 1"),
    ("run SMALL --patience 2 --validation 0", 2, "--patience 2", "no validation images", "--validation"),
    ("run SMALL --distribute mirrored --ema 0.9", 2, "--distribute mirrored and --ema", "give one of them"),
    ("run SMALL --distribute mirrored --unfreeze-epochs 1", 2, "--distribute mirrored and --unfreeze-epochs"),
    ("run SMALL --preset finetune", 2, "--preset 'finetune'", "did you mean fine-tune?"),
    ("evaluate run --tta flop", 2, "'flop'", "'flip'"),
    ("run SMALL --few-shot 2", 2, "--examples and --few-shot", "give one of them"),
    ("run --backbone resnet_v1_demo --data demo-target --few-shot 9999", 2, "--few-shot 9999", "200 training images"),
    ("evaluate run --split tset", 2, "'tset'", "'validation'"),
]

NOT_NUMBERS = [
    (f"run SMALL --{option} {value}", 2, f"--{option}", value.strip("'"))
    for option in (
        *("bn-decay", "bn-epsilon", "validation", "dropout", "learning-rate", "weight-decay", "warmup"),
        *("label-smoothing", "clip-norm", "examples", "image-size", "crop-padding", "hidden", "epochs"),
        *("batch-size", "patience", "seed", "few-shot", "mixup", "cutmix", "layer-decay"),
    )
    for value in ("abc", "''", "0,5", "nan", "inf", "-1")
]

NUMBERS = [
    *((f"run SMALL --bn-decay {value}", 2, value, "outside (0, 1)", "auto") for value in ("0", "1", "1.5", "-0.5")),
    *(
        (f"run SMALL --{option} 0", 2, f"--{option} 0", "expected")
        for option in (
            "examples",
            "few-shot",
            "image-size",
            "hidden",
            "epochs",
            "batch-size",
            "patience",
            "learning-rate",
        )
    ),
    *((f"run SMALL --{option} 1", 2, f"--{option} 1", "not including 1") for option in ("validation", "dropout")),
    ("run SMALL --seed 99999999999", 2, "99999999999", "2^31 - 1"),
    ("run SMALL --learning-rate 1e40", 2, "1e+40", "1e+06"),
    ("run SMALL --bn-epsilon 1e300", 2, "1e+300"),
    ("run SMALL --image-size 4", 2, "4 px", "at least 8 px", "--image-size 8"),
    ("run --backbone resnet_v1_50 --image-size 31", 2, "31 px", "at least 32 px"),
    ("run SMALL --crop-padding 32", 2, "--crop-padding 32", "0 to 31"),
    ("run SMALL --examples 9", 2, "9 examples", "10 classes", "--examples"),
    ("run SMALL --examples 2001", 2, "2001 examples", "2000", "--examples"),
    ("run SMALL --examples 10", 2, "0.05", "--validation", "--examples"),
    ("run SMALL --validation 0.999", 2, "0.999", "--validation", "--examples"),
    ("diagnose-bn run --images 0", 2, "--images", "0", "x>=1"),
    ("diagnose-bn run --images few", 2, "'few'", "whole number"),
    ("diagnose-bn run --images 3", 2, "--images 3", "10 classes"),
    ("recalibrate-bn run --images 3", 2, "--images 3", "10 classes"),
]

FILES = [
    ("run SMALL --checkpoint nowhere", 1, "nowhere", "expected a TF-slim checkpoint"),
    ("run SMALL --checkpoint ''", 2, "--checkpoint", "empty"),
    ("run SMALL --checkpoint file", 1, "/file", "not a checkpoint"),
    ("run SMALL --checkpoint folder", 1, "/folder", "without a checkpoint"),
    ("run SMALL --checkpoint ckpt/text.h5", 1, "text.h5", "not a checkpoint"),
    ("run SMALL --checkpoint ckpt/cut", 1, "ckpt/cut", "cut off"),
    ("run SMALL --checkpoint ckpt/cut-index", 1, "cut-index.index", "cut off"),
    (
        *("run SMALL --checkpoint ckpt/other", 1, "only in the file: resnet_v1_demo/stage1/", "nothing was assigned"),
        "only in the network: resnet_v1_demo/block1/",
    ),
    ("run SMALL --checkpoint ckpt/shape", 1, f"{FIRST_UNIT}/conv1/weights", "[1, 1, 16, 3]", "[1, 1, 16, 16]"),
    ("run SMALL --checkpoint ckpt/nan", 1, "NaN", f"{FIRST_UNIT}/conv1/weights"),
    (f"run --backbone keras/resnet50 --data demo-target --checkpoint {DEMO}", 1, "slim-v2", "keras/resnet50", ".h5"),
    ("run SMALL --checkpoint x --from-scratch", 2, "--from-scratch", "--checkpoint"),
    ("run --backbone resnet_v1_demo --data-dir nowhere", 1, "/nowhere", "does not exist", "cifar-10-batches-py"),
    ("run --backbone resnet_v1_demo --data-dir folder", 1, "/folder", "empty", "--data-dir"),
    ("run --backbone resnet_v1_demo --data-dir file", 1, "/file", "it is a file"),
    ("run SMALL --data-dir folder", 2, "demo-target", "/folder", "--data-dir"),
    ("run --backbone resnet_v1_demo --data-dir cifar/empty-class", 1, "class 3 (cat)", "no training images"),
    ("run --backbone resnet_v1_demo --data-dir cifar/label", 1, "label 99", "0 to 9"),
    ("run --backbone resnet_v1_demo --data-dir cifar/corrupt", 1, "cifar/corrupt/", "data_batch_1", "damaged"),
    ("run --backbone resnet_v1_demo --data-dir cifar/evil", 1, "refused", "data_batch_1", "mkdir", "expected arrays"),
    ("run --config nowhere.json", 1, "nowhere.json", "missing"),
    ("run --config folder", 1, "folder", "directory"),
    ("run --config file", 1, "file", "not JSON"),
    ("run --config cut.json", 1, "cut.json", "not JSON"),
    ("run --config list.json", 1, "list.json", "a JSON list", "object"),
    ("run --config newer.json", 1, "newer.json", "format_version 99", "upgrade"),
    ("run --config headless.json", 2, "headless.json", "--backbone"),
    ("run --config run/result.json", 2, "run/result.json", "unknown key"),
]

PLACES = [
    ("run SMALL --run-dir run", 2, "run is already there", "finished run", "another --run-dir"),
    ("run SMALL --run-dir 'stopped run'", 2, "already there", "finetune run --resume 'stopped run'"),
    ("run SMALL --run-dir folder", 2, "folder is already there", "another --run-dir"),
    ("run SMALL --run-dir file/inside", 2, "file is a file", "--run-dir"),
    ("run SMALL --run-dir ''", 2, "--run-dir", "empty"),
    ("run SMALL --runs-dir file", 2, "file is a file", "--runs-dir"),
    ("demo --runs-dir file", 2, "file is a file", "--runs-dir"),
    ("run --resume nowhere", 1, "nowhere", "config.json", "nothing of that name"),
    ("run --resume folder", 1, "folder", "config.json"),
    ("run --resume 'stopped run' --epochs 9", 2, "--epochs", "config.json"),
    ("run --resume 'stopped run' --run-dir x", 2, "--run-dir", "config.json"),
    ("evaluate nowhere", 1, "nowhere", "nothing of that name"),
    ("evaluate file", 1, "file is no run", "config.json"),
    ("evaluate run/nope.keras", 1, "run/nope.keras is missing"),
    *(
        (f"{command} 'stopped run'", 1, "stopped run/model.keras is missing", "finetune run --resume 'stopped run'")
        for command in ("evaluate", "diagnose-bn", "recalibrate-bn")
    ),
    ("evaluate of/lambda", 1, "refused", "of/lambda/model.keras", "Lambda"),
    ("evaluate of/classes", 1, "3 outputs", "10 classes"),
    ("evaluate of/two", 1, "of/two/model.keras", "one output"),
    ("evaluate of/size", 1, "[None, 8, 8, 3]", "16 px"),
    ("diagnose-bn of/plain", 1, "no BatchNormalization layer", "finetune evaluate"),
    ("recalibrate-bn of/plain", 1, "no BatchNormalization layer"),
    ("recalibrate-bn run --out x.h5", 2, "x.h5", ".keras"),
    ("recalibrate-bn run --out nowhere/x.keras", 2, "nowhere/x.keras", "no directory"),
    ("recalibrate-bn run --out run/model.keras", 2, "run/model.keras is already there", "--out"),
    ("backbones verify resnet_v1_demo --photos folder", 2, "resnet_v1_demo", "ImageNet's classes"),
]


@pytest.mark.parametrize("case", [*NAMES, *NOT_NUMBERS, *NUMBERS, *FILES, *PLACES], ids=lambda case: case[0])
def test_one_message_and_nothing_left_behind(case, refused):
    refused(*case)


@pytest.mark.parametrize(
    ("change", "exit_code", "words"),
    [
        ({"epoch": 3}, 2, ("unknown key 'epoch'", "did you mean 'epochs'?")),
        ({"epochs": "3"}, 2, ("--epochs '3'", "config.json", "whole number")),
        ({"epochs": True}, 2, ("--epochs True", "whole number")),
        ({"backbone": 3}, 2, ("--backbone 3", "finetune backbones list")),
        ({"freeze": "block1"}, 2, ("--freeze 'block1'", "a list of PATTERN")),
        ({"bn": [1]}, 2, ("--bn [1]", "a list of")),
        ({"deterministic": "no"}, 2, ("--deterministic 'no'", "true or false")),
        ({"optimizer": None}, 2, ("--optimizer None", "sgd, adamw")),
        ({"data_dir": 3}, 2, ("--data-dir 3", "a path")),
        ({"seed": None}, 2, ("--seed None", "whole number")),
        ({"bn_decay": 2}, 2, ("--bn-decay 2", "outside (0, 1)")),
        ({"format_version": 99}, 1, ("format_version 99", "upgrade")),
        ({"format_version": "1"}, 1, ("format_version '1'",)),
        ({"epochs": 8}, 1, ("'epochs' is 8", "interrupted with 3")),
        ({"bn_updates": "off"}, 1, ("'bn_updates' is 'off'", "interrupted with 'on'")),
    ],
)
def test_a_config_that_was_changed_by_hand(change, exit_code, words, place, interrupted, refused):
    run = place / "changed"
    shutil.copytree(interrupted, run)
    try:
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, **change}))
        refused("run --resume changed", exit_code, *words)
    finally:
        shutil.rmtree(run)


def rewrite(text):
    return lambda path: path.write_text(text)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def without_an_array(path):
    np.savez(path, **{name: array for name, array in np.load(path).items() if name != "model/3"})


def with_an_object(path):
    np.savez(path, **np.load(path), extra=np.array([Evil()], object))


PROVED = '{"class_names": ["a"], "steps": 1, "proof": %s}'


@pytest.mark.parametrize(
    ("source", "name", "damage", "command", "words"),
    [
        ("interrupted", "checkpoints/state.npz", cut, "run --resume", ("state.npz is damaged", "delete it")),
        ("interrupted", "checkpoints/state.npz", rewrite(""), "run --resume", ("state.npz is damaged",)),
        ("interrupted", "checkpoints/state.npz", with_an_object, "run --resume", ("state.npz is damaged",)),
        ("interrupted", "checkpoints/state.npz", without_an_array, "run --quiet --resume", ("does not fit",)),
        ("interrupted", "config.json", cut, "run --resume", ("config.json is not JSON",)),
        ("interrupted", "config.json", rewrite("[]"), "run --resume", ("config.json holds a JSON list",)),
        ("interrupted", "freeze.json", cut, "run --resume", ("freeze.json is not JSON",)),
        ("interrupted", "freeze.json", Path.unlink, "run --resume", ("freeze.json is missing",)),
        ("interrupted", "freeze.json", rewrite("{}"), "run --resume", ("freeze.json has no 'digests'",)),
        (
            *("interrupted", "freeze.json", rewrite('{"digests": {}, "stages": []}'), "run --quiet --resume"),
            ("freeze.json is of another model",),
        ),
        ("finished", "model.keras", cut, "evaluate", ("model.keras is cut off",)),
        ("finished", "model.keras", Path.unlink, "evaluate", ("model.keras is missing", "--config")),
        ("finished", "result.json", cut, "evaluate", ("result.json is not JSON",)),
        ("finished", "result.json", rewrite("{}"), "diagnose-bn", ("result.json has no 'class_names'",)),
        *(
            (
                "finished",
                "result.json",
                rewrite(PROVED % proof),
                "features --layer block2 --out x.npz",
                ("has no proof",),
            )
            for proof in (
                "[]",
                "{}",
                '{"holds": false}',
                '{"holds": 0, "phases": 1}',
                '{"holds": 0, "moved_though_frozen": 2}',
            )
        ),
        ("finished", "freeze.json", rewrite("[]"), "diagnose-bn", ("freeze.json holds a JSON list",)),
        ("finished", "bn_source.npz", cut, "diagnose-bn", ("bn_source.npz is damaged", "delete it")),
        ("finished", "config.json", rewrite("null"), "recalibrate-bn", ("config.json holds a JSON null",)),
    ],
)
def test_a_damaged_run(source, name, damage, command, words, place, finished, interrupted, refused):
    run = place / "a run"
    shutil.copytree(interrupted if source == "interrupted" else finished[0], run)
    try:
        damage(run / name)
        refused(f"{command} 'a run'", 1, *words)
    finally:
        shutil.rmtree(run)


def test_a_run_that_another_process_holds(place, interrupted, refused):
    from finetune.rundir import RunDir

    with RunDir(place / "stopped run").locked():
        refused("run --resume 'stopped run'", 1, f"stopped run is in use by process {os.getpid()} on ")


def test_nobody_may_write_there(place, refused, monkeypatch):
    # As root, who runs some of these tests, may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused("run SMALL --run-dir folder/new/run", 1, "no permission to write in", "folder", "--run-dir")
    refused("recalibrate-bn run", 1, "no permission to write", "--out")


@pytest.fixture
def largest_file():
    """Sets how many bytes a file may get, as a full disk does, but for this process only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_for_the_first_files_leaves_no_directory(refused, largest_file):
    largest_file(10_000)
    refused("run SMALL --quiet --run-dir new/deep/run", 1, "freeze.json would be larger", "repeat the command")


def test_no_room_for_the_state_keeps_what_can_be_resumed(tmp_path, monkeypatch, largest_file):
    monkeypatch.chdir(tmp_path)
    largest_file(1_000_000)
    result = typed("run SMALL --quiet --epochs 1 --run-dir run")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: the file run/checkpoints/state.npz would be larger than is allowed: raise the limit ('ulimit -f'), "
        "then continue with: finetune run --resume run\n"
    )
    assert not list(tmp_path.rglob("*.tmp*"))
    assert (tmp_path / "run" / "config.json").exists()


def test_no_room_for_the_model_is_seen_before_hdf5_writes(tmp_path, finished, monkeypatch):
    model = models.open_trained(finished[0]).model
    full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: full)
    with pytest.raises(OSError, match="No space left") as failed:
        models.save(model, tmp_path / "model.keras")
    assert failed.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full while writing run/bn.json: free some space, then repeat the command"),
        (errno.EROFS, "no permission for run/bn.json: choose another place, or change its owner or mode"),
        (errno.EIO, "Input/output error: run/bn.json"),
    ],
)
def test_what_the_disk_says(monkeypatch, number, words):
    from checkpoints import catalog

    def fails(_):
        raise OSError(number, os.strerror(number), "run/bn.json")

    monkeypatch.setattr(catalog, "find", fails)
    result = typed("backbones show resnet_v1_50")
    assert (result.exit_code, result.stderr) == (1, f"Error: {words}\n")


def test_a_write_that_fails_keeps_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    from finetune.files import write_text

    write_text(tmp_path / "x.json", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space") as failed:
        write_text(tmp_path / "x.json", "new")
    assert failed.value.filename == str(tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "old"


def test_what_fails_at_the_first_step_leaves_no_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = typed("run SMALL --quiet --learning-rate 1e6 --optimizer sgd --warmup 0 --bn freeze --run-dir runs/x")
    assert result.exit_code == 1
    assert "the loss is" in result.stderr
    assert "--learning-rate" in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_unexpected_exception_is_one_message_too(monkeypatch):
    from checkpoints import catalog

    monkeypatch.setattr(catalog, "find", lambda name: 1 / 0)
    result = typed("backbones show resnet_v1_50")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: unexpected ZeroDivisionError: division by zero. This is a defect")
    monkeypatch.setenv("FINETUNE_TRACEBACK", "1")
    assert isinstance(typed("backbones show resnet_v1_50").exception, ZeroDivisionError)
