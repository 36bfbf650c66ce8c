"""Each cause and its near misses, as changes to the evidence of a healthy run; a name begins with its cause."""

from dataclasses import replace

from finetune.diagnosis.evidence import Facts, LabelCheck, ModeScores, ReadingCheck, Share
from finetune.evaluation.significance import Paired
from tests.unit.diagnosis.made_evidence import (
    BROKEN,
    FAR,
    UNKNOWN,
    changed,
    company,
    facts,
    fed,
    labels,
    layer,
    score,
    ways,
)

UNSHOWN = {
    "test": ways(0.48, 0.66, 0.7, examples=50),
    "train": ways(0.49, 0.73, 0.75),
    "labels": labels(0.7),
    "layers": (layer(0.4), layer(0.1)),
    "facts": UNKNOWN,
}
"""A gap that 50 test images cannot show alone."""

CASES = {
    "healthy": {},
    "healthy: nothing on record": {"facts": UNKNOWN},
    "healthy: BN frozen on purpose, batch statistics worse": {
        "test": ways(0.90, 0.70, 0.72),
        "train": ways(0.93, 0.72, 0.74),
        "layers": (layer(0.7, source=True),),
        "facts": facts(trained_with="moving", updates=0, updates_enabled=None),
    },
    "healthy: BN frozen on purpose, told by gamma and beta": {
        "test": ways(0.90, 0.70, 0.72),
        "train": ways(0.93, 0.72, 0.74),
        "layers": (layer(0.7, source=True),),
        "facts": Facts(affine_moved=False),
    },
    "trained-in-inference-mode: gamma and beta moved": {
        "test": ways(0.90, 0.70, 0.72),
        "train": ways(0.93, 0.72, 0.74),
        "layers": (layer(0.7, source=True),),
        "facts": Facts(affine_moved=True),
    },
    "frozen-statistics-trained-weights: gamma and beta the source's, too": {
        **BROKEN,
        "layers": (layer(0.8, source=True),) * 2,
        "facts": Facts(affine_moved=False),
    },
    "frozen-statistics-trained-weights: frozen, the source not known": {
        **BROKEN,
        "layers": (layer(0.8, source=None),) * 2,
        "facts": Facts(decay=0.99, updates=0, trained_with="moving"),
    },
    "updates-never-ran-since-source: the source not known": {
        **BROKEN,
        "layers": (layer(0.8, source=None),) * 2,
        "facts": Facts(decay=0.99, updates=0, updates_enabled=False),
    },
    "healthy: at the source and no worse for it": {"layers": (layer(0.2, source=True),), "facts": UNKNOWN},
    "healthy: within the noise of 100 images, where training images agree": {
        "test": ways(0.80, 0.84, 0.84, examples=100),
        "train": ways(0.82, 0.82, 0.82),
    },
    "statistics-noisy: 100 test images cannot show it, training images do": {
        "test": ways(0.80, 0.84, 0.84, examples=100),
        "train": ways(0.82, 0.86, 0.87),
    },
    "undetermined: 100 test images, and training images known by heart": {
        "test": ways(0.80, 0.84, 0.84, examples=100),
        "train": ways(0.99, 0.99, 0.99),
    },
    "undetermined: five points of 200 images": {
        "test": changed(0.30, 0.35, Paired(28, 23), examples=100),
        "train": changed(0.31, 0.36, Paired(28, 23), examples=100),
        "labels": labels(0.35),
    },
    "frozen-base-normalised-by-batch: marked as frozen, few test images": {
        "test": ways(0.37, 0.55, 0.54, examples=100),
        "train": ways(0.60, 0.97, 0.98, examples=200),
        "layers": (layer(0.8, source=None),) * 2,
        "facts": Facts(decay=0.99, updates=0, trained_with="moving", base_moved=False),
        "labels": labels(0.55),
    },
    "frozen-base-normalised-by-batch: equal to the source bit by bit": {
        **BROKEN,
        "layers": (layer(0.8, source=True),) * 2,
        "facts": Facts(affine_moved=False, base_moved=False),
    },
    "statistics-lag: of the first layer alone, which points to the pixels": {
        **BROKEN,
        "layers": (layer(0.9), layer(0.1)),
        "facts": UNKNOWN,
    },
    "inference-mode-by-design": {
        "test": ways(0.90, 0.70, 0.72),
        "train": ways(0.93, 0.72, 0.74),
        "layers": (layer(0.7, source=None),),
        "facts": Facts(trained_with="moving", by_design=True, updates=0),
    },
    "updates-never-ran: another preprocessing does well by chance": {
        **BROKEN,
        "layers": (layer(0.8, initial=True),) * 2,
        "preprocessing": fed("vgg", 0.88, 0.93, "unit"),
    },
    "healthy: a point is not what anybody loses weeks over": {
        "test": ways(0.890, 0.905, 0.906, examples=10_000),
        "train": ways(0.92, 0.93, 0.93),
    },
    "healthy: a decay that leaves much of a source that fits": {"facts": facts(decay=0.9997)},
    "healthy: batch statistics of few images are worse": {
        "test": ways(0.90, 0.60, 0.88),
        "train": ways(0.93, 0.62, 0.92),
        "batch_size": 4,
    },
    "healthy: the same at another preprocessing": {"preprocessing": fed("densenet", 0.905, 0.935, "torch")},
    "healthy: test images of another kind that are no harder": {"layers": FAR},
    "healthy: sorted test images flatter nobody": {
        "test": ways(0.90, 0.40, 0.90),
        "batches": company(0.9, 0.4, 0.9),
    },
    "statistics-not-saved": {
        **BROKEN,
        "layers": (layer(0.8, initial=True),) * 2,
        "facts": facts(updates=None, statistics_absent=True),
    },
    "updates-never-ran": {**BROKEN, "layers": (layer(0.8, initial=True),) * 2, "facts": facts(updates=0)},
    "updates-never-ran: nothing on record": {
        **BROKEN,
        "layers": (layer(0.8, initial=True),) * 2,
        "facts": UNKNOWN,
    },
    "updates-never-ran-since-source": {
        **BROKEN,
        "layers": (layer(0.8, source=True),) * 2,
        "facts": facts(updates=0),
    },
    "updates-never-ran-since-source: with a new layer in the head": {
        **BROKEN,
        "layers": (layer(0.8, source=True), layer(0.8, initial=True)),
        "facts": facts(updates=0),
        "partly_repaired": score(0.15),
    },
    "updates-never-ran-since-source: too poor for accuracy to tell": {
        "test": ModeScores(score(0.1, loss=8e4), score(0.12, loss=2.4), score(0.12, loss=2.5)),
        "train": ModeScores(score(0.1, loss=8e4), score(0.15, loss=2.3), score(0.15, loss=2.3)),
        "labels": labels(0.12),
        "layers": (layer(0.8, source=True),) * 2,
        "facts": facts(updates=0),
    },
    "frozen-statistics-trained-weights": {
        **BROKEN,
        "layers": (layer(0.8, source=True),) * 2,
        "facts": facts(trained_with="moving"),
    },
    "frozen-statistics-trained-weights: in part": {
        **BROKEN,
        "layers": (layer(0.8, source=True), layer(0.1)),
        "facts": UNKNOWN,
    },
    "partially-restored": {
        **BROKEN,
        "layers": (layer(0.8, initial=True), layer(0.03)),
        "partly_repaired": score(0.87),
    },
    "statistics-lag": {**BROKEN, "facts": facts(decay=0.9997, updates=300)},
    "statistics-lag: numbers for the pixels only imitate it": {
        **BROKEN,
        "facts": UNKNOWN,
        "shares": (Share("initial", 0.76, 0.08),),
        "preprocessing": fed("scale=1/255,mean=0.47/0.28/0.16,std=0.001", 0.88, 0.92),
    },
    "wrong-preprocessing: numbers, and nothing of the start is left": {
        **BROKEN,
        "facts": UNKNOWN,
        "shares": (Share("initial", 0.1, 0.3),),
        "preprocessing": fed("scale=1/255,mean=0.47/0.28/0.16", 0.88, 0.92),
    },
    "statistics-lag: by the fit alone": {
        **BROKEN,
        "facts": UNKNOWN,
        "shares": (Share("source", 0.6, 0.2),),
    },
    "statistics-lag: nothing of the start left": {
        "test": ways(0.548, 0.724, 0.725),
        "train": ways(0.56, 0.74, 0.74),
        "labels": labels(0.725),
        "layers": (layer(0.3),) * 2,
        "facts": facts(decay=0.99, updates=1500),
        "shares": (Share("initial", 0.02, 0.3),),
    },
    "statistics-noisy": {**BROKEN, "layers": (layer(0.2, noise=0.2),) * 2, "facts": facts(decay=0.1)},
    "statistics-noisy: nothing on record": {
        **BROKEN,
        "layers": (layer(0.2, noise=0.2),) * 2,
        "facts": UNKNOWN,
        "shares": (Share("source", 0.05, 0.9),),
    },
    "statistics-noisy: batches of two": {
        "test": ways(0.30, 0.70, 0.32),
        "train": ways(0.33, 0.72, 0.33),
        "labels": labels(0.7),
        "layers": (layer(0.2, noise=0.4, values=2),) * 2,
        "batches": company(0.7, 0.5, 0.3),
        "facts": facts(batch_size=2),
    },
    "statistics-noisy: a replica's share of four values, averaged over many batches": {
        **BROKEN,
        "layers": (layer(0.01, noise=0.05), layer(0.02, noise=0.2, values=4, variance_bias=-0.288)),
        "facts": UNKNOWN,
    },
    "statistics-noisy: variances of few values, but means of few batches as well": {
        **BROKEN,
        "layers": (layer(0.2, noise=0.2, values=4, variance_bias=-0.288),) * 2,
        "facts": UNKNOWN,
    },
    "statistics-noisy: decay 0.1 over batches smaller than those of the diagnosis": {
        **BROKEN,
        "layers": (layer(0.2, noise=0.06),) * 2,
        "facts": Facts(decay=0.1, updates=600),
    },
    "statistics-lag: the same with decay 0.9": {
        **BROKEN,
        "layers": (layer(0.2, noise=0.06),) * 2,
        "facts": Facts(decay=0.9, updates=600),
    },
    "statistics-lag: 100 test images show an image lost, which is no contradiction": {
        "test": replace(ways(0.75, 0.77, 0.74, examples=100), by_true=Paired(9, 7), by_recalibrated=Paired(10, 11)),
        "train": changed(0.7, 0.79, Paired(131, 41)),
        "labels": labels(0.77),
        "layers": (layer(0.3),) * 2,
        "facts": UNKNOWN,
    },
    "averaged-weights-raw-statistics: other pixels fit, but not the drift of the later layers": {
        **BROKEN,
        "layers": (layer(0.25), layer(0.5), layer(0.6)),
        "preprocessing": fed("cifar", 0.87, 0.91),
        "facts": Facts(weights_averaged=True),
    },
    "averaged-weights-raw-statistics": {**BROKEN, "facts": facts(weights_averaged=True)},
    "statistics-noisy: four points that only the images one by one can tell": {
        "test": changed(0.31, 0.35, Paired(60, 20)),
        "train": changed(0.31, 0.35, Paired(60, 20)),
        "labels": labels(0.35),
        "layers": (layer(0.03, noise=0.03),) * 2,
        "facts": facts(decay=0.1, batch_size=8),
    },
    "healthy: two points, but as many images change for the worse": {
        "test": changed(0.33, 0.35, Paired(210, 190)),
        "train": changed(0.33, 0.35, Paired(210, 190)),
        "labels": labels(0.35),
    },
    "averaged-weights-raw-statistics: not on record, but ahead of the data's": {
        **BROKEN,
        "facts": UNKNOWN,
        "shares": (Share("initial", -0.02, 0.18), Share("source", -0.12, 0.24)),
    },
    "statistics-lag: a little beyond the data's": {
        **BROKEN,
        "facts": UNKNOWN,
        "shares": (Share("source", -0.03, 0.24),),
    },
    "trained-in-inference-mode": {
        "test": ways(0.51, 0.32, 0.33),
        "train": ways(0.55, 0.33, 0.34),
        "labels": labels(0.51),
        "layers": (layer(0.8, initial=True),) * 2,
        "facts": UNKNOWN,
    },
    "trained-in-inference-mode: at the source's, updates were meant to run": {
        "test": ways(0.80, 0.60, 0.61),
        "train": ways(0.85, 0.62, 0.63),
        "labels": labels(0.8),
        "layers": (layer(0.8, source=True),) * 2,
    },
    "wrong-preprocessing": {**BROKEN, "preprocessing": fed("vgg", 0.88, 0.92)},
    "wrong-preprocessing: colours swapped, statistics not to blame": {
        "test": ways(0.70, 0.70, 0.71),
        "train": ways(0.72, 0.73, 0.73),
        "labels": labels(0.7),
        "preprocessing": fed("caffe", 0.88, 0.92, "vgg"),
    },
    "wrong-preprocessing: 50 test images cannot show it, training images do": {
        **UNSHOWN,
        "preprocessing": replace(
            fed("vgg", 0.62, 0.77), test=score(0.62, examples=50), by_test=Paired(14, 7), by_train=Paired(330, 50)
        ),
    },
    "statistics-lag: training images would do with other pixels, test images do worse": {
        **UNSHOWN,
        "preprocessing": replace(
            fed("vgg", 0.46, 0.77), test=score(0.46, examples=50), by_test=Paired(7, 8), by_train=Paired(330, 50)
        ),
    },
    "statistics-lag: another preprocessing helps a little": {
        **BROKEN,
        "preprocessing": fed("vgg", 0.2, 0.2),
        "facts": facts(decay=0.9997, updates=300),
    },
    "different-data": {"test": ways(0.40, 0.45, 0.41), "layers": FAR, "labels": labels(0.45)},
    "different-data: their own statistics help them": {
        "test": ways(0.40, 0.80, 0.41),
        "layers": FAR,
        "labels": labels(0.8),
        "batches": company(0.8, 0.4, 0.4),
    },
    "not-batchnorm: overfitting": {
        "train": ways(1.0, 1.0, 1.0),
        "test": ways(0.7, 0.7, 0.7),
        "labels": labels(0.7),
    },
    "batch-composition": {
        "test": ways(0.20, 0.90, 0.22),
        "train": ways(0.20, 0.25, 0.22),
        "labels": labels(0.9),
        "batches": company(0.25, 0.9, 0.2),
    },
    "batch-composition: the data comes shuffled": {
        "test": ways(0.20, 0.22, 0.22, loss=2.1),
        "train": ways(0.20, 0.25, 0.22, loss=2.1),
        "labels": labels(0.22),
        "batches": company(0.25, 0.8, 0.2),
    },
    "not-finite": {"layers": (layer(), layer(finite=False))},
    "not-finite: negative variances": {"layers": (layer(), layer(negative=True))},
    "not-finite: the weights": {"layers": (layer(), layer(weights_finite=False))},
    "not-batchnorm: labels: guessing beats what the wrong numbering leaves": {
        "test": ways(0.04, 0.04, 0.04, loss=4.0),
        "train": ways(0.04, 0.04, 0.04),
        "labels": labels(0.04, permuted=0.7),
        "preprocessing": fed("raw", 0.2, 0.2),
    },
    "not-batchnorm: labels": {
        "test": ways(0.08, 0.08, 0.08, loss=4.0),
        "train": ways(0.09, 0.09, 0.09),
        "labels": labels(0.08, permuted=0.88, offset=0.88),
    },
    "not-batchnorm: labels, of the test images only": {
        "test": ways(0.08, 0.08, 0.08, loss=4.0),
        "labels": labels(0.08, permuted=0.88, train=0.09),
    },
    "not-batchnorm: undertrained, though another numbering explains what chance learnt": {
        "train": ways(0.09, 0.09, 0.09, loss=2.3),
        "test": ways(0.09, 0.09, 0.09, loss=2.3),
        "labels": labels(0.09, permuted=0.3),
    },
    "not-batchnorm: labels: of a weak network that is not confident": {
        "train": ways(0.2, 0.2, 0.2, loss=2.3),
        "test": ways(0.2, 0.2, 0.2, loss=2.3),
        "labels": labels(0.2, permuted=0.55),
    },
    "different-data: of other variances, with the same means": {
        "test": ways(0.40, 0.45, 0.41),
        "layers": (layer(0.02, test_shift=0.01, test_log_variance_ratio=0.9), layer(0.02)),
        "labels": labels(0.45),
    },
    "not-batchnorm: undertrained": {
        "train": ways(0.2, 0.2, 0.2, loss=2.1),
        "test": ways(0.2, 0.2, 0.2, loss=2.1),
        "labels": labels(0.2),
    },
    "not-finite: nothing is finite, and the weights are": {
        "train": ways(0.1, 0.1, 0.1, loss=float("nan")),
        "layers": (layer(), layer(finite=False), layer(finite=False)),
    },
    "not-finite: statistics alone, in two of three layers": {
        "layers": (layer(), layer(finite=False), layer(finite=False, negative=True)),
    },
    "partially-restored: a share of a gain on 50 images is noise": {
        **BROKEN,
        "test": ways(0.40, 0.58, 0.58, examples=50),
        "layers": (layer(0.03), layer(0.8, initial=True)),
        "partly_repaired": score(0.52, examples=50),
    },
    "partially-restored: not tried on its own": {
        **BROKEN,
        "layers": (layer(0.03), layer(0.8, initial=True), layer(0.7, initial=True)),
    },
    "statistics-lag: of the variances alone": {**BROKEN, "facts": facts(decay=0.999, updates=1000, zero_debias=True)},
    "statistics-lag: one update": {**BROKEN, "facts": facts(decay=0.9, updates=1)},
    "statistics-lag: of an initial start, by the fit alone": {
        **BROKEN,
        "facts": UNKNOWN,
        "shares": (Share("initial", 0.4, 0.1),),
    },
    "statistics-lag: a fit that misses more than it finds": {
        **BROKEN,
        "layers": (layer(0.8, source=False),) * 2,
        "facts": UNKNOWN,
        "shares": (Share("source", 0.2, 0.3),),
    },
    "statistics-lag: without a word about the source": {
        **BROKEN,
        "layers": (layer(0.8, source=None),) * 2,
        "facts": facts(decay=0.9, updates=500),
    },
    "statistics-noisy: a network that needs the noise of batches of four": {
        "test": ways(0.30, 0.70, 0.32),
        "train": ways(0.33, 0.72, 0.33),
        "labels": labels(0.7),
        "facts": facts(batch_size=4),
    },
    "statistics-noisy: the batches of the diagnosis are small": {
        **BROKEN,
        "layers": (layer(0.2, noise=0.2), layer(0.1, noise=0.1)),
        "facts": facts(decay=0.5, batch_size=None),
        "batch_size": 8,
    },
    "statistics-noisy: few values in one layer": {
        **BROKEN,
        "layers": (layer(0.2, noise=0.2), layer(0.2, noise=0.2, values=12)),
    },
    "trained-in-inference-mode: 0 and 1, and no worse for it": {
        "layers": (layer(0.8, initial=True),) * 2,
        "facts": UNKNOWN,
    },
    "healthy: 0 and 1 are what the data has": {"layers": (layer(0.03, initial=True),) * 2, "facts": UNKNOWN},
    "healthy: much is said beside": {
        "layers": (
            layer(0.01),
            layer(0.2, dead_gamma=0.5),
            layer(2.0, noise=None, dead_channels=0.25, name="block4/BatchNorm"),
        ),
        "facts": facts(
            updates_enabled=False,
            why_disabled="the graph has no updates",
            affine_moved=False,
            expected_preprocessing="inception",
        ),
        "preprocessing": fed(current="caffe"),
        "shares": (Share("initial", 0.1, 0.5), Share("source", 0.5, 0.1)),
        "batches": company(0.9, 0.9, 0.9),
    },
    "wrong-preprocessing: two steps, one after the other": {
        **BROKEN,
        "preprocessing": fed("inception then vgg", 0.88, 0.92),
    },
    "not-batchnorm: labels, shifted by one": {
        "test": ways(0.08, 0.08, 0.08, loss=4.0),
        "train": ways(0.09, 0.09, 0.09),
        "labels": labels(0.08, permuted=0.5, offset=0.88),
    },
    "different-data: negatives, whose mistakes another numbering explains in part": {
        "test": ways(0.2, 0.23, 0.2, loss=4.0),
        "train": ways(0.77, 0.77, 0.78),
        "labels": LabelCheck(0.23, 2, 0.26, 0.4, 4, 0.77, 0.77),
        "layers": FAR,
    },
    "different-data: test images with height and width exchanged, which another numbering explains in part": {
        "test": ways(0.13, 0.13, 0.13, loss=4.0),
        "train": ways(0.98, 0.98, 0.98),
        "labels": LabelCheck(0.13, 2, 0.26, 0.44, 4, 0.98, 0.98),
        "reading": ReadingCheck("unit, transposed", score(0.9), Paired(790, 20)),
    },
    "statistics-noisy: numbers solved for from the noise of two batches, and new statistics do better": {
        "test": ways(0.29, 0.48, 0.49),
        "train": ways(0.28, 0.47, 0.47),
        "layers": (layer(0.42, noise=0.27), layer(0.1)),
        "facts": facts(decay=0.3, updates=800),
        "preprocessing": fed("scale=1/255,mean=0.48/0.3/0.76,std=0.77", 0.46, 0.45),
        "batches": company(0.48, 0.47, 0.29),
    },
    "not-batchnorm: overfitting, 50 test images, of which another numbering explains seven more": {
        "test": ways(0.3, 0.3, 0.3, loss=4.0, examples=50),
        "train": ways(0.98, 0.98, 0.98),
        "labels": LabelCheck(0.3, 2, 0.26, 0.44, 4, 0.98, 0.98),
    },
    "statistics-noisy: by the training images; test images are of another kind as well": {
        "train": ways(0.5, 1.0, 1.0),
        "test": ways(0.3, 0.3, 0.3),
        "labels": labels(0.3),
        "layers": FAR,
    },
}
