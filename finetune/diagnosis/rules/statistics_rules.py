"""Rules about the moving statistics themselves. Each gives a Finding, or None if it does not apply."""

import numpy as np

from finetune.batchnorm.decay import auto_decay
from finetune.diagnosis import thresholds
from finetune.diagnosis.evidence import better, percent
from finetune.diagnosis.rules.rule import Finding, Reading

_UPDATES_ON = ("--bn", "train", "--bn-updates", "on", "--bn-decay", "auto")
"""Options of a training in which the moving statistics follow."""


def not_finite(seen: Reading) -> Finding | None:
    """Moving statistics that are NaN, infinite or negative; weights that are not finite."""
    layers, evidence = seen.evidence.layers, seen.evidence
    weights = [layer.name for layer in layers if not layer.weights_finite]
    broken = [layer.name for layer in layers if not layer.finite]
    negative = [layer.name for layer in layers if layer.negative]
    hopeless = not np.isfinite(evidence.train.is_training_true.loss)
    if weights or (hopeless and broken):
        where = f"gamma or beta of {weights[0]}" if weights else f"all logits, and the statistics from {broken[0]} on,"
        return Finding(
            "not-finite",
            f"The network itself is not finite any more: {where} are NaN or infinite. No statistics can repair that.",
            seen.commands.train("--clip-norm", "1", advice="clip gradients, with a lower learning rate"),
            basis="exact",
        )
    if broken or negative:
        what = "are NaN or infinite" if broken else "have negative variances"
        names = broken or negative
        return Finding(
            "not-finite",
            f"The moving statistics of {len(names)} of {len(layers)} BN layers {what}, the first in {names[0]}; "
            f"the weights are fine: recalibrated on training images they give {percent(evidence.test.recalibrated)}.",
            seen.commands.recalibrate,
            basis="exact",
        )
    return None


def not_saved(seen: Reading) -> Finding | None:
    """The file holds no moving statistics, and those of the data do better than 0 and 1."""
    if not (_to_blame(seen) and seen.evidence.facts.statistics_absent):
        return None
    return Finding(
        "statistics-not-saved",
        "The file holds no moving statistics (a Saver of trainable_variables() leaves them out): they are at 0 and 1. "
        f"{seen.lost}.",
        seen.commands.recalibrate,
        basis="exact",
    )


def updates_never_ran(seen: Reading) -> Finding | None:
    """All layers are still at their initial values, and the statistics of the data do better."""
    if not (_to_blame(seen) and all(layer.at_initial for layer in seen.evidence.layers)):
        return None
    return Finding(
        "updates-never-ran",
        f"The moving statistics still have their initial values {seen.evidence.layers[0].start}: the update operations "
        f"never ran. {seen.lost}.",
        seen.commands.recalibrate,
        basis="exact",
    )


def partially_restored(seen: Reading) -> Finding | None:
    """Some layers are at 0 and 1, and recalibrating these alone is the cure."""
    layers, test, partly = seen.evidence.layers, seen.evidence.test, seen.evidence.partly_repaired
    initial = [layer for layer in layers if layer.at_initial]
    if not (seen.cured and 0 < len(initial) < len(layers)):
        return None
    because: tuple[str, ...] = ()
    if partly is not None:
        won = partly.accuracy - test.is_training_false.accuracy
        enough = won >= thresholds.REPAIRED * (test.recalibrated.accuracy - test.is_training_false.accuracy)
        # Of a small gain on few images, that share is mostly noise: more must be seen to be missing.
        if not enough and better(test.recalibrated, partly, noise=1.0):
            return None
        because = (f"recalibrating the layers at {initial[0].start} alone gives {percent(partly)} on test images",)
    return Finding(
        "partially-restored",
        f"{len(initial)} of {len(layers)} BN layers have the initial statistics {initial[0].start}, the others do "
        f"not: the checkpoint was restored in part, and the first layer missed is {initial[0].name}. {seen.lost}.",
        seen.commands.recalibrate,
        because,
        basis="exact",
    )


def frozen_base(seen: Reading) -> Finding | None:
    """No statistic and no weight below the last BatchNorm changed, and the statistics of the data do better."""
    facts = seen.evidence.facts
    if not (_to_blame(seen) and seen.never_updated and facts.base_moved is False):
        return None
    shown = seen.untouched and any(layer.at_source for layer in seen.evidence.layers)
    how = (
        "every weight and every moving statistic of the base is bit-equal to the source's"
        if shown
        else "the file marks every layer of the base as frozen (--source-checkpoint would prove that none changed)"
    )
    return Finding(
        "frozen-base-normalised-by-batch",
        "The base was frozen, but normalised by batch statistics while the head was trained, and normalises by the "
        f"source's moving statistics now: as in Keras before 2.1.3, or after base(x, training=True). {seen.lost}.",
        seen.commands.recalibrate_or("--freeze", "'*'", advice="train the head on the base in inference mode"),
        (how,),
        basis="exact" if shown else "records",
    )


def source_untouched(seen: Reading) -> Finding | None:
    """Every layer is bit-equal to the source while the weights changed, and the statistics of the data do better."""
    if not (_to_blame(seen) and seen.never_updated and seen.evidence.facts.weights_moved is not False):
        return None
    facts = seen.evidence.facts
    if seen.frozen:
        cause, how = "frozen-statistics-trained-weights", "they were frozen while the weights below them trained"
    else:
        cause, how = "updates-never-ran-since-source", "the update operations never ran in fine-tuning"
    changed = (
        "while the weights changed"
        if facts.base_moved or facts.weights_moved
        else "while batch statistics do better (whether a weight changed is not known)"
    )
    new = [layer for layer in seen.evidence.layers if layer.at_initial and not layer.at_source]
    others = f" ({len(new)} more at {new[0].start}: new in this network)" if new else ""
    state = f"are bit-equal to the source checkpoint's{others}" if seen.untouched else "took no update in training"
    return Finding(
        cause,
        f"The moving statistics {state} {changed}: {how}. {seen.lost}.",
        seen.commands.recalibrate_or(*_UPDATES_ON, advice="run the update operations in every step"),
        basis="exact" if seen.untouched else "records",
    )


def frozen_in_part(seen: Reading) -> Finding | None:
    """Some layers are bit-equal to the source while the statistics of the others changed."""
    layers = seen.evidence.layers
    fixed = [layer.name for layer in layers if layer.at_source]
    if not (seen.cured and 0 < len(fixed) < len(layers)):
        return None
    return Finding(
        "frozen-statistics-trained-weights",
        f"The statistics of {len(fixed)} of {len(layers)} BN layers (the first is {fixed[0]}) are bit-equal to the "
        f"source's while the others changed: they were frozen, but the weights below them trained. {seen.lost}.",
        seen.commands.recalibrate_or(
            "--bn", "train", advice="update the statistics of every layer whose weights train"
        ),
        basis="exact",
    )


def share_left(seen: Reading) -> Finding | None:
    """A part of the start is still in the moving averages: the decay was too high for the number of updates."""
    facts, fit = seen.evidence.facts, seen.share
    if not seen.cured:
        return None
    if facts.residual is not None:
        if facts.residual < thresholds.FORGOTTEN:
            return None
        updates = facts.updates or 0
        decay = f"{auto_decay(max(updates, 1), max(updates, 1)):g}"
        sentence = (
            f"Decay {facts.decay:g} is too high for {updates} update{'s' if updates > 1 else ''}: {facts.residual:.0%} "
            f"of the starting {facts.statistics} is still in the moving averages; {decay} would have done."
        )
    else:
        fitted = fit is not None and fit.share >= max(thresholds.FITTED, fit.residual)
        if fit is None or not fitted or (seen.noise_ratio or np.inf) <= thresholds.NOISE_RATIO:
            return None
        start, decay = "source's" if fit.origin == "source" else "initial", "auto"
        sentence = (
            f"The decay was too high for the number of updates: about {fit.share:.0%} of the {start} statistics is "
            "still in the moving averages."
        )
    return Finding(
        "statistics-lag",
        f"{sentence} {seen.lost}.",
        seen.commands.recalibrate_or("--bn-decay", decay, advice=f"BatchNorm decay {decay}"),
        basis="fitted" if facts.residual is None else "records",
    )


def averaged_weights(seen: Reading) -> Finding | None:
    """The weights are averages over training steps, but the statistics are those of the last step.

    The records show it, or statistics that lie beyond those of the training images, as seen from the source.
    """
    facts, fit = seen.evidence.facts, seen.evidence.share("source")
    if not seen.cured or facts.weights_averaged is False:
        return None
    ahead = fit is not None and fit.share <= thresholds.AHEAD and (seen.noise_ratio or 0) > thresholds.NOISE_RATIO
    if not (facts.weights_averaged or ahead):
        return None
    because: tuple[str, ...] = ()
    if not facts.weights_averaged and fit is not None:
        because = (
            f"seen from the source, the moving statistics are {-fit.share:.0%} beyond those of the training images: "
            "they belong to weights that are ahead of the ones in the file, while statistics that lag are behind",
        )
    return Finding(
        "averaged-weights-raw-statistics",
        f"The weights {'are' if facts.weights_averaged else 'look like'} averages over training steps, but the moving "
        f"statistics belong to the raw weights of the last step. {seen.lost}.",
        seen.commands.recalibrate,
        because,
        basis="records" if facts.weights_averaged else "fitted",
    )


def noisy(seen: Reading) -> Finding | None:
    """The moving means differ from those of the data by about as much as a single batch's mean does.

    Or they differ by more, but the records show an average over a few batches, which follows the weights: batches of
    the training that were smaller than those of the diagnosis have noisier means.
    """
    decay, ratio = seen.evidence.facts.decay, seen.noise_ratio
    if not seen.cured or ratio is None or (ratio > thresholds.NOISE_RATIO and not seen.short):
        return None
    values, size = _smallest(seen)
    window = f"an average over {seen.window:.3g} batches" if seen.window else "a short average"
    convention = ""
    if decay is not None and decay <= 0.2:
        convention = f" {decay:g} looks like PyTorch's momentum, which is 1 - decay: {1 - decay:g} was meant."
    options = ("--batch-size", "32") if min(size, values) < thresholds.FEW_VALUES else ()
    noise = (
        f"The moving statistics are noise: they differ from the training images' {ratio:.2g} times as much as the mean "
        f"of a single batch of {seen.evidence.batch_size} images does, being {window} of too few values."
    )
    return Finding(
        "statistics-noisy",
        f"{_too_small(seen) or noise}{convention} {seen.lost}.",
        seen.commands.recalibrate_or("--bn-decay", "auto", *options, advice="a higher decay, batches of 32 or more"),
        (f"the smallest layer takes its statistics over {values:.0f} values a channel and batch",),
        basis="records" if seen.short and ratio > thresholds.NOISE_RATIO else "fitted",
    )


def _too_small(seen: Reading) -> str:
    """Means that are right and variances below those of the data, as batches of few values give: the mean of their
    variances is 1 - 1/n of the data's, for n values. Replicas that each normalise their share give the same arrays as
    one device with batches of that size. "" where the variances are not too small."""
    layer, ratio = min(seen.evidence.layers, key=lambda one: one.values), seen.noise_ratio
    share = float(np.exp(layer.variance_bias))
    if ratio is None or ratio > thresholds.AVERAGED or not 0 < share < 1 - 1 / thresholds.FEW_VALUES:
        return ""
    return (
        f"The moving variances were taken over too few values: those of {layer.name} are {1 - share:.0%} below the "
        f"data's, as the mean over batches of {1 / (1 - share):.1f} values is, while the means fit. Batches were that "
        "small, or the share of a batch that each replica normalised."
    )


def outrun(seen: Reading) -> Finding | None:
    """Nothing of the start is left, but the statistics are those of earlier weights."""
    if not seen.cured:
        return None
    unknown = (
        "the checkpoint the model was fine-tuned from is not known: --source-checkpoint would show whether the "
        "statistics lag or never changed"
    )
    return Finding(
        "statistics-lag",
        "The moving statistics lag behind the weights: nothing of the start is left in them, but the weights change "
        f"faster than the averaging window can follow. {seen.lost}.",
        seen.commands.recalibrate_or(
            "--bn-decay", "auto", "--schedule", "cosine", advice="a lower decay, or a learning rate that ends near zero"
        ),
        (unknown,) if all(layer.at_source is None for layer in seen.evidence.layers) else (),
    )


def few_values(seen: Reading) -> Finding | None:
    """Only batch statistics do well, in any order of images, and they are taken over very few values."""
    values, size = _smallest(seen)
    if not seen.true_helps or min(size, values) >= thresholds.FEW_VALUES:
        return None
    few = f"values ({values:.0f} a channel in its smallest layer)"
    if values >= thresholds.FEW_VALUES:
        few = f"images ({size} a batch)"
    return Finding(
        "statistics-noisy",
        f"The network was trained on batch statistics of very few {few} and has learnt to rely on their noise: it does "
        "badly with any fixed statistics.",
        seen.commands.train("--batch-size", "32", "--bn", "train", advice="batches of 32 or more"),
    )


def learnt_around(seen: Reading) -> Finding | None:
    """The statistics never changed, which was no plan, and those of the data are worse."""
    evidence = seen.evidence
    test, initial = evidence.test, all(layer.at_initial for layer in evidence.layers)
    # Freezing a source's statistics can be a plan. Freezing 0 and 1 is not.
    on_purpose = seen.frozen and not initial
    if not seen.untouched or on_purpose or evidence.facts.weights_moved is False:
        return None
    worse = (
        test.true_hurts or test.recalibrating_hurts or (seen.gain.high < 0 and evidence.together.recalibrating_hurts)
    )
    learnt = test.is_training_false.accuracy > 1.5 / evidence.classes and seen.drift > thresholds.FAR_SIGMAS
    if not worse and not (initial and learnt):
        return None
    state = f"are still {evidence.layers[0].start}" if initial else "never changed from the source"
    figures = f"({percent(test.is_training_false)} against {percent(test.is_training_true)})"
    figure = f"is_training=False is {'the better figure' if worse else 'no worse'} {figures}"
    return Finding(
        "trained-in-inference-mode",
        f"The moving statistics {state}, and the network learnt around them: {figure}, as after a loop that calls the "
        f"model without training=True. Recalibrating would {'hurt' if worse else 'not help'}; train again with updates "
        "on.",
        seen.commands.train(*_UPDATES_ON, advice="call the model with training=True, and run its updates"),
    )


def _to_blame(seen: Reading) -> bool:
    """Whether recalibrated statistics do better or, with too few training images for these, those of batches."""
    return seen.cured or seen.true_helps


def _smallest(seen: Reading) -> tuple[float, int]:
    """(values behind the batch statistics of the smallest layer, images in a batch of training)."""
    size = seen.evidence.facts.batch_size or seen.evidence.batch_size
    return min(layer.values for layer in seen.evidence.layers), size
