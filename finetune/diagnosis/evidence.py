"""What a diagnosis has measured: numbers only, so that a verdict can be tested without a model."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from finetune.evaluation.evaluator import Evaluation

SCHEMA_VERSION = 2
"""Of the JSON report, documented in docs/diagnosis.md."""

WAYS = ("is_training_false", "is_training_true", "recalibrated")

Origin = Literal["source", "initial"]


@dataclass(frozen=True)
class Facts:
    """What records say about how the model came to be; None where they do not.

    decay: share of the old moving value kept at one update. updates: how many the moving statistics took.
    zero_debias: whether the moving means forgot their start at the first update, so that only variances keep a share.
    updates_enabled: whether they were meant to move; why_disabled: what says that they were not.
    trained_with: what normalised in training. weights_moved: whether training changed any weight; affine_moved: any
    gamma or beta of BatchNorm, which layers frozen on purpose keep. weights_averaged: whether the weights are averages
    over training steps that the statistics are not. batch_size: of training. expected_preprocessing: what the
    pretrained weights were made with.
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
    batch_size: int | None = None
    expected_preprocessing: str | None = None

    @property
    def residual(self) -> float | None:
        """Share of the starting statistics left: decay^n; with `zero_debias` of the variances."""
        return None if self.decay is None or self.updates is None else float(self.decay**self.updates)

    @property
    def statistics(self) -> str:
        """What `residual` is a share of."""
        return "variances" if self.zero_debias else "statistics"


@dataclass(frozen=True)
class Change:
    """What another way does to the same images, one by one: how many it gets right that `is_training=False` gets wrong,
    and the reverse. Far sharper than two accuracies."""

    gained: int
    lost: int


@dataclass(frozen=True)
class ThreeWays:
    """The same images under three kinds of statistics, without dropout; `recalibrated` pools training images.

    by_true, by_recalibrated: the changes against `is_training=False`; None where they were not kept.
    """

    is_training_false: Evaluation
    is_training_true: Evaluation
    recalibrated: Evaluation
    by_true: Change | None = None
    by_recalibrated: Change | None = None


@dataclass(frozen=True)
class Share:
    """The share of the starting statistics still in the moving ones, fitted from the arrays.

    moving = share x start + (1 - share) x data, by least squares; `residual` is what the fit misses, as a share of the
    way from start to data: near 0 the moving statistics lie on that line, near 1 they lie anywhere.
    """

    origin: Origin
    share: float
    residual: float


@dataclass(frozen=True)
class LayerDrift:
    """How far one layer's moving statistics lie from those of the training images, and what else is odd about it.

    values: N = batch x height x width, the values a channel's batch statistics are taken over.
    mean_shift: root mean square over channels of (moving mean - data mean) / data sigma.
    log_variance_ratio: root mean square over channels of ln(moving variance / data variance); variance_bias: its mean.
    batch_noise: standard deviation of a single batch's mean, in data sigmas; None where there was one batch.
    test_shift, test_log_variance_ratio: the same measures of the test images' statistics against the training images'.
    at_initial, at_source: the moving statistics are exactly 0 and 1; exactly the ones training started from
        (None where those are not known).
    share: of the starting statistics left, fitted on this layer alone; None where there is nothing to fit to.
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


@dataclass(frozen=True)
class Trial:
    """One way to feed pixels: accuracy with `is_training=False` on `examples` training images, and how far the first BN
    layer's moving statistics lie from what it then sees (as in `LayerDrift`)."""

    name: str
    accuracy: float
    mean_shift: float
    log_variance_ratio: float
    examples: int = 0


@dataclass(frozen=True)
class PreprocessingCheck:
    """Every known way to feed pixels, tried on few training images, the best of them and the current one on `examples`.

    best: the best other way than `current`, and the test and training subset scored with it, `is_training=False`, with
    the changes against `current`; None where no other way looked better.
    """

    current: str
    examples: int
    trials: tuple[Trial, ...]
    best: str | None = None
    test: Evaluation | None = None
    train: Evaluation | None = None
    by_test: Change | None = None
    by_train: Change | None = None


@dataclass(frozen=True)
class BatchCheck:
    """`is_training=True` on the same few test images: by batch size, and by the order they come in.

    sizes: batch size -> score, images shuffled. shuffled, grouped: at the usual batch size, shuffled and sorted by
    class. moving: the same images with `is_training=False`.
    """

    sizes: dict[int, Evaluation]
    shuffled: Evaluation
    grouped: Evaluation
    moving: Evaluation


@dataclass(frozen=True)
class LabelCheck:
    """How well another numbering of the classes explains the predictions.

    accuracy: of the predictions as they are, the best of the three ways. offset, offset_accuracy: when `offset` is
    added to every label. permuted_accuracy: under the best one-to-one renumbering, fitted on one half of the images and
    counted on the other. renumbered: how many classes that moves. On test images; `train_*` on the training subset.
    """

    accuracy: float
    offset: int
    offset_accuracy: float
    permuted_accuracy: float
    renumbered: int
    train_accuracy: float
    train_permuted_accuracy: float


@dataclass(frozen=True)
class BNEvidence:
    """Everything the verdict may look at; None where it was not measured.

    partly_repaired: test images with `is_training=False` when only the layers at initial values are recalibrated.
    """

    test: ThreeWays
    train: ThreeWays
    classes: int
    layers: tuple[LayerDrift, ...]
    facts: Facts = Facts()
    batch_size: int = 0
    shares: tuple[Share, ...] = ()
    labels: LabelCheck | None = None
    preprocessing: PreprocessingCheck | None = None
    batches: BatchCheck | None = None
    partly_repaired: Evaluation | None = None

    def accuracy_json(self) -> dict[str, Any]:
        """Fractions, as `accuracy.test.is_training_false` and so on."""
        return {
            split: {name: getattr(ways, name).accuracy for name in WAYS}
            for split, ways in (("test", self.test), ("train", self.train))
        }

    def loss_json(self) -> dict[str, Any]:
        """Nats per image, as `loss.test.is_training_false` and so on."""
        return {
            split: {name: getattr(ways, name).loss for name in WAYS}
            for split, ways in (("test", self.test), ("train", self.train))
        }

    def layers_json(self) -> list[dict[str, Any]]:
        """One object per BN layer."""
        return [asdict(layer) for layer in self.layers]

    def share(self, origin: Origin) -> Share | None:
        """The fit to that start."""
        return next((share for share in self.shares if share.origin == origin), None)
