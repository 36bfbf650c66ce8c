"""Whether input keeps up: photos a second from a folder and from TFRecords, against what a ResNet-50 step takes.

Generated JPEGs of 500 x 375, random crops decoded to 224 px. Every row is a process of its own, so that its peak
memory is its own: 2,000 and 20,000 photos (links to 200 files) must come out alike.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

DISTINCT, CLASSES, SIDE, BATCH, BATCHES, STEPS = 200, 10, 224, 64, 20, 4


def photo(seed):
    """Colours that change slowly and a little grain: a JPEG of about the bytes of a real photo of this size."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
    return Image.fromarray((np.asarray(coarse) + rng.integers(-12, 13, (375, 500, 1))).clip(0, 255).astype(np.uint8))


def make(place):
    originals = []
    for number in range(DISTINCT):
        path = place / "originals" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        photo(number).save(path, quality=90)
        originals.append(path)
    for count in (2_000, 20_000):
        for number in range(count):
            folder = place / f"folder of {count:,}" / f"class{number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            os.link(originals[number % DISTINCT], folder / f"{number:06d}.jpg")
    records = place / "TFRecords of 2,000"
    records.mkdir()
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(records / "train-00000-of-00001")) as writer:
        for number in range(2_000):
            feature = {
                "image/encoded": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[originals[number % DISTINCT].read_bytes()])
                ),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % CLASSES])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return sum(path.stat().st_size for path in originals) / DISTINCT


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read(place):
    from finetune.data import pipeline
    from finetune.data.augmentation import Augmentation
    from finetune.data.load_data import read_source
    from finetune.data.preprocessing import find_preprocessing
    from finetune.data.sources.assembly import ReadOptions

    before, started = peak(), time.monotonic()
    dataset = read_source(str(place), ReadOptions())
    opened = time.monotonic() - started
    batches = pipeline.train_batches(
        dataset.train,
        pipeline.Epoch(0, 0, Augmentation(crop_padding=0, flip=True, resized_crop=True)),
        batch_size=BATCH,
        image_size=SIDE,
        preprocessing=find_preprocessing("caffe"),
    )
    ready = iter(batches)
    next(ready)
    started = time.monotonic()
    for _ in range(BATCHES):
        next(ready)
    rate = BATCHES * BATCH / (time.monotonic() - started)
    return {"rate": rate, "opened": opened, "before": before, "peak": peak()}


def train():
    import keras
    import tensorflow as tf

    from finetune.backbone.head import attach_head
    from finetune.batchnorm.surgery import adopt
    from finetune.config import RunConfig
    from finetune.training.loop.optimizer import build
    from finetune.training.loop.step import TrainStep

    backbone = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg", input_shape=(SIDE, SIDE, 3))
    model = attach_head(adopt(backbone, unbiased=False), CLASSES)
    config = RunConfig("keras/resnet50", optimizer="sgd", learning_rate=0.01, schedule="constant")
    variables = model.trainable_variables
    step = TrainStep(model, build(config, variables, steps=1), variables, config).traced()
    images, labels = tf.random.normal((16, SIDE, SIDE, 3)), tf.zeros(16, tf.int64)
    step(images, labels)
    started = time.monotonic()
    for _ in range(STEPS):
        step(images, labels)
    return {"rate": STEPS * 16 / (time.monotonic() - started), "peak": peak()}


def in_a_process(*arguments):
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        print(f"{make(place) / 1024:.0f} KiB a photo, {os.cpu_count()} cores", flush=True)
        print("| what | images/s | seconds to look through | peak MiB, of it before the data |\n|---|---|---|---|")
        for source in ("folder of 2,000", "folder of 20,000", "TFRecords of 2,000"):
            row = in_a_process("read", str(place / source))
            peaks = f"{row['peak']:.0f}, {row['before']:.0f}"
            print(f"| {source} | {row['rate']:.0f} | {row['opened']:.1f} | {peaks} |", flush=True)
        row = in_a_process("train")
        print(f"| a ResNet-50 training step takes | {row['rate']:.1f} | | {row['peak']:.0f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        print(json.dumps(read(sys.argv[2])))
    elif sys.argv[1:2] == ["train"]:
        print(json.dumps(train()))
    else:
        main()
