"""Lines of evidence, and what a verdict rules out."""

from finetune.diagnosis.evidence import BNEvidence, Share, ThreeWays
from finetune.diagnosis.gaps import better, percent
from finetune.diagnosis.rules.rule import Reading, size


def accuracies(evidence: BNEvidence) -> list[str]:
    """The three ways, a line a split."""

    def line(name: str, ways: ThreeWays) -> str:
        return (
            f"{name}: is_training=False {percent(ways.is_training_false)}, True {percent(ways.is_training_true)}, "
            f"recalibrated {percent(ways.recalibrated)} of {ways.is_training_false.examples} images"
        )

    return [line("test", evidence.test), line("training subset", evidence.train)]


def statistics(seen: Reading) -> list[str]:
    """What is known of the moving statistics, whatever the verdict."""
    facts, layers = seen.evidence.facts, seen.evidence.layers
    worst = max(layers, key=size)
    lines = [
        f"largest drift: {worst.name}, moving mean {worst.mean_shift:.2f} sigmas and log variance "
        f"{worst.log_variance_ratio:.2f} from the training images'"
    ]
    if seen.onset is not None:
        lines[0] += f"; it starts in {seen.onset.name}"
    if seen.noise_ratio is not None:
        lines.append(
            f"the moving means miss the data's by {seen.noise_ratio:.2g} times what a single batch's mean does"
        )
    initial = sum(layer.at_initial for layer in layers)
    source = sum(bool(layer.at_source) for layer in layers)
    if initial or source:
        lines.append(f"{initial} of {len(layers)} BN layers at initial values 0/1, {source} bit-equal to the source")
    if facts.affine_moved is False:
        lines.append("gamma and beta of every BN layer are bit-equal to the source's: the layers were frozen")
    share = seen.share
    if share is not None:
        lines.append(share_line(share))
    if facts.residual is not None:
        lines.append(
            f"share of the starting {facts.statistics} left by the records: {facts.decay:g}^{facts.updates} = "
            f"{facts.residual:.2g}"
        )
    check, expected = seen.evidence.preprocessing, facts.expected_preprocessing
    if check is not None and expected is not None and check.current != expected:
        lines.append(f"the pretrained weights were made with '{expected}' pixels, these are fed as '{check.current}'")
    if facts.updates_enabled is False:
        lines.append(facts.why_disabled)
    dead = [layer.name for layer in layers if layer.dead_gamma or layer.dead_channels]
    if dead:
        channels = sum(layer.dead_channels > 0 for layer in layers)
        lines.append(
            f"{len(dead)} layers have dead channels ({channels} with constant inputs, "
            f"{sum(layer.dead_gamma > 0 for layer in layers)} with gamma 0), the first is {dead[0]}"
        )
    return lines


def share_line(share: Share) -> str:
    """The fitted share, or that there is none."""
    if share.residual > abs(share.share):
        return f"no share of the {share.origin} statistics left that a fit to the arrays can tell from noise"
    return (
        f"share of the {share.origin} statistics left: {share.share:.0%}, fitted to the arrays (the fit misses "
        f"{share.residual:.0%})"
    )


def ruled_out(seen: Reading, cause: str) -> tuple[str, ...]:
    """What the verdict is not, each with the figure that says so."""
    evidence, lines = seen.evidence, []
    test, train = evidence.test, evidence.train
    if not seen.cured and cause not in ("not-finite", "trained-in-inference-mode", "wrong-preprocessing"):
        lines.append(
            f"not stale statistics: recalibrating them gives {percent(test.recalibrated)} on test images, "
            f"{percent(test.is_training_false)} without"
        )
    check = evidence.preprocessing
    others = [trial for trial in check.trials if trial.name != check.current] if check else []
    if check is not None and others and cause != "wrong-preprocessing":
        best = max(others, key=lambda trial: trial.accuracy)
        own = next(trial for trial in check.trials if trial.name == check.current)
        lines.append(
            f"not the preprocessing: is_training=False gives {own.accuracy:.1%} with '{check.current}' on "
            f"{check.examples} training images, {best.accuracy:.1%} with '{best.name}', the best of {len(others)}"
        )
    if evidence.labels is not None and cause != "not-batchnorm: labels":
        lines.append(
            f"not the labels: the best renumbering of the classes explains {evidence.labels.permuted_accuracy:.1%} of "
            f"the predictions, the given one {evidence.labels.accuracy:.1%}"
        )
    if cause != "different-data":
        lines.append(
            f"not different data: test images' statistics lie {seen.test_distance[0]:.2f} sigmas from training images' "
            "in the first layers"
            if not seen.test_is_far
            else f"not different data alone: {percent(train.is_training_false)} on training images, "
            f"{percent(test.is_training_false)} on test images"
        )
    if evidence.batches is not None and cause != "batch-composition":
        lines.append(
            f"not the batches' composition: is_training=True gives {percent(evidence.batches.shuffled)} shuffled, "
            f"{percent(evidence.batches.grouped)} sorted by class"
        )
    best_way = max((test.is_training_false, test.is_training_true, test.recalibrated), key=lambda one: one.accuracy)
    best_train = max(
        (train.is_training_false, train.is_training_true, train.recalibrated), key=lambda one: one.accuracy
    )
    if cause != "not-batchnorm: overfitting" and not better(best_train, best_way, 0.1):
        lines.append(f"not overfitting: {percent(best_train)} on training images, {percent(best_way)} on test images")
    return tuple(lines)
