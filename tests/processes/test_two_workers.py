"""Two real processes on loopback: they train what one does, and when one dies the other ends and the run goes on."""

import json
import signal
import socket
import time

import keras
import numpy as np
import pytest

from finetune.config import RunConfig
from finetune.data.sources import generated
from finetune.training import start
from tests.support.warm_process import WarmProcess

SETTINGS = {
    "data": "demo-target",
    "examples": 120,
    "validation": 0.2,  # 24 images: two batches, one of them ragged, one for each worker
    "image_size": 16,
    "batch_size": 20,
    "epochs": 3,
    "optimizer": "sgd",
    "learning_rate": 0.003,
    "clip_norm": 1.0,
    "patience": 10,  # the best epoch's weights are put back, on every worker
    "recalibrate_at_end": False,
    # Each worker draws its part of the same balanced batches; weights and scores are of all images together.
    "sampler": "balanced",
    "class_weights": {name: 1 + number / 10 for number, name in enumerate(generated.demo_target().class_names)},
    "loss": "focal",
    "select_by": "macro-f1",
}

# A worker as the command line starts it, that sends itself a signal after a step of its own.
WORKER = """
import os, signal, sys
from finetune.cli import main
from finetune.cli.display_training import ConsoleDisplay
seen, (at, number) = ConsoleDisplay.step, map(int, os.environ.get("DIES", "0 0").split())
def step(self, **values):
    seen(self, **values)
    if values["step"] == at:
        os.kill(os.getpid(), number)
ConsoleDisplay.step = step
main()
"""


ONE_THREAD = {"FINETUNE_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def ports(count):
    """Ports that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def started(arguments, config, *, cwd, dies=""):
    environment = {"TF_CONFIG": json.dumps(config), "FINETUNE_WAIT": "300", "DIES": dies or "0 0", **ONE_THREAD}
    return WarmProcess(WORKER, "run", *arguments, cwd=cwd, environment=environment)


def together(chief, other, *, cwd, elsewhere=None, dies="", seconds=300):
    """Run the two command lines as workers 0 and 1: [exit code, stdout, stderr, when it ended] of each. `dies` is of
    worker 1."""
    workers = [f"127.0.0.1:{port}" for port in ports(2)]
    config = {"cluster": {"worker": workers}, "task": {"type": "worker"}}
    processes = []
    try:
        for index, arguments in enumerate((chief, other)):
            own = {**config, "task": {"type": "worker", "index": index}}
            place = elsewhere if index and elsewhere else cwd
            processes.append(started(arguments, own, cwd=place, dies=dies if index else ""))
        ends, until = [None, None], time.monotonic() + seconds
        while None in ends:
            assert time.monotonic() < until, f"still running after {seconds} s: {ends}"
            time.sleep(0.1)
            for index, process in enumerate(processes):
                if ends[index] is None and process.poll() is not None:
                    ends[index] = time.monotonic()
        return [[one.returncode, *one.communicate(), end] for one, end in zip(processes, ends, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def epochs(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def weights(run):
    return {v.path: np.array(v) for v in keras.models.load_model(run / "model.keras").variables}


def backbone(path):
    """A small network, quickly built: most of a worker's time here is importing TensorFlow and tracing."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    for number, width in enumerate((8, 16, 16)):
        x = keras.layers.Conv2D(width, 3, strides=1 + number % 2, use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    backbone(folder / "backbone.keras")
    settings = {**SETTINGS, "backbone": str(folder / "backbone.keras")}
    (folder / "alone.json").write_text(json.dumps(settings))
    (folder / "jobs.json").write_text(json.dumps({**settings, "bn_sync": True, "distribute": "multi-worker"}))
    (folder / "elsewhere").mkdir()
    return folder


@pytest.fixture(scope="module")
def alone(place):
    """The run of one process."""
    settings = json.loads((place / "alone.json").read_text())
    return start.start(RunConfig(**settings), run_dir=place / "alone").path


@pytest.fixture(scope="module")
def unbroken(place):
    """The run of two; what both printed."""
    line = ["--config", str(place / "jobs.json"), "--run-dir"]
    outcome = together([*line, "both"], [*line, "both", "--json"], cwd=place, elsewhere=place / "elsewhere")
    assert [one[0] for one in outcome] == [0, 0], "\n".join(text for one in outcome for text in one[1:3])
    return place / "both", outcome


@pytest.mark.slow
def test_two_workers_train_what_one_does(alone, unbroken):
    run, _ = unbroken
    for one, two in zip(epochs(alone), epochs(run), strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            # Accuracies and counts to the bit: every image has been counted once, by one worker or the other.
            same = value if "loss" not in name else pytest.approx(value, rel=1e-5)
            assert two[name] == same, name
    results = [json.loads((path / "result.json").read_text()) for path in (alone, run)]
    for one, two in zip(*(result["thresholds"] for result in results), strict=True):
        assert two["images"] == one["images"]
        assert two["threshold"] == pytest.approx(one["threshold"], abs=1e-4)
    one, two = weights(alone), weights(run)
    assert one.keys() == two.keys()
    for path, value in one.items():
        np.testing.assert_allclose(two[path], value, rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.slow
def test_only_the_chief_writes(alone, unbroken):
    run, ((_, out, _, _), (_, other, said, _)) = unbroken
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}
    assert list((run.parent / "elsewhere").iterdir()) == []
    assert "test accuracy" in out
    assert json.loads(other) == {"run": "both", "worker": 1, "workers": 2}
    assert said.splitlines()[-1] == "worker 1 of 2: finished"
    surroundings = json.loads((run / "environment.json").read_text())
    assert surroundings["distribution"] == {"workers": 2, "replicas": 2}


@pytest.mark.slow
def test_stopped_killed_and_resumed_ends_with_the_same_weights(place, unbroken):
    line = ["--config", str(place / "jobs.json"), "--run-dir", "broken"]
    again = "continue with, on every worker: finetune run --resume broken"

    # SIGTERM to one worker, as a cluster sends before it takes a machine away: both stop after the same step.
    chief, other = together(line, line, cwd=place, dies=f"6 {signal.SIGTERM:d}")
    assert (chief[0], other[0]) == (130, 130), (chief, other)
    assert chief[2].splitlines()[-1] == f"Error: stopped at step 6 of 12; {again}"
    assert other[2].splitlines()[-1] == f"Error: worker 1 of 2: stopped at step 6 of 12; {again}"

    # kill -9: nobody is told, and the other ends with one message.
    line = ["--resume", "broken"]
    chief, other = together(line, line, cwd=place, dies=f"10 {signal.SIGKILL:d}")
    assert (chief[0], other[0]) == (1, -signal.SIGKILL), (chief, other)
    errors = [text for text in chief[2].splitlines() if "Error" in text or "Traceback" in text]
    assert len(errors) == 1, chief[2]
    assert errors[0].startswith("Error: worker 1 (127.0.0.1:"), errors
    assert "has stopped or cannot be reached" in errors[0]
    assert errors[0].endswith(again)
    assert chief[3] - other[3] < 60

    # The other worker need not see the directory.
    line = ["--resume", "broken", "--distribute", "multi-worker"]
    chief, other = together(line[:2], line, cwd=place, elsewhere=place / "elsewhere")
    assert (chief[0], other[0]) == (0, 0), (chief, other)
    assert list((place / "elsewhere").iterdir()) == []
    run, _ = unbroken
    assert epochs(place / "broken") == epochs(run)
    expected, resumed = weights(run), weights(place / "broken")
    assert expected.keys() == resumed.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(resumed[path], value, err_msg=path)
