"""Rules about what the network is fed. Each gives a Finding, or None where it does not apply."""

from finetune.diagnosis import thresholds
from finetune.diagnosis.gaps import better, percent, true_helps
from finetune.diagnosis.rules.rule import Finding, Reading


def wrong_preprocessing(seen: Reading) -> Finding | None:
    """Another way to feed pixels makes `is_training=False` good without any recalibration."""
    check, evidence = seen.evidence.preprocessing, seen.evidence
    if check is None or check.best is None or check.train is None or check.test is None:
        return None
    train = evidence.train
    won = check.train.accuracy - train.is_training_false.accuracy
    within_reach = max(train.is_training_true.accuracy, train.recalibrated.accuracy) - train.is_training_false.accuracy
    if (
        not better(check.train, train.is_training_false, change=check.by_train)
        or won < thresholds.REPAIRED * within_reach
    ):
        return None
    if not better(check.test, evidence.test.is_training_false, least=0.0, change=check.by_test):
        return None
    # Under a wrong numbering, a network that sees nothing, and guesses, is better than one that sees.
    if _explained(seen) >= check.test.accuracy:
        return None
    # A layer at 0/1 looks as if it expected pixels that are about 0/1: what cures it better is the better cause.
    if evidence.partly_repaired is not None and evidence.partly_repaired.accuracy >= check.test.accuracy:
        return None
    twice = "twice" in check.best or "then" in check.best
    return Finding(
        "wrong-preprocessing",
        f"The pixels are fed as '{check.current}', but the network expects '{check.best}'"
        f"{', a double normalisation' if twice else ''}: with it, and nothing else changed, is_training=False gives "
        f"{percent(check.test)} on test images instead of {percent(evidence.test.is_training_false)}. Recalibrating "
        "would only hide that.",
        f"finetune diagnose-bn {seen.commands.target} --preprocess {_quoted(check.best)}",
    )


def labels(seen: Reading) -> Finding | None:
    """Another numbering of the classes explains the predictions."""
    check = seen.evidence.labels
    if check is None or not _explained(seen):
        return None
    shifted = check.offset_accuracy >= check.permuted_accuracy - thresholds.LEAST_GAP
    how = f"adding {check.offset} to every label" if shifted else f"renumbering {check.renumbered} classes"
    explained = check.offset_accuracy if shifted else check.permuted_accuracy
    also = check.train_permuted_accuracy - check.train_accuracy >= thresholds.RENUMBERED
    return Finding(
        "not-batchnorm: labels",
        f"BatchNorm is not to blame: the labels are numbered differently from the network's outputs; {how} explains "
        f"{explained:.1%} of the predictions on test images instead of {check.accuracy:.1%}"
        f"{'' if also else ', while the training labels fit as they are'}.",
        seen.commands.train(why="with the classes in the order the network was trained with"),
    )


def different_data(seen: Reading) -> Finding | None:
    """Statistics fit the training images, the network does well on them, and the test images are of another kind."""
    test, train = seen.evidence.test, seen.evidence.train
    if seen.cured_on_training or not seen.test_is_far:
        return None
    if not better(train.is_training_false, test.is_training_false, thresholds.OVERFITTED):
        return None
    sigmas, errors = seen.test_distance
    return Finding(
        "different-data",
        f"The test images differ from the training images: the network does well on these "
        f"({percent(train.is_training_false)}, with moving statistics that fit them) and not on those "
        f"({percent(test.is_training_false)}), and the first layers' own statistics say that they are of another kind.",
        seen.commands.train(why="with training images like the test images, or mend how the test images are read"),
        (f"the first layers' statistics on test images lie {sigmas:.2f} sigmas from those on training images, "
         f"{errors:.0f} times what chance gives",),
    )  # fmt: skip


def batch_composition(seen: Reading) -> Finding | None:
    """`is_training=True` is good only for images in a certain order."""
    check, test = seen.evidence.batches, seen.evidence.test
    if check is None:
        return None
    ordered = better(check.grouped, check.shuffled, thresholds.OVERFITTED)
    flattered = true_helps(test) and better(test.is_training_true, check.shuffled, thresholds.OVERFITTED)
    if not (ordered or flattered):
        return None
    good = (
        check.grouped if ordered and check.grouped.accuracy > test.is_training_true.accuracy else test.is_training_true
    )
    # Statistics that are wrong as well may make is_training=False bad: recalibrated ones say what is theirs.
    won = test.recalibrated.accuracy - test.is_training_false.accuracy
    if seen.cured and won >= thresholds.REPAIRED * (good.accuracy - test.is_training_false.accuracy):
        return None
    return Finding(
        "batch-composition",
        f"is_training=True leans on what else is in the batch: {percent(good)} where images of a class come together, "
        f"{percent(check.shuffled)} for the same images shuffled. The network was trained on ordered or uniform "
        "batches and reads the class from the company an image is in; no statistics can mend that.",
        seen.commands.train("--bn", "train", why="finetune shuffles the training images"),
    )


def _explained(seen: Reading) -> float:
    """Accuracy under the best other numbering of the classes, 0 where it is not plainly better than the given one's."""
    check = seen.evidence.labels
    if check is None:
        return 0.0
    best = max(check.permuted_accuracy, check.offset_accuracy)
    return best if best - check.accuracy >= thresholds.RENUMBERED else 0.0


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name
