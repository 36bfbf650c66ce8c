"""Rules about the moving statistics themselves. Each gives a Finding, or None where it does not apply."""

import numpy as np

from finetune.batchnorm.decay import auto_decay
from finetune.diagnosis import thresholds
from finetune.diagnosis.gaps import percent, recalibrating_hurts, true_helps, true_hurts
from finetune.diagnosis.rules.rule import Finding, Reading


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
            f"The network itself is no longer finite: {where} are NaN or infinite. No statistics can mend that.",
            seen.commands.train("--clip-norm", "1", why="and a lower --learning-rate"),
        )
    if broken or negative:
        what = "are NaN or infinite" if broken else "have negative variances"
        named = broken or negative
        return Finding(
            "not-finite",
            f"The moving statistics of {len(named)} of {len(layers)} BN layers {what}, the first in {named[0]}; "
            f"the weights are fine: recalibrated on training images they give {percent(evidence.test.recalibrated)}.",
            seen.commands.recalibrate,
        )
    return None


def updates_never_ran(seen: Reading) -> Finding | None:
    """All layers still at 0 and 1, and the data's own statistics do better."""
    if not (_to_blame(seen) and all(layer.at_initial for layer in seen.evidence.layers)):
        return None
    return Finding(
        "updates-never-ran",
        f"The moving statistics still have their initial values 0 and 1: the update operations never ran. {seen.lost}.",
        seen.commands.recalibrate,
    )


def partially_restored(seen: Reading) -> Finding | None:
    """Some layers at 0 and 1, and recalibrating these alone is the cure."""
    layers, evidence = seen.evidence.layers, seen.evidence
    initial = [layer.name for layer in layers if layer.at_initial]
    if not (seen.cured and 0 < len(initial) < len(layers)):
        return None
    test, partly = evidence.test, evidence.partly_repaired
    because: tuple[str, ...] = ()
    if partly is not None:
        won = partly.accuracy - test.is_training_false.accuracy
        if won < thresholds.REPAIRED * (test.recalibrated.accuracy - test.is_training_false.accuracy):
            return None
        because = (f"recalibrating the layers at 0 and 1 alone gives {percent(partly)} on test images",)
    return Finding(
        "partially-restored",
        f"{len(initial)} of {len(layers)} BN layers have the initial statistics 0 and 1, the others do not: the "
        f"checkpoint was restored in part, the first layer missed is {initial[0]}. {seen.lost}.",
        seen.commands.recalibrate,
        because,
    )


def source_untouched(seen: Reading) -> Finding | None:
    """Every layer bit-equal to the source while the weights moved, and the data's own statistics do better."""
    evidence, facts = seen.evidence, seen.evidence.facts
    if not (_to_blame(seen) and seen.never_updated and facts.weights_moved is not False):
        return None
    if seen.frozen:
        cause, how = "frozen-statistics-trained-weights", "they were frozen while the weights below them trained"
    else:
        cause, how = "updates-never-ran-since-source", "the update operations never ran in fine-tuning"
    new = sum(layer.at_initial and not layer.at_source for layer in evidence.layers)
    besides = f" ({new} at 0 and 1 besides: new in this network)" if new else ""
    state = f"are bit-equal to the source checkpoint's{besides}" if seen.untouched else "took no update in training"
    return Finding(
        cause,
        f"The moving statistics {state} while the weights moved: {how}. {seen.lost}.",
        seen.commands.recalibrate_or("--bn", "train", "--bn-updates", "on", "--bn-decay", "auto"),
    )


def frozen_in_part(seen: Reading) -> Finding | None:
    """Some layers bit-equal to the source while the others' statistics moved."""
    layers = seen.evidence.layers
    fixed = [layer.name for layer in layers if layer.at_source]
    if not (seen.cured and 0 < len(fixed) < len(layers)):
        return None
    return Finding(
        "frozen-statistics-trained-weights",
        f"The statistics of {len(fixed)} of {len(layers)} BN layers (the first is {fixed[0]}) are bit-equal to the "
        f"source's while the others moved: they were frozen, the weights that feed them were not. {seen.lost}.",
        seen.commands.recalibrate_or("--bn", "train"),
    )


def share_left(seen: Reading) -> Finding | None:
    """A part of the start is still in the moving averages: decay too high for the number of updates."""
    facts, fit = seen.evidence.facts, seen.share
    known = facts.residual
    if not seen.cured or (known is not None and known < thresholds.FORGOTTEN):
        return None
    fitted = fit is not None and fit.share >= max(thresholds.FITTED, fit.residual)
    if known is None and not (fitted and (seen.noise_ratio or np.inf) > thresholds.NOISE_RATIO):
        return None
    left = known if known is not None else fit.share if fit else 0.0
    updates = facts.updates or 0
    if known is not None:
        enough = auto_decay(max(updates, 1), max(updates, 1))
        opening = (
            f"Decay {facts.decay:g} is too high for {updates} update{'s' if updates > 1 else ''}: {left:.0%} of the "
        )
        advice, options = f"; {enough:g} would have done", ("--bn-decay", f"{enough:g}")
    else:
        start = "source's" if fit and fit.origin == "source" else "initial"
        opening = f"The decay was too high for the number of updates: about {left:.0%} of the {start} "
        advice, options = "", ("--bn-decay", "auto")
    what = "statistics"
    if known is not None:
        opening, what = opening + "starting ", facts.statistics
    return Finding(
        "statistics-lag",
        f"{opening}{what} is still in the moving averages{advice}. {seen.lost}.",
        seen.commands.recalibrate_or(*options),
    )


def averaged_weights(seen: Reading) -> Finding | None:
    """Averaged weights with statistics of the weights as they were at the last step: known, or told by statistics that
    lie not between the source's and the data's, but ahead of the data's."""
    facts, fit = seen.evidence.facts, seen.evidence.share("source")
    if not seen.cured or facts.weights_averaged is False:
        return None
    ahead = fit is not None and fit.share <= thresholds.AHEAD and (seen.noise_ratio or 0) > thresholds.NOISE_RATIO
    if not (facts.weights_averaged or ahead):
        return None
    because: tuple[str, ...] = ()
    if not facts.weights_averaged and fit is not None:
        because = (
            f"seen from the source, the moving statistics are {-fit.share:.0%} further than the training images' are: "
            "those of weights that are ahead of the ones in the file, while statistics that lag are behind",
        )
    return Finding(
        "averaged-weights-raw-statistics",
        f"The weights {'are' if facts.weights_averaged else 'look like'} averages over training steps, the moving "
        f"statistics belong to the raw weights of the last step. {seen.lost}.",
        seen.commands.recalibrate,
        because,
    )


def noisy(seen: Reading) -> Finding | None:
    """The moving means miss the data's by about what a single batch's mean does."""
    facts, ratio = seen.evidence.facts, seen.noise_ratio
    if not seen.cured or ratio is None or ratio > thresholds.NOISE_RATIO:
        return None
    values = min(layer.values for layer in seen.evidence.layers)
    window = (
        f"an average over {(1 + facts.decay) / (1 - facts.decay):.3g} batches" if facts.decay else "a short average"
    )
    convention = (
        f" {facts.decay:g} looks like PyTorch's momentum, which is 1 - decay: {1 - facts.decay:g} was meant."
        if facts.decay is not None and facts.decay <= 0.2
        else ""
    )
    small = (facts.batch_size or seen.evidence.batch_size) < thresholds.FEW_VALUES or values < thresholds.FEW_VALUES
    options = ("--bn-decay", "auto", *(("--batch-size", "32") if small else ()))
    return Finding(
        "statistics-noisy",
        f"The moving statistics are noise: they miss the training images' by {ratio:.2g} times what the mean of a "
        f"single batch does, {window} of too few values.{convention} {seen.lost}.",
        seen.commands.recalibrate_or(*options),
        (f"the smallest layer takes its statistics over {values:.0f} values a channel and batch",),
    )


def outrun(seen: Reading) -> Finding | None:
    """Nothing of the start is left, yet the statistics are those of earlier weights."""
    if not seen.cured:
        return None
    unknown = (
        "what the model was fine-tuned from is not known: with --source-checkpoint, statistics that never moved are "
        "told from those that lag"
    )
    return Finding(
        "statistics-lag",
        "The moving statistics lag behind the weights: nothing of the start is left in them, but the weights move "
        f"faster than the averaging window follows. {seen.lost}.",
        seen.commands.recalibrate_or("--bn-decay", "auto", "--schedule", "cosine"),
        (unknown,) if all(layer.at_source is None for layer in seen.evidence.layers) else (),
    )


def few_values(seen: Reading) -> Finding | None:
    """Only batch statistics do well, at any order, and they are taken over very few values."""
    test, train = seen.evidence.test, seen.evidence.train
    values = min(layer.values for layer in seen.evidence.layers)
    size = seen.evidence.facts.batch_size or seen.evidence.batch_size
    if not (true_helps(test) and true_helps(train)) or (
        values >= thresholds.FEW_VALUES and size >= thresholds.FEW_VALUES
    ):
        return None
    few = f"values ({values:.0f} a channel in its smallest layer)"
    if values >= thresholds.FEW_VALUES:
        few = f"images ({size} a batch)"
    return Finding(
        "statistics-noisy",
        f"The network was trained on batch statistics of very few {few} and has learnt to need their noise: no fixed "
        "statistics serve it.",
        seen.commands.train("--batch-size", "32", "--bn", "train"),
    )


def learnt_around(seen: Reading) -> Finding | None:
    """Statistics never touched, not on purpose, and the data's own are worse."""
    evidence = seen.evidence
    test, facts = evidence.test, evidence.facts
    initial = all(layer.at_initial for layer in evidence.layers)
    # Freezing a source's statistics is a plan; nobody freezes 0 and 1 on purpose.
    on_purpose = seen.frozen and not initial
    if not seen.untouched or on_purpose or facts.weights_moved is False:
        return None
    worse = true_hurts(test) or recalibrating_hurts(test)
    learnt = test.is_training_false.accuracy > 1.5 / evidence.classes and seen.drift > thresholds.FAR_SIGMAS
    if not worse and not (initial and learnt):
        return None
    figures = f"({percent(test.is_training_false)} against {percent(test.is_training_true)})"
    figure = f"is_training=False is {'the better figure' if worse else 'no worse'} {figures}"
    return Finding(
        "trained-in-inference-mode",
        f"The moving statistics {'are still 0 and 1' if initial else 'never moved from the source'}, and the network "
        f"learnt around them: {figure}, as after a loop that calls the model without training=True. Recalibrating "
        f"would {'hurt' if worse else 'not help'}; train again with updates on.",
        seen.commands.train("--bn", "train", "--bn-updates", "on", "--bn-decay", "auto"),
    )


def _to_blame(seen: Reading) -> bool:
    """Recalibrated or, where training images are too few to recalibrate on, batch statistics do better."""
    return seen.cured or (true_helps(seen.evidence.test) and true_helps(seen.evidence.train))
