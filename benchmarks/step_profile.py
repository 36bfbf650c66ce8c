"""Where a training step's time goes: `python -m benchmarks.step_profile --backbone NAME --size PX [--way keras]`.

Milliseconds by kind of op, summed over the threads that ran them (two cores can give two seconds a second), by
TensorFlow's own profiler. The ways are those of `benchmarks/step.py`.
"""

import argparse
import collections
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.step import WAYS, made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="keras/resnet50")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--way", choices=WAYS, default="finetune")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    step = made(options.way, options)
    images = tf.random.stateless_normal((options.batch, options.size, options.size, 3), (0, 0))
    labels = tf.constant(np.arange(options.batch) % 10, tf.int64)

    def steps():
        began = time.perf_counter()
        for _ in range(options.steps):
            step(images, labels)[0].numpy()
        return 1000 * (time.perf_counter() - began) / options.steps

    steps()
    print(f"a step takes {steps():.0f} ms")
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        steps()
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        spent, calls = by_kind(path)
    for kind, milliseconds in spent.most_common(20):
        print(f"{kind:45} {milliseconds / options.steps:8.1f} ms {calls[kind] / options.steps:6.0f} ops")


def by_kind(path):
    """Milliseconds and number of calls of each kind of op in a profile: its events are called NAME:KIND."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    spent, calls = collections.Counter(), collections.Counter()
    for plane in space.planes:
        names = {number: metadata.name for number, metadata in plane.event_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            name, _, kind = names[event.metadata_id].rpartition(":")
            if name and kind.isidentifier():
                spent[kind] += event.duration_ps / 1e9
                calls[kind] += 1
    return spent, calls


if __name__ == "__main__":
    main()
