"""Rows about whole commands: seconds, memory, and how cost grows."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.peers.conductor import ROOT, Contender, Failed, Worker
from benchmarks.peers.rows import initial_weights

PLANS = {
    # row: (epochs, our options, the peers' mode, goal: ours over Keras's, ours over the best of PyTorch)
    "head": (20, ("--preset", "linear-probe"), "head", (1 / 20, 1 / 10)),
    "stage": (10, ("--freeze-until", "conv4", "--bn", "freeze"), "stage", (1 / 3, 1 / 3)),
}
WHAT = {"head": "the head alone trains", "stage": "the last stage and the head train"}
AS_THE_PEERS = (
    *("--augment", "none", "--optimizer", "sgd", "--learning-rate", "0.001", "--schedule", "constant"),
    *("--weight-decay", "0"),
)
ROWS = (*PLANS, "second", "start", "memory", "growth")


def row(name, images, work, options):
    """One row for results.json."""
    side = options.size or 64
    if name in PLANS:
        return _plan(name, images, work, options, side)
    if name == "second":
        return _second(images, work, side)
    if name == "start":
        return _start(images, work, side)
    if name == "memory":
        return _memory(work, options)
    return _growth(work, options)


def _plan(name, images, work, options, side):
    epochs, plan, mode, goals = PLANS[name]
    weights = initial_weights("resnet50", side, work, images)
    first = _run(images, weights, side, plan, epochs, work / f"home-{name}", work / f"run-{name}")
    loss = first["epoch_1_loss"]
    recipe = ("keras_recipe.py", "resnet50", str(images), str(side), mode, str(weights))
    peers = [Contender("Keras, as it comes", recipe, {"TF_ENABLE_ONEDNN_OPTS": None})]
    if options.torch_python:
        start = str(weights).replace(".weights.h5", ".npz")
        peers += [
            Contender(f"PyTorch, {how}", ("torch_resnet.py", "50", str(images), str(side), how, mode, start),
                      python=options.torch_python)
            for how in ("eager", "channels-last", "compile")
        ]  # fmt: skip
    found = {peer.name: _an_epoch(peer, options.examples // 32, epochs, loss) for peer in peers}
    again = _run(images, weights, side, plan, epochs, work / f"home-{name}-2", work / f"run-{name}-2")
    seconds = statistics.fmean([first["seconds"], again["seconds"]])
    for its in found.values():
        if "seconds" in its:
            its["ours_over_it"] = seconds / its["seconds"]
    return {
        "what": f"{WHAT[name]}, {epochs} epochs of {options.examples} images, ResNet-50, {side} px",
        "unit": "seconds",
        "goals": goals,
        "note": "ours is the whole command, features and test included, the mean of a run before the peers' and one "
        f"after; the peers' are their start and {epochs} times their first epoch, without a test; loss: that epoch's",
        "contenders": {
            "finetune, whole command": {**first, "loss": loss, "seconds": seconds, "before": first["seconds"],
                                        "after": again["seconds"]},
            **found,
        },
    }  # fmt: skip


def _an_epoch(peer, steps, epochs, expected_loss):
    """What a peer would take for all epochs, from its start and its first; that one's mean loss must be ours."""
    print(f"{peer.name}: an epoch of {steps} steps", file=sys.stderr, flush=True)
    try:
        began = time.perf_counter()
        worker = Worker(peer)
        started = time.perf_counter() - began
        seconds, losses = worker.train(steps)
        worker.end()
    except Failed as error:
        return {"failed": str(error)}
    loss = statistics.fmean(losses)
    if not abs(loss - expected_loss) <= peer.band * expected_loss:
        return {"failed": f"its mean loss in the first epoch is {loss:.3f}, ours {expected_loss:.3f}"}
    return {"seconds": started + epochs * seconds, "loss": loss, "epoch_seconds": seconds, "start_seconds": started}


def _run(images, weights, side, plan, epochs, home, run):
    """A whole `finetune run`: its seconds, test accuracy and the mean loss of its first epoch."""
    print(f"finetune run {' '.join(plan)}", file=sys.stderr, flush=True)
    command = [
        *(sys.executable, "-m", "finetune", "run", "--backbone", "keras/resnet50", "--checkpoint", str(weights)),
        *("--data", str(images), "--image-size", str(side), "--batch-size", "32", "--epochs", str(epochs)),
        *("--validation", "0", "--quiet", "--run-dir", str(run), *AS_THE_PEERS, *plan),
    ]
    began = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, "FINETUNE_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds = time.perf_counter() - began
    result = json.loads((run / "result.json").read_text())
    epoch = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    return {
        "seconds": seconds,
        "test_accuracy": result["test"]["is_training_false"]["accuracy"],
        "epoch_1_loss": epoch["train_loss"],
    }


def _second(images, work, side):
    weights = initial_weights("resnet50", side, work, images)
    plan, home = ("--preset", "linear-probe"), work / "home-second"
    first = _run(images, weights, side, plan, 20, home, work / "first")["seconds"]
    second = _run(images, weights, side, (*plan, "--seed", "1"), 20, home, work / "another")["seconds"]
    one, five = (_batch(images, weights, side, 20, work / f"batch-{jobs}", jobs) for jobs in (1, 5))
    more = (five - one) / 4
    return {
        "what": f"a second job on the same frozen backbone, ResNet-50, {side} px, 20 epochs",
        "unit": "seconds",
        "goal": 0.05,
        "contenders": {
            "first": {"seconds": first},
            "second": {"seconds": second, "share": second / first},
            "finetune batch, one job": {"seconds": one},
            "each further job of five": {"seconds": more, "share": more / one},
        },
    }


def _batch(images, weights, side, epochs, home, jobs):
    """Seconds of `finetune batch` with so many jobs of one frozen backbone, one after the other, on an empty cache."""
    print(f"finetune batch, {jobs} jobs", file=sys.stderr, flush=True)
    given = dict(zip(AS_THE_PEERS[::2], AS_THE_PEERS[1::2], strict=True))
    settings = {
        "backbone": "keras/resnet50", "checkpoint": str(weights), "data": str(images), "image-size": side,
        "batch-size": 32, "epochs": epochs, "validation": 0.0, "preset": "linear-probe", "augment": given["--augment"],
        "optimizer": given["--optimizer"], "learning-rate": float(given["--learning-rate"]),
        "schedule": given["--schedule"], "weight-decay": float(given["--weight-decay"]),
    }  # fmt: skip
    home.mkdir()
    lines = ["[defaults]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    (home / "jobs.toml").write_text("\n".join([*lines, "[matrix]", f"seed = {list(range(jobs))}", ""]))
    command = [sys.executable, "-m", "finetune", "batch", str(home / "jobs.toml"), "--workers", "1", "--json"]
    environment = {**os.environ, "FINETUNE_HOME": str(home / "cache"), "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - began


def _start(images, work, side):
    weights = initial_weights("resnet50", side, work, images)
    settings = _settings("keras/resnet50", images, side, **{"from-scratch": False, "checkpoint": str(weights)})
    times = []
    for _ in range(3):
        began = time.perf_counter()
        worker = Worker(Contender("finetune", ("ours.py", json.dumps(settings))))
        worker.train(1)
        times.append(time.perf_counter() - began)
        worker.end()
    return {
        "what": f"from the command to the end of the first training step, everything trains, ResNet-50, {side} px, the "
        "median of three",
        "unit": "seconds",
        "goal": 15,
        "contenders": {"finetune": {"seconds": statistics.median(times)}},
    }


def _settings(backbone, images, side, **others):
    return {
        "backbone": backbone, "data": str(images), "image-size": side, "batch-size": 32, "epochs": 1000,
        "validation": 0.0, "augment": "none", "from-scratch": True, "cache-features": "off", **others,
    }  # fmt: skip


def _icons(path, count):
    """Generated images of 32 px in an `.npz`."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=np.arange(count) % 10, x_test=x[:32] ^ 1, y_test=np.arange(32) % 10)
    return path


def _memory(work, options):
    side = options.size or 224
    images = _icons(work / "icons.npz", 50_000)
    settings = _settings("keras/resnet50", images, side, preset="linear-probe")
    worker = Worker(Contender("finetune", ("ours.py", json.dumps(settings))))
    worker.train(10)
    status = Path(f"/proc/{worker._process.pid}/status").read_text()
    worker.end()
    held = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**20
    return {
        "what": f"peak memory, 50,000 images of 32 px trained on at {side} px, frozen ResNet-50, after 10 steps",
        "unit": "GiB",
        "goal": 3.0,
        "contenders": {"finetune": {"gib": held}},
    }


def _growth(work, options):
    found = {}
    for count in (5_000, 10_000, 20_000, 40_000):
        images = _icons(work / f"icons-{count}.npz", count)
        worker = Worker(Contender("finetune", ("ours.py", json.dumps(_settings("keras/mobilenet_0.25", images, 32)))))
        worker.train(20)
        # An epoch's share, so that whatever is done once an epoch counts.
        steps = count // 32
        found[f"{count} images"] = {"ms_an_image": 1000 * worker.train(steps)[0] / (32 * steps)}
        worker.end()
    images = _icons(work / "icons-few.npz", 640)
    for side in (32, 64, 128, 224):
        worker = Worker(Contender("finetune", ("ours.py", json.dumps(_settings("keras/resnet50", images, side)))))
        worker.train(3)
        found[f"{side} px"] = {"ms_an_image": 1000 * worker.train(options.steps)[0] / (32 * options.steps)}
        worker.end()
    times = [found[f"{side} px"]["ms_an_image"] for side in (32, 64, 128, 224)]
    exponent = float(np.polyfit(np.log(np.array([32, 64, 128, 224]) ** 2.0), np.log(times), 1)[0])
    return {
        "what": "time per image: MobileNet 0.25 at 32 px by number of images; ResNet-50 by side, batch 32",
        "unit": "ms an image",
        "goal": 1.1,
        "exponent_in_pixels": exponent,
        "contenders": found,
    }
