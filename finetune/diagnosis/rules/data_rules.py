"""Rules about data and training: the images, labels and batches a network is given, and how long it was trained.

Each gives a Finding, or None if it does not apply.
"""

import math

from finetune.data.preprocessing import EXCHANGED
from finetune.diagnosis import thresholds
from finetune.diagnosis.evidence import PreprocessingCheck, better, percent
from finetune.diagnosis.recovery import words
from finetune.diagnosis.rules.rule import Finding, Reading
from finetune.evaluation.evaluator import Evaluation, total
from finetune.evaluation.significance import images_needed


def wrong_preprocessing(seen: Reading) -> Finding | None:
    """Another preprocessing makes `is_training=False` good without any recalibration."""
    check, evidence = seen.evidence.preprocessing, seen.evidence
    if check is None or check.best is None or check.train is None or check.test is None:
        return None
    test, train = evidence.test.is_training_false, evidence.train.is_training_false
    enough = check.train.accuracy - train.accuracy >= thresholds.REPAIRED * evidence.train.within_reach
    if not enough or not better(check.train, train, paired=check.by_train):
        return None
    if not better(check.test, test, least=0.0, paired=check.by_test) and not _shown_together(check, test, train):
        return None
    # With a wrong numbering of classes, a network that sees nothing and guesses is better than one that sees.
    if _explained(seen) >= check.test.accuracy:
        return None
    # A layer at 0/1 looks as if it expected pixels that are about 0/1. The cause is the one whose cure is better.
    if evidence.partly_repaired is not None and evidence.partly_repaired.accuracy >= check.test.accuracy:
        return None
    # Numbers were solved for from statistics that are taken to be the training's. Stale ones they only imitate, and the
    # noise of a few batches too: then statistics measured anew do better.
    noisy = seen.short and check.train.accuracy < evidence.train.recalibrated.accuracy
    if "=" in check.best and (seen.stale or noisy):
        return None
    # Both cures work. Each layer is measured on batch statistics below it, so wrong pixels show in the first layer.
    if seen.cured and seen.beyond_the_first:
        return None
    twice = ", a double normalisation" if "twice" in check.best or "then" in check.best else ""
    what = twice or words(check.best, check.current)
    if exchanged := EXCHANGED.get(check.best.rpartition(", ")[2]):
        what = f", with {exchanged} exchanged"
    return Finding(
        "wrong-preprocessing",
        f"The pixels are fed as '{check.current}', but the network expects '{check.best}'{what}: with it, and nothing "
        f"else changed, is_training=False gives {percent(check.test)} on test images instead of {percent(test)}. "
        "Recalibrating would only hide that.",
        seen.commands.diagnose(preprocess=check.best),
        basis="tried",
    )


def _shown_together(check: PreprocessingCheck, test: Evaluation, train: Evaluation) -> bool:
    """Whether test and training images together show that other pixels are better, and test images agree: as of
    recalibrated statistics, a few test images need not show alone what a thousand training images show."""
    if check.test is None or check.train is None or check.test.accuracy < test.accuracy:
        return False
    both = check.by_test + check.by_train if check.by_test and check.by_train else None
    other, own = total((check.test, check.train)), total((test, train))
    return better(other, own, paired=both, noise=thresholds.NOISE_TOGETHER)


def test_images_read_otherwise(seen: Reading) -> Finding | None:
    """The test images alone do well after a change of their pixels."""
    reading, test, train = seen.evidence.reading, seen.evidence.test.is_training_false, seen.evidence.train
    if reading is None or not better(reading.test, test, thresholds.OVERFITTED, paired=reading.by_test):
        return None
    exchanged = EXCHANGED[reading.name.rpartition(", ")[2]]
    return Finding(
        "different-data",
        f"The test images have {exchanged} exchanged, and the training images have not: with that undone, and nothing "
        f"else changed, is_training=False gives {percent(reading.test)} on test images instead of {percent(test)} "
        f"(training images: {percent(train.is_training_false)} as they are).",
        seen.commands.diagnose(advice=f"with {exchanged} of the test images exchanged back"),
        basis="tried",
    )


def labels(seen: Reading) -> Finding | None:
    """Another numbering of the classes explains the predictions."""
    check, evidence = seen.evidence.labels, seen.evidence
    # What a network has learnt under another numbering it says with confidence, so it loses more than guessing does.
    guessing = max(evidence.chance_loss, math.log(2))
    if check is None or not (best := _explained(seen)):
        return None
    if not evidence.per_label and check.loss > thresholds.LEARNT * evidence.chance_loss:
        return None
    also = check.train_permuted_accuracy - check.train_accuracy >= thresholds.RENUMBERED
    plain = also and min(best, check.train_permuted_accuracy) >= thresholds.PLAIN and evidence.classes > 2
    if not plain and evidence.test.least_loss < thresholds.CONFIDENT * guessing:
        return None
    # Images of another kind are mistaken in a systematic way, which another numbering explains in part.
    if not also and seen.test_is_far:
        return None
    shifted = check.offset_accuracy >= check.permuted_accuracy - thresholds.LEAST_GAP
    how = f"adding {check.offset} to every label" if shifted else f"renumbering {check.renumbered} classes"
    explained = check.offset_accuracy if shifted else check.permuted_accuracy
    return Finding(
        "not-batchnorm: labels",
        f"BatchNorm is not to blame: the labels are numbered differently from the network's outputs; {how} explains "
        f"{explained:.1%} of the predictions on test images instead of {check.accuracy:.1%}"
        f"{'' if also else ', while the training labels fit as they are'}.",
        seen.commands.train(advice="with the classes in the order the network was trained with"),
        basis="tried",
    )


def different_data(seen: Reading) -> Finding | None:
    """The network does well on training images, its statistics fit them, and test images are of another kind."""
    test, train = seen.evidence.test.is_training_false, seen.evidence.train.is_training_false
    if seen.cured_on_training or not seen.test_is_far or not better(train, test, thresholds.OVERFITTED):
        return None
    sigmas, errors = seen.test_distance
    return Finding(
        "different-data",
        f"The test images differ from the training images: the network does well on training images ({percent(train)}, "
        f"with moving statistics that fit them) and badly on test images ({percent(test)}), and the two have different "
        "statistics in the first layers already.",
        seen.commands.train(
            advice="with training images like the test images, or correct how the test images are read"
        ),
        (
            f"the first layers' statistics on test images are {sigmas:.2f} sigmas from those on training images, "
            f"{errors:.0f} times the difference that chance gives",
        ),
        basis="fitted",
    )


def batch_composition(seen: Reading) -> Finding | None:
    """`is_training=True` is good only for images in a certain order."""
    check, test = seen.evidence.batches, seen.evidence.test
    if check is None:
        return None
    good = test.is_training_true
    # One that has learnt nothing is right as often as guessing is, in some order more often than in another.
    learnt = check.grouped.accuracy - 1 / seen.evidence.classes > thresholds.NOISE * check.grouped.standard_error
    ordered = learnt and better(check.grouped, check.shuffled, thresholds.OVERFITTED)
    if not ordered and not (test.true_helps and better(good, check.shuffled, thresholds.OVERFITTED)):
        return None
    if ordered and check.grouped.accuracy > good.accuracy:
        good = check.grouped
    # Statistics that are wrong as well may make is_training=False bad. Recalibration shows their part in it.
    won = test.recalibrated.accuracy - test.is_training_false.accuracy
    if seen.cured and won >= thresholds.REPAIRED * (good.accuracy - test.is_training_false.accuracy):
        return None
    return Finding(
        "batch-composition",
        f"is_training=True depends on the other images in the batch: {percent(good)} with images of a class together, "
        f"{percent(check.shuffled)} for the same images shuffled. The network was trained on ordered or uniform "
        "batches and infers the class from the rest of the batch; no other statistics can repair that.",
        seen.commands.train("--bn", "train", advice="shuffle the training images, which finetune does"),
        basis="tried",
    )


def undetermined(seen: Reading) -> Finding | None:
    """Recalibrating may gain more than the margin or nothing: the images are too few to show which."""
    if seen.cured or seen.acquitted or seen.evidence.facts.by_design:
        return None
    evidence, gain = seen.evidence, seen.gain
    images, changed = _compared(seen)
    needed = images_needed(max(gain.estimate, thresholds.MARGIN), changed / images)
    more = max(needed - images, images // 4, 1)
    wanted = evidence.train.is_training_false.examples + more
    if evidence.unused >= more:
        remedy = seen.commands.diagnose("--images", str(wanted))
        what = f"About {more} more training images (--images {wanted})"
    else:
        remedy = seen.commands.diagnose(advice=f"with about {more} more test images in the data")
        what = f"About {more} more test images"
    return Finding(
        "undetermined",
        f"{images} images cannot show whether BatchNorm is to blame: recalibrating changes accuracy by {gain} (95 % "
        f"interval), and only a gain under {100 * thresholds.MARGIN:g} points would acquit it. {what} would find a "
        f"gain of {100 * max(gain.estimate, thresholds.MARGIN):.0f} points nine times in ten.",
        remedy,
    )


def undertrained(seen: Reading) -> Finding | None:
    """The network does badly on its training images too, with every kind of statistics."""
    train = seen.evidence.train
    if train.least_loss <= thresholds.UNDERTRAINED * seen.evidence.chance_loss:
        return None
    return Finding(
        "not-batchnorm: undertrained",
        f"BatchNorm is not to blame: {agreement(seen)}. Training images are no better ({percent(train.best)}, with the "
        "best statistics).",
        seen.commands.train("--epochs", "20", advice="more epochs than before, or another learning rate"),
        basis="left over",
    )


def overfitting(seen: Reading) -> Finding | None:
    """The gap between training and test images is there with the best statistics."""
    train, test = seen.evidence.train.best, seen.evidence.test.best
    if not better(train, test, thresholds.OVERFITTED):
        return None
    return Finding(
        "not-batchnorm: overfitting",
        f"BatchNorm is not to blame: {agreement(seen)}. With the best statistics, training images are at "
        f"{percent(train)} and test images at {percent(test)}.",
        seen.commands.train(
            "--augment", "crop-flip", "--patience", "3", advice="augmentation, more images, or a frozen base"
        ),
        basis="left over",
    )


def inference_by_design(seen: Reading) -> Finding | None:
    """The graph fixes inference mode, and no other statistics do better: a plan that worked."""
    if not seen.evidence.facts.by_design or seen.cured:
        return None
    return Finding(
        "inference-mode-by-design",
        "BatchNorm is healthy: the model calls it in inference mode in training too, as base(x, training=False) does, "
        f"so is_training=False is what was trained. {agreement(seen)[0].upper()}{agreement(seen)[1:]}.",
        None,
        basis="records",
    )


def healthy(seen: Reading) -> Finding:
    """Nothing else applies."""
    return Finding("healthy", f"BatchNorm is healthy: {agreement(seen)}.", None)


def agreement(seen: Reading) -> str:
    """What the images show of recalibrating, where it is not the cure."""
    test, gain = seen.evidence.test, seen.gain
    figures = f"test images {percent(test.is_training_false)} -> {percent(test.recalibrated)}"
    if gain.high < 0:
        return f"recalibrating makes it worse ({figures})"
    images, _ = _compared(seen)
    return f"recalibrating changes accuracy by {gain} (95 % interval on {images} images; {figures})"


def _compared(seen: Reading) -> tuple[int, int]:
    """(the images behind `Reading.gain`, those whose outcome recalibrating changes)."""
    scores = seen.gain_scores
    changed = scores.by_recalibrated
    apart = abs(scores.recalibrated.correct - scores.is_training_false.correct)
    return scores.is_training_false.examples, round(changed.changed) if changed else apart


def _explained(seen: Reading) -> float:
    """Accuracy with the best other numbering of the classes, 0 where it is not clearly better than the given one."""
    check, images = seen.evidence.labels, seen.evidence.test.is_training_false.examples
    if check is None:
        return 0.0
    best = max(check.permuted_accuracy, check.offset_accuracy)
    error = math.sqrt((best * (1 - best) + check.accuracy * (1 - check.accuracy)) / images)
    return best if best - check.accuracy >= max(thresholds.RENUMBERED, thresholds.NOISE * error) else 0.0
