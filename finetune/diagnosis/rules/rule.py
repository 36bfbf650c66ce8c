"""What the rules of a verdict share: the evidence, and comparisons that several of them make."""

import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from finetune.diagnosis import thresholds
from finetune.diagnosis.evidence import BNEvidence, LayerDrift, ModeScores, Share, percent
from finetune.evaluation.significance import Interval


@dataclass(frozen=True)
class Commands:
    """How a remedy is typed. Each can be pasted as it is: what no command does is a comment of the shell.

    target: the model as the user named it, quoted for a shell, with its options other than `--preprocess`, which is
    `preprocess`. retrain: the command that trains it again, to which options are added; "" where only the user's own
    script can. unwritable: why no copy with other statistics can be written, "" where one can.
    """

    target: str
    retrain: str = ""
    preprocess: str = ""
    unwritable: str = ""

    @property
    def recalibrate(self) -> str:
        """Measure the statistics again."""
        return f"# {self.unwritable}" if self.unwritable else f"finetune recalibrate-bn {self._fed(self.preprocess)}"

    def diagnose(self, *options: str, preprocess: str = "", advice: str = "") -> str:
        """Examine again, with `options` and perhaps pixels that are fed in another way."""
        command = " ".join(["finetune diagnose-bn", self._fed(preprocess or self.preprocess), *options])
        return command + (f"  # {advice}" if advice else "")

    def train(self, *options: str, advice: str = "") -> str:
        """Train again with `options`. `advice` says it in words, for a script of the user's own."""
        if not self.retrain:
            return f"# in your own training: {advice}"
        return " ".join([self.retrain, *options]) + (f"  # {advice}" if advice else "")

    def recalibrate_or(self, *options: str, advice: str) -> str:
        """Recalibrate. A comment says what in training makes that unnecessary."""
        again = f"train again: {self.train(*options)}" if self.retrain else f"in your own training: {advice}"
        return f"{self.recalibrate}  # or {again}"

    def _fed(self, preprocess: str) -> str:
        name, more, options = preprocess.partition(" --")  # how photos are cropped stands behind it
        return f"{self.target} --preprocess {shlex.quote(name)}{more}{options}" if preprocess else self.target


Basis = Literal["exact", "records", "tried", "fitted", "excluded", "left over"]
"""What a finding stands on: values that are equal bit by bit, records of the training, a change that was tried and
helped, a fit to arrays, or that nothing else applies, of good figures and ("left over") of bad ones."""


@dataclass(frozen=True)
class Finding:
    """The outcome of a rule that applies. `because` are its own lines of evidence."""

    cause: str
    sentence: str
    remedy: str | None
    because: tuple[str, ...] = ()
    basis: Basis = "excluded"


@dataclass(frozen=True)
class Reading:
    """Evidence, and what follows from it for several rules.

    assume_cured: read as if recalibrating had helped, to find the cause there would be.
    """

    evidence: BNEvidence
    commands: Commands
    assume_cured: bool = False

    @cached_property
    def cured(self) -> bool:
        """Whether recalibrating the statistics alone brings back accuracy, or a loss that was hopeless.

        Test and training images count together: statistics that explain a gap on training images are to blame, however
        few test images there are, unless test images do worse and show a gain too small to count.
        """
        test, together = self.evidence.test, self.evidence.together
        gain = test.recalibrating_gain
        agrees = gain.estimate >= 0 or (gain.high >= thresholds.LEAST_GAP and not test.recalibrating_hurts)
        return self.assume_cured or test.recalibrating_helps or (agrees and together.recalibrating_helps)

    @cached_property
    def cured_on_training(self) -> bool:
        """The same on training images alone."""
        return self.evidence.train.recalibrating_helps

    @cached_property
    def true_helps(self) -> bool:
        """Whether `is_training=True` is better than False on test and on training images."""
        test, train, together = self.evidence.test, self.evidence.train, self.evidence.together
        agrees = all(one.is_training_true.accuracy > one.is_training_false.accuracy for one in (test, train))
        return (test.true_helps and train.true_helps) or (agrees and together.true_helps)

    @property
    def gain_scores(self) -> ModeScores:
        """Test images, together with the training images if these can show a gain."""
        informative = self.evidence.train.is_training_false.accuracy < 1 - thresholds.INFORMATIVE
        return self.evidence.together if informative else self.evidence.test

    @cached_property
    def gain(self) -> Interval:
        """Accuracy that recalibrating gains on `gain_scores`."""
        return self.gain_scores.recalibrating_gain

    @property
    def acquitted(self) -> bool:
        """Whether the images show that recalibrating gains less than the margin."""
        return self.gain.high < thresholds.MARGIN

    @property
    def lost(self) -> str:
        """What the statistics cost, as a sentence without its stop."""
        test, train = self.evidence.test, self.evidence.train
        shown = f"{percent(test.is_training_false)} on test images"
        regained = percent(test.recalibrated)
        if not test.recalibrating_helps:
            shown += f" and {percent(train.is_training_false)} on training images"
            regained += f" and {percent(train.recalibrated)}"
        same = "the same weights with statistics recalibrated on training images"
        return f"is_training=False gives {shown}, {same} {regained}"

    @cached_property
    def untouched(self) -> bool:
        """Whether every layer's statistics are bit-equal to those of the source, or to 0 and 1."""
        return all(layer.at_initial or layer.at_source for layer in self.evidence.layers)

    @cached_property
    def never_updated(self) -> bool:
        """The same or, where the source is not known, whether the records show no update."""
        unknown = all(layer.at_source is None for layer in self.evidence.layers)
        return self.untouched or (unknown and self.evidence.facts.updates == 0)

    @property
    def frozen(self) -> bool:
        """Whether BatchNorm was frozen, by the records or because gamma and beta are the source's as well."""
        facts = self.evidence.facts
        return facts.trained_with == "moving" or (facts.trained_with is None and facts.affine_moved is False)

    @cached_property
    def drift(self) -> float:
        """Median over layers of the mean shift, in sigmas."""
        return float(np.median([layer.mean_shift for layer in self.evidence.layers]))

    @cached_property
    def noise_ratio(self) -> float | None:
        """Median over layers of the mean shift in spreads of a single batch's mean."""
        ratios = [layer.mean_shift / layer.batch_noise for layer in self.evidence.layers if layer.batch_noise]
        return float(np.median(ratios)) if ratios else None

    @property
    def window(self) -> float | None:
        """The number of batches that the moving statistics average over, by the records."""
        decay = self.evidence.facts.decay
        return None if decay is None or decay >= 1 else (1 + decay) / (1 - decay)

    @property
    def short(self) -> bool:
        """Whether these are too few for the statistics to lag behind the weights."""
        return self.window is not None and self.window <= thresholds.SHORT_WINDOW

    @cached_property
    def onset(self) -> LayerDrift | None:
        """The first layer whose statistics are off by more than a tenth of the worst layer's."""
        layers = self.evidence.layers
        worst = max(size(layer) for layer in layers)
        if worst < thresholds.DRIFTED:
            return None
        return next(layer for layer in layers if size(layer) >= max(worst / 10, thresholds.DRIFTED))

    @cached_property
    def first_alone(self) -> bool:
        """Whether the drift lies in the first layer alone, which sees the pixels: each layer is measured on batch
        statistics below it, so what the network is fed shows in no other."""
        first, *others = (size(layer) for layer in self.evidence.layers)
        return bool(others) and first > thresholds.MISFED and first > thresholds.ALONE * max(others)

    @cached_property
    def beyond_the_first(self) -> bool:
        """Whether the first layer drifts less than most others do: wrong pixels disturb the first layer most."""
        first, *others = (size(layer) for layer in self.evidence.layers)
        return bool(others and first < np.median(others))

    @cached_property
    def test_distance(self) -> tuple[float, float]:
        """How far the statistics of test and training images are apart in the early layers: in sigmas (or half a log
        variance), and in standard errors of that."""
        layers, evidence = self.evidence.layers, self.evidence
        early = layers[: max(1, int(len(layers) * thresholds.EARLY))]
        images = [scores.is_training_false.examples for scores in (evidence.test, evidence.train)]
        counts = [count / max(evidence.batch_size, 1) for count in images]
        scale = float(np.sqrt(sum(1 / max(count, 1e-9) for count in counts)))
        distances = [max(layer.test_shift, layer.test_log_variance_ratio / 2) for layer in early]
        # Grain and haze change variances and leave means. Half a log variance of n values has the error sqrt(1 / 2n),
        # their mean has 1 / sqrt(n): the larger one stands for both, as pixels are no normal variables.
        known = [(size, layer.batch_noise) for size, layer in zip(distances, early, strict=True) if layer.batch_noise]
        errors = [size / (noise * scale) for size, noise in known if scale > 0]
        return float(np.max(distances)), float(np.max(errors)) if errors else 0.0

    @property
    def test_is_far(self) -> bool:
        """Whether the statistics of the test images show that they are of another kind."""
        sigmas, errors = self.test_distance
        return sigmas > thresholds.FAR_SIGMAS and errors > thresholds.FAR_DATA

    @property
    def stale(self) -> bool:
        """Whether the arrays or the records show a good part of the starting statistics in the moving ones."""
        fitted, recorded = self.share, self.evidence.facts.residual
        by_fit = fitted is not None and fitted.share > thresholds.STALE and fitted.residual < fitted.share / 3
        return by_fit or (recorded is not None and recorded > thresholds.STALE)

    @property
    def share(self) -> Share | None:
        """The fitted share of the starting statistics, those of the source where it is known."""
        return self.evidence.share("source") or self.evidence.share("initial")


def size(layer: LayerDrift) -> float:
    """One number for a layer's drift, comparable between means and variances; infinite where it is not finite."""
    value = max(layer.mean_shift, layer.log_variance_ratio / 2)
    return value if np.isfinite(value) else float("inf")
