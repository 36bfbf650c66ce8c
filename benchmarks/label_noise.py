"""How many labels of CIFAR-10 that were flipped on purpose `finetune data check` finds among its first suspects.

    python -m benchmarks.label_noise --data-dir DIR [--backbone NAME --checkpoint PATH] --images 10000

Features are computed once and kept in the cache; each seed flips other labels, each to another class at random.
"""

import argparse
from pathlib import Path

import numpy as np

import finetune  # noqa: F401  chooses how TensorFlow starts
from finetune.cli.startup import load_tensorflow

load_tensorflow()

from finetune.config import RunConfig  # noqa: E402
from finetune.data.load_data import load_whole  # noqa: E402
from finetune.evaluation.linear_probe import suspect_labels  # noqa: E402
from finetune.training.feature_cache import image_features  # noqa: E402
from finetune.training.feature_cache.extraction import Progress  # noqa: E402


def flipped(labels, share, classes, seed):
    """(labels with `share` of them changed to another class, the positions of these)."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    changed = labels.copy()
    changed[chosen] = (changed[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return changed, chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--backbone", default="mobilenet_v1_1.0")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--flip", type=float, default=0.02)
    parser.add_argument("--first", type=float, default=0.03)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    train = load_whole(RunConfig("", data="cifar10", data_dir=options.data_dir)).train
    train = train.take(np.arange(options.images))
    found = image_features.find(options.backbone, checkpoint=options.checkpoint, image_size=None, side=32)
    (features,) = found.features([train], Progress(print, lambda done, total: None, lambda: False, print))
    for seed in range(options.seeds):
        labels, chosen = flipped(train.labels, options.flip, 10, seed)
        seen = suspect_labels(features, labels, seed=seed)
        first = seen.ranked()[: round(options.first * len(train))]
        print(
            f"{found.spec.id} at {found.image_size} px, {len(train):,} images, seed {seed}: "
            f"{np.isin(chosen, first).mean():.1%} of {len(chosen)} flipped labels are among the first {len(first)}; "
            f"{seen.accuracy:.1%} of all labels agree",
            flush=True,
        )


if __name__ == "__main__":
    main()
