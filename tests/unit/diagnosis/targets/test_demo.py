import json

import numpy as np
import pytest
from click.testing import CliRunner

from checkpoints.formats import open_checkpoint
from finetune.cli import main
from finetune.diagnosis.targets.demo import ill_model


def test_the_ill_model_is_made_once(home):
    checkpoint, images = ill_model()
    assert checkpoint.parent.parent == home
    opened = open_checkpoint(checkpoint)
    statistics = {name: opened.read(name) for name in opened.shapes if "/moving_" in name}
    assert len(statistics) == 44
    assert all((value == name.endswith("variance")).all() for name, value in statistics.items())
    assert np.load(images)["x_train"].shape == (600, 32, 32, 3)
    before = images.stat().st_mtime_ns
    assert ill_model()[1].stat().st_mtime_ns == before


@pytest.mark.slow
def test_it_is_diagnosed_and_its_remedy_runs(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["diagnose-bn", "--demo", "--json"])
    verdict = json.loads(done.stdout)["verdict"]
    assert (done.exit_code, verdict["cause"]) == (3, "updates-never-ran")
    words = verdict["remedy"].removeprefix("finetune ").split()
    repaired = CliRunner().invoke(main, [*words, "--out", "repaired.ckpt", "--json"])
    scores = json.loads(repaired.stdout)
    assert scores["before"]["accuracy"] < 0.1 < 0.9 < scores["after"]["accuracy"]


def test_it_brings_its_own_model():
    done = CliRunner().invoke(main, ["diagnose-bn", "--demo", "--data", "cifar10"])
    assert done.exit_code == 2
    assert "--demo brings its own model and images: leave out --data" in done.stderr
