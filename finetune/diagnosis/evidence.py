"""What a diagnosis has measured: numbers only, so that a verdict can be tested without a model."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from finetune.diagnosis import thresholds
from finetune.diagnosis.recovery import Recovered
from finetune.evaluation.evaluator import Evaluation, total
from finetune.evaluation.significance import Interval, Paired

Origin = Literal["source", "initial"]


def percent(evaluation: Evaluation) -> str:
    """Accuracy as people read it."""
    return f"{evaluation.accuracy:.1%}"


def better(
    a: Evaluation,
    b: Evaluation,
    least: float = thresholds.LEAST_GAP,
    paired: Paired | None = None,
    noise: float = thresholds.NOISE,
) -> bool:
    """Whether `a` has the higher accuracy, by more than `least`, a fraction, and by more than `noise` standard errors.

    `paired` compares `a` with `b` on the same images. Then only images that changed make noise (McNemar 1947);
    without it, both accuracies do, binomially.
    """
    if paired is not None:
        error = max(paired.standard_error, 1.0) / a.examples
    else:
        error = math.hypot(a.standard_error, b.standard_error)
    # At 0 or 1 the binomial error vanishes, but no difference is more certain than one image in the set.
    return a.accuracy - b.accuracy > max(noise * error, least, 1.0 / a.examples)


@dataclass(frozen=True)
class Facts:
    """What records say about how the model was trained; None where they do not.

    decay: share of the old moving value kept at one update. updates: number of updates of the moving statistics.
    zero_debias: whether the moving means forgot their start at the first update, so that only variances keep a share.
    updates_enabled: whether updates were meant to run; why_disabled: a sentence on why not.
    trained_with: the statistics that normalised in training. weights_moved: whether training changed any weight.
    affine_moved: whether it changed any gamma or beta of BatchNorm, which layers frozen on purpose keep.
    weights_averaged: whether the weights are averages over training steps while the statistics are not.
    statistics_absent: whether the file holds no moving statistics, which are therefore at 0 and 1.
    base_moved: whether it changed any weight below the last BatchNorm: by comparison with the source or, where that is
        not known, by the layers that the file marks as frozen.
    by_design: whether the graph itself fixes inference mode for BatchNorm, as `base(x, training=False)` does.
    batch_size: of training. expected_preprocessing: the one that the pretrained weights were made with.
    usual_preprocessing: the one that slim's training script takes for the network by default, where it is another.
    """

    decay: float | None = None
    updates: int | None = None
    zero_debias: bool = False
    updates_enabled: bool | None = None
    why_disabled: str = "the run was made with --bn-updates off"
    trained_with: Literal["batch", "moving"] | None = None
    weights_moved: bool | None = None
    weights_averaged: bool | None = None
    affine_moved: bool | None = None
    base_moved: bool | None = None
    by_design: bool = False
    statistics_absent: bool = False
    batch_size: int | None = None
    expected_preprocessing: str | None = None
    usual_preprocessing: str | None = None

    @property
    def residual(self) -> float | None:
        """Share of the starting statistics left: decay^updates; with `zero_debias` of the variances only."""
        return None if self.decay is None or self.updates is None else float(self.decay**self.updates)

    @property
    def statistics(self) -> str:
        """The statistics that `residual` is a share of."""
        return "variances" if self.zero_debias else "statistics"


@dataclass(frozen=True)
class ModeScores:
    """The same images with each kind of statistics, without dropout. `recalibrated` pools training images.

    by_true, by_recalibrated: the comparison with `is_training=False`, image by image; None where it was not kept.
    noise: standard errors by which two modes must differ.
    """

    is_training_false: Evaluation
    is_training_true: Evaluation
    recalibrated: Evaluation
    by_true: Paired | None = None
    by_recalibrated: Paired | None = None
    noise: float = thresholds.NOISE

    def together(self, other: "ModeScores") -> "ModeScores":
        """The images of both: more of them, so that a difference shows which neither shows alone."""
        return ModeScores(
            total((self.is_training_false, other.is_training_false)),
            total((self.is_training_true, other.is_training_true)),
            total((self.recalibrated, other.recalibrated)),
            self.by_true + other.by_true if self.by_true and other.by_true else None,
            self.by_recalibrated + other.by_recalibrated if self.by_recalibrated and other.by_recalibrated else None,
            noise=thresholds.NOISE_TOGETHER,
        )

    @property
    def best(self) -> Evaluation:
        """The mode with the best accuracy."""
        return max((self.is_training_false, self.is_training_true, self.recalibrated), key=lambda one: one.accuracy)

    @property
    def least_loss(self) -> float:
        """The loss of the mode with the smallest, nats per image; infinite where none is finite."""
        losses = (self.is_training_false.loss, self.is_training_true.loss, self.recalibrated.loss)
        return min((loss for loss in losses if math.isfinite(loss)), default=math.inf)

    @property
    def within_reach(self) -> float:
        """Accuracy that other statistics than the moving ones win; negative where they lose."""
        return max(self.is_training_true.accuracy, self.recalibrated.accuracy) - self.is_training_false.accuracy

    @property
    def recalibrating_gain(self) -> Interval:
        """Accuracy that recalibrated statistics win over the moving ones, with its interval."""
        before, after, images = self.is_training_false, self.recalibrated, self.is_training_false.examples
        changed = Paired(max(after.correct - before.correct, 0), max(before.correct - after.correct, 0))
        return (self.by_recalibrated or changed).interval(images)

    @property
    def true_helps(self) -> bool:
        """Whether `is_training=True` is better than False by more than noise."""
        return better(self.is_training_true, self.is_training_false, paired=self.by_true, noise=self.noise)

    @property
    def true_hurts(self) -> bool:
        """Whether `is_training=True` is worse than False by more than noise."""
        paired = self.by_true and self.by_true.reversed()
        return better(self.is_training_false, self.is_training_true, paired=paired, noise=self.noise)

    @property
    def recalibrating_helps(self) -> bool:
        """Whether recalibrated statistics are better than the moving ones, in accuracy or from a hopeless loss."""
        if better(self.recalibrated, self.is_training_false, paired=self.by_recalibrated, noise=self.noise):
            return True
        # A poor model's accuracy may stay the same while stale statistics make its loss larger by orders of magnitude.
        excess = self.is_training_false.loss - self.recalibrated.loss
        return excess > max(thresholds.LEAST_EXCESS, 2 * self.recalibrated.loss) and not self.recalibrating_hurts

    @property
    def recalibrating_hurts(self) -> bool:
        """Whether recalibrated statistics are worse than the moving ones by more than noise."""
        paired = self.by_recalibrated and self.by_recalibrated.reversed()
        return better(self.is_training_false, self.recalibrated, paired=paired, noise=self.noise)


@dataclass(frozen=True)
class Share:
    """The share of the starting statistics still in the moving ones, fitted from the arrays.

    moving = share x start + (1 - share) x data, by least squares. `residual` is the part the fit misses, as a share of
    the distance from start to data: near 0, the moving statistics lie on that line; near 1, they lie anywhere.
    """

    origin: Origin
    share: float
    residual: float


@dataclass(frozen=True)
class LayerDrift:
    """How far one layer's moving statistics are from those of the training images, and its other measures.

    values: N = batch x height x width, the number of values behind a channel's batch statistics.
    mean_shift: root mean square over channels of (moving mean - data mean) / data sigma.
    log_variance_ratio: root mean square over channels of ln(moving variance / data variance); variance_bias: its mean.
    batch_noise: standard deviation of a single batch's mean, in data sigmas; None where there was one batch.
    test_shift, test_log_variance_ratio: the same measures of the test images' statistics against the training images'.
    initial: what moving mean and variance start from: 0 and 1, 0 and 0 (TensorFlow's `ExponentialMovingAverage`), or
        what the layer's initializers give.
    at_initial: the moving statistics are exactly these. gamma_at_initial: gamma is exactly what it starts from; None
        where there is none. at_source: they are exactly those training started from; None
        where these are not known.
    share: share of the starting statistics left, fitted on this layer alone; None where there is nothing to fit to.
    dead_gamma, dead_channels: shares of channels with gamma 0, and of channels that are constant over all images.
    """

    name: str
    values: float
    mean_shift: float
    log_variance_ratio: float
    at_initial: bool
    at_source: bool | None
    finite: bool
    negative: bool = False
    weights_finite: bool = True
    variance_bias: float = 0.0
    batch_noise: float | None = None
    test_shift: float = 0.0
    test_log_variance_ratio: float = 0.0
    share: float | None = None
    dead_gamma: float = 0.0
    dead_channels: float = 0.0
    initial: tuple[float, float] = (0.0, 1.0)
    gamma_at_initial: bool | None = None

    @property
    def start(self) -> str:
        """What moving mean and variance start from, in words."""
        return f"{self.initial[0]:g} and {self.initial[1]:g}"


@dataclass(frozen=True)
class Trial:
    """One preprocessing: accuracy with `is_training=False` on `examples` training images, and the drift of the first BN
    layer with it (as in `LayerDrift`)."""

    name: str
    accuracy: float
    mean_shift: float
    log_variance_ratio: float
    examples: int = 0


@dataclass(frozen=True)
class PreprocessingCheck:
    """Every known preprocessing, tried on few training images; the best of them and the current one on `examples`.

    best: the best other one than `current`, None where none looked better. test, train: the images scored with it,
    `is_training=False`. by_test, by_train: the comparison with `current`, image by image. recovered: what the first
    layer's statistics suggest, the best fit first.
    """

    current: str
    examples: int
    trials: tuple[Trial, ...]
    best: str | None = None
    test: Evaluation | None = None
    train: Evaluation | None = None
    by_test: Paired | None = None
    by_train: Paired | None = None
    recovered: tuple[Recovered, ...] = ()


@dataclass(frozen=True)
class ReadingCheck:
    """Test images with `is_training=False` after a change of their pixels, called `name`, which does better than none.

    by_test: the comparison with the images as they are, image by image.
    """

    name: str
    test: Evaluation
    by_test: Paired


@dataclass(frozen=True)
class BatchCheck:
    """`is_training=True` on the same few test images, by batch size and by their order.

    sizes: batch size -> score, images shuffled. shuffled: at the usual batch size. grouped: sorted by class, in batches
    no larger than a class. moving: the same images with `is_training=False`.
    """

    sizes: dict[int, Evaluation]
    shuffled: Evaluation
    grouped: Evaluation
    moving: Evaluation


@dataclass(frozen=True)
class LabelCheck:
    """How well another numbering of the classes explains the predictions.

    accuracy: of the predictions as they are, in the best of the three modes. offset, offset_accuracy: when `offset` is
    added to every label. permuted_accuracy: with the best one-to-one renumbering, fitted on one half of the images and
    counted on the other. renumbered: the number of classes it changes. On test images; `train_*` on the training
    subset. loss: the least mean cross-entropy in nats, of test or training images in any mode, with the given numbering
    or the best other one: above what guessing costs, the network has learnt no numbering.
    """

    accuracy: float
    offset: int
    offset_accuracy: float
    permuted_accuracy: float
    renumbered: int
    train_accuracy: float
    train_permuted_accuracy: float
    loss: float = 0.0


@dataclass(frozen=True)
class BNEvidence:
    """Everything a verdict can depend on; None where it was not measured.

    reading: another way to read the test images alone.
    partly_repaired: test images with `is_training=False` when only the layers at initial values are recalibrated.
    per_label: whether each class is a yes or no of its own, through a sigmoid.
    unused: training images of the data that were not measured.
    """

    test: ModeScores
    train: ModeScores
    classes: int
    layers: tuple[LayerDrift, ...]
    facts: Facts = Facts()
    batch_size: int = 0
    shares: tuple[Share, ...] = ()
    labels: LabelCheck | None = None
    preprocessing: PreprocessingCheck | None = None
    reading: ReadingCheck | None = None
    batches: BatchCheck | None = None
    partly_repaired: Evaluation | None = None
    per_label: bool = False
    unused: int = 0

    @cached_property
    def together(self) -> ModeScores:
        """Test and training images as one set."""
        return self.test.together(self.train)

    @property
    def chance_loss(self) -> float:
        """What guessing costs: the cross-entropy of equal classes, of independent labels that of a share 1/classes, or
        where an image may have several, of each label's own share of the training images."""
        if not self.per_label:
            return math.log(self.classes)
        seen = self.train.is_training_false
        shares = [n / seen.examples for _, n, _ in seen.by_class] if seen.multi_label else [1 / self.classes]
        return sum(_entropy(share) for share in shares) / len(shares)

    def share(self, origin: Origin) -> Share | None:
        """The fit to that start, None where there is none."""
        return next((share for share in self.shares if share.origin == origin), None)


def _entropy(share: float) -> float:
    """Of a yes or no, nats."""
    return -share * math.log(share) - (1 - share) * math.log1p(-share) if 0 < share < 1 else 0.0
