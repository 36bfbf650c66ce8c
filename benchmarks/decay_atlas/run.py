"""The decay atlas: test accuracy in both modes against BN decay and number of updates; real weights, real images.

In training, batch statistics normalise: the weights do not depend on the decay. So one training run serves every
decay. Decay 0 makes the moving statistics after a step those of its batch; they are averaged here, in float64, with
each decay, and put into the model at the end. `tests/unit/benchmarks/test_decay_atlas.py` shows that a run with that
decay has the same statistics. Finished cells are kept in results.jsonl: a second call goes on where the first one
stopped.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from finetune.batchnorm.decay import auto_decay, residual
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import kept
from finetune.batchnorm.surgery import bn_layers
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.batches import training_subset
from finetune.data.dataset import stratified_subset
from finetune.evaluation.evaluator import Evaluator
from finetune.training.display import Display
from finetune.training.loop.train import ImageFeed, train
from finetune.training.prepare import prepare

HERE = Path(__file__).parent
DECAYS = (0.5, 0.9, 0.95, 0.99, 0.997, 0.999, 0.9997)
UPDATES = (50, 100, 200, 500, 1000, 2000)
BATCHES = (16, 64)
SEEDS = (0, 1, 2)
MOST_IMAGES = 16_000
"""An epoch has at most this many images; so 500 updates of 64 are two epochs of 250."""


class Averages:
    """An observer that averages every batch's statistics with several decays at once, in float64."""

    def __init__(self, model, decays):
        self._subject = KerasSubject(model)
        self._before = self._subject.snapshot()
        self.moving = {decay: _float64(self._before) for decay in decays}

    def on_step(self, **_):
        for name, pair in self._subject.snapshot().items():
            for decay, moving in self.moving.items():
                for average, batch in zip(moving[name], pair, strict=True):
                    average *= decay
                    average += (1 - decay) * batch

    def on_epoch(self, history):
        pass

    def save(self, state):
        pass

    def stop_requested(self):
        return False

    def share_left(self, decay, data):
        """The share of the source statistics still there: least squares over all channels' means, in sigmas."""
        along, total = 0.0, 0.0
        for name, (mean, variance) in data.items():
            sigma = np.sqrt(variance + 1e-3)
            source = (self._before[name][0] - mean) / sigma
            along += float(np.sum((self.moving[decay][name][0] - mean) / sigma * source))
            total += float(np.sum(source**2))
        return along / total


def _float64(snapshot):
    return {name: [np.array(array, np.float64) for array in pair] for name, pair in snapshot.items()}


def plan(updates, batch):
    """(images, epochs) that make `updates` steps of `batch`, as few epochs as MOST_IMAGES allows."""
    epochs = -(-updates * batch // MOST_IMAGES)
    return updates * batch // epochs, epochs


def cell(arguments, updates, batch, seed):
    """One training run, evaluated under every decay; a dict for results.jsonl."""
    images, epochs = plan(updates, batch)
    config = RunConfig(
        arguments.backbone, checkpoint=arguments.checkpoint, data_dir=arguments.data_dir, examples=images,
        validation=0.0, image_size=arguments.image_size, batch_size=batch, epochs=epochs, seed=seed, bn_decay=0.5,
        recalibrate_at_end=False,
    )  # fmt: skip
    prepared = prepare(config, Display(), load_weights=True)
    model, config = prepared.model, prepared.config
    for layer in bn_layers(model):
        layer.momentum = 0.0
    auto = auto_decay(updates // epochs, updates)
    averages = Averages(model, sorted({*DECAYS, auto}))
    history = train(ImageFeed(model, prepared.dataset, config), config, averages)
    assert history[-1]["step"] == updates
    test = stratified_subset(prepared.dataset.test, arguments.test_images, seed=0)
    subset = training_subset(prepared.dataset.train, config, min(images, 2048))
    wide = replace(config, batch_size=64)
    evaluator, subject = Evaluator(KerasSubject(model)), KerasSubject(model)
    true = evaluator.evaluate(batches.evaluation(test, wide), "batch").accuracy
    pooled = evaluator.examine(batches.evaluation(subset, config), "batch").moments
    data = {layer.name: (m.mean, m.variance) for layer, m in zip(subject.layers, pooled, strict=True)}
    rows = []
    with kept(subject):
        for decay, moving in averages.moving.items():
            subject.restore({name: (pair[0], pair[1]) for name, pair in moving.items()})
            false = evaluator.evaluate(batches.evaluation(test, wide), "moving").accuracy
            rows.append(
                {
                    "decay": decay, "is_training_false": false, "alpha": averages.share_left(decay, data),
                    "predicted": residual(decay, updates),
                }
            )  # fmt: skip
        subject.restore({name: (mean, variance) for name, (mean, variance) in data.items()})
        recalibrated = evaluator.evaluate(batches.evaluation(test, wide), "moving").accuracy
    return {
        "updates": updates, "batch": batch, "seed": seed, "images": images, "epochs": epochs, "auto": auto,
        "is_training_true": true, "recalibrated": recalibrated, "decays": rows,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="folder with cifar-10-batches-py")
    parser.add_argument("--checkpoint", required=True, help="ImageNet weights of the backbone")
    parser.add_argument("--backbone", default="keras/mobilenet_0.25")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    arguments = parser.parse_args()
    done = set()
    if arguments.results.is_file():
        rows = [json.loads(line) for line in arguments.results.read_text().splitlines()]
        done = {(row["updates"], row["batch"], row["seed"]) for row in rows}
    for seed in SEEDS:
        for batch in BATCHES:
            for updates in UPDATES:
                if (updates, batch, seed) in done:
                    continue
                row = cell(arguments, updates, batch, seed)
                with arguments.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                figures = " ".join(f"{one['decay']:g}:{one['is_training_false']:.3f}" for one in row["decays"])
                print(f"{updates} x {batch}, seed {seed}: True {row['is_training_true']:.3f} | {figures}", flush=True)


if __name__ == "__main__":
    main()
