"""`finetune run` end to end on a tiny task: its files, its numbers, and that they can be had again."""

import io
import json
import shutil
import signal
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from click.testing import CliRunner

from finetune.cli import main
from tests.support.commands import in_full, typed
from tests.support.warm_process import WarmProcess


def weights(path):
    """Every array of a `.keras` file by its place in it (the file itself also holds the time it was written)."""
    found = {}
    with h5py.File(io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5")), "r") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def metrics(run):
    """The lines of metrics.jsonl without what the clock says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def read(run, name):
    return json.loads((run / name).read_text())


def test_the_run_directory(finished):
    run, printed = finished
    assert sorted(path.name for path in run.iterdir()) == [
        *(
            ".lock",
            "MODEL_CARD.md",
            "bn_source.npz",
            "checkpoints",
            "config.json",
            "data.json",
            "environment.json",
            "freeze.json",
            "load.json",
        ),
        *("metrics.csv", "metrics.jsonl", "model.keras", "predictions.npz", "result.json"),
    ]
    assert not list((run / "checkpoints").iterdir())
    config, result, load = (read(run, name) for name in ("config.json", "result.json", "load.json"))
    assert config["format_version"] == 1
    assert (config["backbone"], config["data"], config["epochs"], config["image_size"]) == (
        *("bundled/resnet_v1_demo", "demo-target", 3, 16),
    )
    assert [key for key, value in config.items() if value is None] == [
        *(
            "checkpoint",
            "data_dir",
            "npz_keys",
            "tfrecord_keys",
            "csv_columns",
            "label_separator",
            "few_shot",
            "exclude",
            *("rotate", "rand_augment", "color_jitter", "erase"),
            "mixup",
            "cutmix",
            "hidden",
            "features",
            "output",
            "preset",
            "freeze_until",
            "unfreeze_epochs",
            "layer_decay",
        ),
        *(
            "bn_epsilon",
            "diagnose_every",
            "microbatch",
            "l2",
            "decay_epochs",
            "class_weights",
            "focal_gamma",
            "clip_norm",
            "patience",
            "ema",
            "swa_start",
            "tta",
            "cache_budget",
        ),
    ]
    assert len(load["assigned"]) == 110
    assert {"python", "platform", "packages", "cores", "devices"} <= read(run, "environment.json").keys()

    test = result["test"]["is_training_false"]
    assert test["accuracy"] == test["correct"] / test["examples"]
    assert test["examples"] == 1000
    assert test["accuracy"] > 0.2
    assert result["proof"]["holds"]
    assert result["proof"]["moved_though_frozen"] == []
    assert len(result["class_names"]) == 10
    # 100 images, 5 held out, batches of 20: 4 steps an epoch.
    assert (result["epochs"], result["steps"], result["bn"]["updates"], result["bn"]["layers"]) == (3, 12, 12, 22)
    rows = metrics(run)
    assert [row["kind"] for row in rows] == ["epoch", "epoch", "epoch", "test", "test"]
    assert rows[3]["accuracy"] == test["accuracy"]
    assert rows[2]["validation_accuracy"] == result["validation_accuracy"]

    assert json.loads(printed.stdout) == {"run": str(run), "status": "done", **result}
    assert printed.stdout.count("\n") == 1
    assert printed.stderr == ""


def test_quiet_hides_progress_and_nothing_of_the_result(finished):
    run, _ = finished
    loud, quiet = (typed(f"run --resume {run}{option}") for option in ("", " --quiet"))
    assert loud.exit_code == quiet.exit_code == 0
    assert loud.stdout == quiet.stdout
    assert (loud.stderr, quiet.stderr) == (f"{run} is finished: nothing to do\n", "")
    result = read(run, "result.json")
    for words in (f"{result['test']['is_training_false']['accuracy']:.1%}", "12 updates", "proof", str(run)):
        assert words in quiet.stdout


def test_a_terminal_without_our_characters_shows_others(finished):
    result = CliRunner(charset="ascii").invoke(main, ["run", "--resume", str(finished[0])])
    assert result.exit_code == 0
    assert "(? " in result.stdout


def test_paths_are_kept_whole_and_normalised(tmp_path, monkeypatch):
    from finetune.cli.run_command import _plain
    from finetune.cli.shared_options import PATH

    monkeypatch.chdir(tmp_path)
    assert _plain(PATH.convert("a/../b c", None, None)) == str(tmp_path / "b c")
    monkeypatch.setenv("HOME", "/somewhere")
    assert _plain(PATH.convert("~/x", None, None)) == "/somewhere/x"


ALONE = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("finetune", "checkpoints"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
images = np.load(sys.argv[2])
np.save(sys.argv[3], model.predict(images, verbose=0))
"""


@pytest.mark.slow
def test_the_model_needs_nothing_but_keras(finished, tmp_path):
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    arguments = [str(finished[0] / "model.keras"), str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True, timeout=300, cwd=tmp_path)
    here = keras.models.load_model(finished[0] / "model.keras", compile=False)(images)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), np.asarray(here), atol=1e-5)


@pytest.mark.slow
def test_evaluate_gives_the_numbers_of_the_run_also_among_warnings(finished, tmp_path):
    run, _ = finished
    done = subprocess.run(
        [sys.executable, "-W", "always", "-m", "finetune", "evaluate", str(run), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        cwd=tmp_path,
    )
    evaluation = json.loads(done.stdout)
    expected = read(run, "result.json")["test"]["is_training_false"]
    assert {key: evaluation[key] for key in ("accuracy", "examples", "correct")} == {
        key: expected[key] for key in ("accuracy", "examples", "correct")
    }
    assert evaluation["loss"] == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.slow
def test_diagnosed_repaired_and_healthy_again(finished, tmp_path):
    """Statistics that were never updated are found (exit code 3), put right, and found no more (exit code 0)."""
    run = tmp_path / "sick"
    shutil.copytree(finished[0], run)
    model = keras.models.load_model(run / "model.keras", compile=False)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
            layer.moving_variance.assign(np.ones(layer.moving_variance.shape))
    model.save(run / "model.keras")

    sick = typed(f"diagnose-bn {run} --json")
    assert sick.exit_code == 3, sick.output
    report = json.loads(sick.stdout)
    assert report == read(run, "bn.json")
    assert report["schema_version"] == 2
    assert report["verdict"]["cause"] == "updates-never-ran"
    assert report["verdict"]["remedy"] == f"finetune recalibrate-bn {run}"
    assert report["accuracy"]["test"].keys() == {"is_training_false", "is_training_true", "recalibrated"}
    assert report["accuracy"]["test"]["is_training_false"] < report["accuracy"]["test"]["recalibrated"]

    before = (run / "model.keras").read_bytes()
    repaired = typed(f"recalibrate-bn {run} --json")
    assert repaired.exit_code == 0, repaired.output
    figures = json.loads(repaired.stdout)
    assert figures["before"]["accuracy"] == report["accuracy"]["test"]["is_training_false"]
    assert figures["after"]["accuracy"] > figures["before"]["accuracy"]
    assert (run / "model.keras").read_bytes() == before

    again = typed(f"diagnose-bn {figures['model']} --quick --json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["accuracy"]["test"]["is_training_false"] == figures["after"]["accuracy"]
    assert read(run, "bn.json") == report

    twice = typed(f"recalibrate-bn {run}")
    assert twice.exit_code == 2
    assert "is already there and is not overwritten" in twice.stderr


def test_without_batchnorm_nothing_is_said_of_it(tmp_path):
    """Both modes are one, so the test images are scored once."""
    pooled = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3), *pooled]).save(tmp_path / "plain.keras")
    settings = "--data demo-target --examples 40 --epochs 1 --batch-size 20 --preprocess unit"
    ran = typed(f"run --backbone {tmp_path / 'plain.keras'} {settings} --run-dir {tmp_path / 'run'}")
    assert ran.exit_code == 0, ran.output
    assert "is_training" not in ran.stdout + ran.stderr
    assert "BN decay" not in ran.stderr
    test = read(tmp_path / "run", "result.json")["test"]
    assert test["is_training_true"] == test["is_training_false"]


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = typed("run SMALL --preset linear-probe --dry-run")
    assert planned.exit_code == 0, planned.output
    assert "preset linear-probe: --freeze '*' --bn freeze" in planned.stderr
    assert planned.stdout == "95 training images, 12 steps; nothing was trained or written\n"
    as_json = json.loads(typed("run SMALL --freeze '*' --dry-run --json --quiet").stdout)
    assert (as_json["steps"], as_json["config"]["image_size"], as_json["config"]["epochs"]) == (12, 16, 3)
    assert [stage["stage"] for stage in as_json["stages"] if stage["training"]] == ["head"]
    assert not list(tmp_path.iterdir())
    refused = typed("run --resume nowhere --dry-run")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "found --dry-run" in refused.stderr


def test_a_dry_run_finds_that_a_checkpoint_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File("weights.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        group = file.create_group("conv")
        group.attrs["weight_names"] = [b"conv/kernel:0"]
        group["conv/kernel:0"] = np.zeros((3, 3, 3, 8), np.float32)
    refused = typed("run --backbone keras/mobilenet_0.25 --checkpoint weights.h5 --data demo-target --dry-run")
    assert refused.exit_code == 1
    assert "weights.h5 (keras-h5) does not fit the network" in refused.stderr


# One process, because determinism cannot be switched off again: an unbroken run; the same repeated from its
# config.json, stopped by Ctrl-C in its second epoch and resumed; and one that was killed meanwhile, resumed.
REPEATS = """
import os, signal, sys, time
from finetune.cli import main
from finetune.cli.display_training import ConsoleDisplay

def finetune(*arguments):
    try:
        main.main([*arguments, "--quiet"])
    except SystemExit as stopped:
        return stopped.code
    return 0

assert finetune("run", *sys.argv[1:], "--run-dir", "whole") == 0
seen = ConsoleDisplay.step
def step(self, **values):
    seen(self, **values)
    if values["step"] == 6:
        os.kill(os.getpid(), signal.SIGINT)
ConsoleDisplay.step = step
assert finetune("run", "--config", "whole/config.json", "--run-dir", "stopped") == 130
ConsoleDisplay.step = seen
assert finetune("run", "--resume", "stopped") == 0
while not os.path.exists("gone"):
    time.sleep(0.1)
assert finetune("run", "--resume", "killed") == 0
"""


def test_resumed_and_repeated_equal_unbroken_to_the_bit(tmp_path):
    extra = "--dropout 0.2 --freeze conv1 --no-recalibrate-at-end --seed 3 --deterministic"
    settings = [*in_full("TINY").split(), *extra.split()]
    with WarmProcess(REPEATS, *settings, cwd=tmp_path) as repeats:
        with WarmProcess("", "run", *settings, "--run-dir", "killed", module="finetune", cwd=tmp_path) as killed:
            for line in killed.stderr:
                if line.startswith("epoch   1"):
                    killed.send_signal(signal.SIGKILL)
        (tmp_path / "gone").touch()
        assert killed.returncode == -signal.SIGKILL
        assert repeats.stderr.read() == (
            "Error: stopped at step 6 of 12; continue with: finetune run --resume stopped\n"
        )
    assert repeats.returncode == 0
    whole = tmp_path / "whole"
    expected = weights(whole / "model.keras")
    assert len(expected) == 12
    for name in ("stopped", "killed"):
        run = tmp_path / name
        assert read(run, "result.json")["test"] == read(whole, "result.json")["test"], name
        assert metrics(run) == metrics(whole), name
        found = weights(run / "model.keras")
        assert found.keys() == expected.keys()
        for place, array in expected.items():
            np.testing.assert_array_equal(found[place], array, err_msg=f"{name}: {place}")
