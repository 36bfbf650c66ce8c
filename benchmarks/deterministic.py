"""What `--deterministic` costs: whole runs with and without it, in turn, each in a process of its own.

Printed: seconds of the clock and of the processors for each training step, without the first ones, which are traced;
their medians and ratios over the rounds; and whether the runs of a kind ended in the same bits. Fails where those with
`--deterministic` did not. Where other programs run, read the processors' seconds.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM = 8
"""Steps that are not counted."""


def one(options, deterministic):
    """A run in this process: what it took from step WARM on, and the digest of what it trained."""
    import finetune  # noqa: F401  chooses how TensorFlow starts
    from finetune.cli.startup import load_tensorflow

    load_tensorflow()
    import keras
    import numpy as np

    from finetune.config import RunConfig
    from finetune.training.display import Display
    from finetune.training.start import start

    seen = []

    class Clock(Display):
        """Looks at both clocks after every step."""

        def step(self, **_):
            seen.append((time.perf_counter(), time.process_time()))

    config = RunConfig(
        backbone=options.backbone,
        data="demo-target",
        from_scratch=True,
        examples=options.steps * options.batch // 4,
        validation=0.0,
        epochs=4,
        batch_size=options.batch,
        image_size=options.size,
        learning_rate=1e-3,
        recalibrate_at_end=False,
        deterministic=deterministic,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = start(config, run_dir=Path(folder) / "run", display=Clock())
        model = keras.models.load_model(run.model_path)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(variable).tobytes() for variable in model.variables))
    ends = [part * options.steps // 4 - 1 for part in range(1, 5)]
    # Between the steps of an epoch: at its end the validation and the files are looked after.
    parts = [(max(end - options.steps // 4 + 1, WARM), end) for end in ends]
    steps = sum(max(0, last - first) for first, last in parts)
    wall, processors = (
        sum(seen[last][which] - seen[first][which] for first, last in parts if last > first) / steps for which in (0, 1)
    )
    print(json.dumps({"wall": wall, "processors": processors, "digest": digest.hexdigest()[:16]}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet_v1_50")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40, help="of a run; 4 epochs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=("with", "without"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps % 4 or options.steps < 4 * WARM:
        parser.error(f"--steps {options.steps}: expected a multiple of 4, {4 * WARM} or more")
    if options.one:
        return one(options, options.one == "with")
    found = {"without": [], "with": []}
    for number in range(options.rounds):
        for way, rows in found.items():
            line = subprocess.run(
                [sys.executable, *sys.argv, "--one", way], stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            rows.append(json.loads(line.splitlines()[-1]))
            row = rows[-1]
            print(
                f"round {number + 1}, {way:7} {row['wall'] * 1e3:7.1f} ms a step by the clock, "
                f"{row['processors'] * 1e3:7.1f} ms of processors, weights {row['digest']}",
                flush=True,
            )
    for which in ("wall", "processors"):
        both = [statistics.median(row[which] for row in found[way]) for way in ("without", "with")]
        ratios = [b[which] / a[which] for a, b in zip(found["without"], found["with"], strict=True)]
        print(
            f"{which:10} {both[0] * 1e3:.1f} ms without, {both[1] * 1e3:.1f} ms with: {statistics.median(ratios):.2f} "
            f"times ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    for way, rows in found.items():
        same = len({row["digest"] for row in rows}) == 1
        print(f"{way}: {len(rows)} runs ended in {'the same bits' if same else 'different bits'}")
        if way == "with" and not same:
            return "--deterministic did not repeat"


if __name__ == "__main__":
    sys.exit(main())
