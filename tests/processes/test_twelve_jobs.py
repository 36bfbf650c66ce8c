"""Twelve jobs on real images, killed without warning, end as if nothing had happened: here, and on a Ray cluster."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from checkpoints.formats import open_checkpoint
from tests.support.places import ROOT, SHARED

MOBILENET = SHARED / "checkpoints" / "keras" / "mobilenet_2_5_224_tf_no_top.h5"
SLIM = SHARED / "checkpoints" / "slim" / "v2"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not MOBILENET.exists(), reason=f"{SHARED} holds no real weights and images"),
]
JOBS = """
[defaults]
data = "cifar.npz"
epochs = 2
batch_size = 32
image_size = 32
preprocess = "inception"
validation = 0.0
deterministic = true
[matrix]
backbone = ["keras.keras", "slim.keras", "scratch.keras"]
freeze = [[], ["*"]]
bn_decay = [0.9, 0.95]
"""


def finetune(*words, cwd, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "finetune", *map(str, words)]
    return subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **options)


def finished(*words, cwd):
    with finetune(*words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A jobs file with its data and backbones, and its results without any interruption."""
    from finetune.config import RunConfig
    from finetune.data.dataset import stratified_subset
    from finetune.data.load_data import load_data

    folder = tmp_path_factory.mktemp("twelve")
    cifar = load_data(RunConfig("any", data="cifar10", data_dir=str(SHARED / "data"), validation=0.0))
    arrays = {}
    for name, split, count in (("train", cifar.train, 320), ("test", cifar.test, 200)):
        some = stratified_subset(split, count, 0)
        arrays |= {f"x_{name}": some.images, f"y_{name}": some.labels}
    np.savez(folder / "cifar.npz", **arrays)
    finished("checkpoint", "convert", MOBILENET, "keras.keras", "--backbone", "keras/mobilenet_0.25", cwd=folder)
    finished("checkpoint", "convert", SLIM, "slim.keras", "--backbone", "slim/mobilenet_v1_0.25", cwd=folder)
    scratch = [
        "run",
        "--backbone",
        "scratch/cifar_resnet",
        "--data",
        "cifar.npz",
        "--epochs",
        "1",
        "--run-dir",
        "first",
    ]
    finished(*scratch, cwd=folder)
    (folder / "first" / "model.keras").rename(folder / "scratch.keras")
    (folder / "jobs.toml").write_text(JOBS)
    finished("batch", "jobs.toml", "--runs-dir", "unbroken", "--workers", 2, "--quiet", cwd=folder)
    return folder


def outcome(runs):
    """Job name -> digest of the trained weights, and its metrics without what a clock says."""
    found = {}
    for path in sorted(one.parent for one in runs.glob("*/result.json")):
        digest, weights = hashlib.sha256(), open_checkpoint(path / "model.keras")
        for name in weights.shapes:
            digest.update(weights.read(name).tobytes())
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        clock = ("seconds", "images_per_second")
        found[path.name] = (digest.hexdigest(), [{k: v for k, v in row.items() if k not in clock} for row in rows])
    return found


def wait_for(condition, process, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end, "nothing to kill"
        time.sleep(0.02)


def children(pid):
    return [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]


def test_a_child_and_the_parent_are_killed(night):
    words = ("batch", "jobs.toml", "--runs-dir", "broken", "--workers", 2, "--quiet")
    runs = night / "broken"
    with finetune(*words, cwd=night) as parent:
        wait_for(lambda: next(runs.glob("*/checkpoints/state.npz"), None), parent)
        os.kill(children(parent.pid)[0], signal.SIGKILL)
        wait_for(
            lambda: len(list(runs.glob("*/result.json"))) >= 4 and list(runs.glob("*/checkpoints/state.npz")), parent
        )
        parent.kill()
    finished(*words, cwd=night)
    whole = outcome(night / "unbroken")
    assert len(whole) == 12
    assert outcome(runs) == whole
    summary = json.loads((runs / "summary.json").read_text())
    assert [job["state"] for job in summary["jobs"]] == ["done"] * 12


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
def test_a_node_of_a_cluster_is_killed(night, monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    runs = night / "on-ray"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        words = ("batch", "jobs.toml", "--runs-dir", "on-ray", "--on", "ray", "--address", cluster.address, "--quiet")
        with finetune(*words, cwd=night, stderr=subprocess.PIPE, text=True) as parent:
            wait_for(lambda: len(list(runs.glob("*/checkpoints/state.npz"))) >= 2, parent)
            cluster.remove_node(second, allow_graceful=False)
            _, err = parent.communicate()
        assert parent.returncode == 0, err
    finally:
        cluster.shutdown()
    assert outcome(runs) == outcome(night / "unbroken")
