"""What a run should be warned of before it starts: settings under which BatchNorm is known to mislead."""

import math

from checkpoints.catalog.lookup import BackboneSpec
from finetune.batchnorm.decay import auto_decay, residual
from finetune.config.run_config import RunConfig
from finetune.training.loop.kernels import bfloat16_pays

FORGOTTEN = 0.01
"""Share of the starting statistics that may be left at the end of a run."""
LEAST_BATCH = 16
"""Under this many images batch statistics are noisy: the error rises (Wu & He 2018, arXiv 1803.08494, figure 1)."""


def warnings(
    config: RunConfig,
    spec: BackboneSpec,
    *,
    batch_statistics: bool,
    steps: int,
    per_epoch: int,
    parts: int = 1,
    replicas: int = 1,
) -> list[str]:
    """One sentence a concern, for a completed config.

    batch_statistics: whether any BN layer normalises by them in training. steps: of the whole run, or of its last
    phase where layers are unfrozen one after another. parts: in how many microbatches a batch goes through the network.
    replicas: over how many the batch is divided.
    """
    found, updates = [], steps * parts
    if batch_statistics and config.bn_updates == "off":
        found.append(
            "--bn-updates off: the moving statistics stay what they are while the weights move; test accuracy with "
            "is_training=False will suffer, as where UPDATE_OPS are forgotten"
        )
    left = residual(float(config.bn_decay), updates)
    if batch_statistics and config.bn_updates == "on" and left > FORGOTTEN and not config.recalibrate_at_end:
        found.append(
            f"--bn-decay {config.bn_decay:g} leaves {left:.0%} of the starting statistics after {updates} updates: "
            f"give --bn-decay {auto_decay(per_epoch * parts, updates):g} (or auto), more --epochs, or "
            "--recalibrate-at-end"
        )
    begun = config.ema**steps if config.ema is not None else 0.0
    if begun > FORGOTTEN:
        found.append(
            f"--ema {config.ema:g} over {steps} steps: {begun:.0%} of the average are the weights of the first step: "
            f"give --ema {math.floor(100 * FORGOTTEN ** (1 / steps)) / 100:g} or less, or more --epochs"
        )
    normalised = (config.batch_size or 0) // (1 if config.bn_sync else replicas)
    if batch_statistics and normalised < LEAST_BATCH <= (config.batch_size or 0) and not config.bn_renorm:
        found.append(
            f"--batch-size {config.batch_size} over {replicas} replicas: each normalises by {normalised} images, too "
            "few for batch statistics: give --bn-sync, a larger --batch-size, --bn-renorm, or --bn freeze"
        )
    elif batch_statistics and parts > 1 and normalised // parts < LEAST_BATCH and not config.bn_renorm:
        found.append(
            f"--microbatch {config.microbatch}: BatchNorm normalises by {normalised // parts} images at a time, too "
            f"few: give {LEAST_BATCH} or more, --bn-renorm, or --bn freeze"
        )
    elif batch_statistics and normalised < LEAST_BATCH and not config.bn_renorm:
        found.append(
            f"--batch-size {config.batch_size} is too small for batch statistics: give {LEAST_BATCH} or more, "
            "--bn-renorm, or --bn freeze"
        )
    if config.precision == "bfloat16" and not bfloat16_pays():
        found.append(
            "--precision bfloat16: this processor has no instructions for it, and will be slower: leave it out"
        )
    if (
        not config.from_scratch
        and not spec.unpublished
        and spec.preprocessing
        and config.preprocess != spec.preprocessing
    ):
        found.append(
            f"--preprocess {config.preprocess}, but the weights of {spec.id} were trained with {spec.preprocessing}: "
            "leave --preprocess out unless you know better"
        )
    return found
