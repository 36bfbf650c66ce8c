"""Stands in for `finetune run`: writes a run directory without training. What it does is read from $STUB/NAME, a word
for each attempt: ok, fail, fail-once:NAME (once the job of that name hangs), oom, kill, moved, kill-early,
hang:SECONDS (or until it is told to stop, when it saves its state)."""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

from finetune.batch.executors.job_process import Launch
from finetune.cli.startup import follow_lifeline


class StubLaunch(Launch):
    @property
    def command(self):
        return [sys.executable, __file__, *self.arguments]


def main(arguments):
    follow_lifeline()
    resumed = arguments[1] == "--resume"
    run = Path(arguments[2] if resumed else arguments[4])
    notes = Path(os.environ["STUB"])
    seen = notes / f"{run.name}.seen"
    count = len(seen.read_text().split()) if seen.exists() else 0
    with open(seen, "a") as file:
        file.write("resume " if resumed else "begin ")
    words = (notes / run.name).read_text().split() if (notes / run.name).exists() else []
    word = words[count] if count < len(words) else "ok"
    if word == "kill-early":
        run.mkdir()
        (run / "load.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGKILL)
    if not resumed:
        run.mkdir()
        (run / "config.json").write_text(Path(arguments[2]).read_text())
    config = json.loads((run / "config.json").read_text())
    with open(run / ".lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        act(word, run, config)


def act(word, run, config):
    row = {"kind": "epoch", "epoch": 1, "step": 2, "seconds": 0.1, "images_per_second": 9.0, "validation_accuracy": 0.5}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    print(f"threads {os.environ.get('FINETUNE_THREADS')} batch {config['batch_size']}", flush=True)
    if word.startswith("fail-once:"):
        # On a busy machine the other process may start seconds later: wait for it, not for a time.
        wait_for(run.parent / word.partition(":")[2] / "pid")
    if word.startswith("fail"):
        sys.exit("Error: it did not work")
    if word == "oom":
        sys.exit("Error: out of memory: lower --batch-size")
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "state.npz").write_text("state")
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word.startswith("hang"):
        told = []
        signal.signal(signal.SIGTERM, lambda *_: told.append(1))
        (run / "pid").write_text(str(os.getpid()))
        deadline = time.monotonic() + float(word.partition(":")[2])
        while not told and time.monotonic() < deadline:
            time.sleep(0.02)
        if told:
            print("Error: stopped at step 2 of 9; continue with: finetune run --resume", file=sys.stderr)
            sys.exit(130)
    accuracy = config["learning_rate"] or 0.5
    way = {"accuracy": accuracy, "examples": 1000}
    result = {
        "test": {"is_training_false": way, "is_training_true": way},
        "proof": {"holds": word != "moved"},
        "train_images": 20,
        "epochs": 1,
        "train_seconds": 0.1,
    }
    (run / "result.json").write_text(json.dumps(result))


def wait_for(path, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            sys.exit(f"Error: no {path} within {seconds} seconds")
        time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1:])
