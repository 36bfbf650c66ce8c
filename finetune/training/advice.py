"""What a run should be warned of before it starts: settings under which BatchNorm is known to mislead."""

import math

from finetune.batchnorm.decay import auto_decay, residual
from finetune.config import RunConfig
from finetune.training.loop.kernels import precision_pays
from finetune.training.phases import Prepared

FORGOTTEN = 0.01
"""Share of the starting statistics that may be left at the end of a run."""
LEAST_BATCH = 16
"""Under this many images batch statistics are noisy: the error rises (Wu & He 2018, arXiv 1803.08494, figure 1)."""


def warnings(prepared: Prepared, *, replicas: int = 1) -> list[str]:
    """One sentence a concern. `replicas`: over how many a batch is divided.

    Where layers are unfrozen one after another, the steps that count are those of the last phase.
    """
    config, spec = prepared.config, prepared.backbone.spec
    steps, parts, found = prepared.last_phase_steps, prepared.parts_per_step, []
    if prepared.plan.uses_batch_statistics:
        found.append(_statistics(config, updates=steps * parts, per_epoch=prepared.steps_per_epoch * parts))
    found.append(_averages(config, steps))
    if prepared.plan.uses_batch_statistics and not config.bn_renorm:
        found.append(_batch_size(config, parts=parts, replicas=replicas))
    if config.precision != "auto" and not precision_pays(config.precision):
        found.append(
            f"--precision {config.precision}: this processor has no instructions for it, and will be slower: leave it "
            "out"
        )
    published = spec.preprocessing if not config.from_scratch and not spec.unpublished else None
    if published and config.preprocess != published:
        found.append(
            f"--preprocess {config.preprocess}, but the weights of {spec.id} were trained with {published}: "
            "leave --preprocess out unless you know better"
        )
    return [sentence for sentence in found if sentence]


def _statistics(config: RunConfig, *, updates: int, per_epoch: int) -> str | None:
    """Of moving statistics that never update, or keep too much of their start."""
    if config.bn_updates == "off":
        return (
            "--bn-updates off: the moving statistics stay what they are while the weights change; test accuracy with "
            "is_training=False will suffer, as where UPDATE_OPS are forgotten"
        )
    left = residual(float(config.bn_decay), updates)
    if left <= FORGOTTEN or config.recalibrate_at_end:
        return None
    return (
        f"--bn-decay {config.bn_decay:g} leaves {left:.0%} of the starting statistics after {updates} updates: "
        f"give --bn-decay {auto_decay(per_epoch, updates):g} (or auto), more --epochs, or "
        "--recalibrate-at-end"
    )


def _averages(config: RunConfig, steps: int) -> str | None:
    """Of averaged weights that keep too much of the first ones, or hardly differ."""
    if config.swa_start is not None and config.schedule == "cosine":
        return (
            f"--swa-start {config.swa_start} with a cosine schedule: the learning rate falls to 0, so the weights of "
            "the last epochs hardly differ and there is little to average: give --schedule constant"
        )
    begun = config.ema**steps if config.ema is not None else 0.0
    if begun <= FORGOTTEN:
        return None
    return (
        f"--ema {config.ema:g} over {steps} steps: {begun:.0%} of the average are the weights of the first step: "
        f"give --ema {math.floor(100 * FORGOTTEN ** (1 / steps)) / 100:g} or less, or more --epochs"
    )


def _batch_size(config: RunConfig, *, parts: int, replicas: int) -> str | None:
    """Of batches too small for batch statistics."""
    batch_size = config.batch_size or 0
    normalised = batch_size // (1 if config.bn_sync else replicas)
    if normalised < LEAST_BATCH <= batch_size:
        return (
            f"--batch-size {batch_size} over {replicas} replicas: each normalises by {normalised} images, too "
            "few for batch statistics: give --bn-sync, a larger --batch-size, --bn-renorm, or --bn freeze"
        )
    if parts > 1 and normalised // parts < LEAST_BATCH:
        return (
            f"--microbatch {config.microbatch}: BatchNorm normalises by {normalised // parts} images at a time, too "
            f"few: give {LEAST_BATCH} or more, --bn-renorm, or --bn freeze"
        )
    if normalised < LEAST_BATCH:
        return (
            f"--batch-size {batch_size} is too small for batch statistics: give {LEAST_BATCH} or more, "
            "--bn-renorm, or --bn freeze"
        )
    return None
