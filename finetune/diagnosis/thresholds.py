"""Every number that a verdict depends on, with its reason. docs/diagnosis.md lists them for the user."""

NOISE = 3.0
"""A difference of two accuracies counts when it is more than this many of its standard errors..."""
NOISE_TOGETHER = 2.0
"""The same for test and training images together. They are many, so `LEAST_GAP` is what protects a healthy model: in
the clinic recalibrating changes one by at most 1.3 points of them."""
LEAST_GAP = 0.02
"""...and more than this, as a fraction. Decay, augmentation and the choice of recalibration images make gaps of a point
in healthy runs, and smaller gaps do little harm."""
MARGIN = 0.05
"""BatchNorm is acquitted only where the interval of what recalibrating gains ends below this, as a fraction. Half of a
95 % interval is 4 points for 100 images of which 4 change, 1 point for 1,000 of which 2 % change."""
INFORMATIVE = 0.1
"""Training images speak for a small gain only where `is_training=False` gets more than this share of them wrong: where
they are known by heart, other statistics can gain nothing on them and much on test images."""
LEAST_EXCESS = 1.0
"""A loss this many nats, and twice the other loss, above it is not noise."""
FORGOTTEN = 0.01
"""A share decay^updates under this counts as forgotten."""
FITTED = 0.05
"""A fitted share under this, or under the part that the fit misses, counts as none: augmentation and changing weights
give as much."""
STALE = 0.2
"""A share of the starting statistics above this, fitted or by the records, makes a preprocessing in numbers, which is
solved for from the statistics, worthless."""
AHEAD = -0.08
"""With a fitted share of the source under this, the statistics lie beyond those of the data. In the clinic, averages
over 100 steps give -0.12 to -0.15; statistics that lag give positive shares."""
NOISE_RATIO = 1.5
"""Moving means are noisy if they differ from the data's by less than this many spreads of a single batch's mean. An
average over (1+d)/(1-d) batches differs by 1 spread where it is a single batch, by 0.23 with decay 0.9. Statistics that
lag differ by more."""
AVERAGED = 0.35
"""Means within this many spreads of a single batch's mean are averages over many batches: decay 0.8 gives 0.33."""
SHORT_WINDOW = 3.0
"""Statistics averaged over at most so many batches, (1 + decay) / (1 - decay), are noise: weights do not change enough
in three steps for them to lag. Decay 0.5 gives 3."""
FEW_VALUES = 16
"""With fewer values per channel and batch, batch statistics are mostly chance."""
GOOD_ON_TRAINING = 0.9
"""A model with this accuracy on training images gets the pixels it expects, so no other preprocessing is tried."""
FIRST_TRIAL = 64
"""Images on which every preprocessing is tried. An accuracy of 50 % is then known to 6 points."""
TRIAL_IMAGES = 256
"""Images on which the best of these are tried again, and the most images for one batch size."""
TRIAL_SHARE = 0.01
"""...and, where there are few images, the share of those already evaluated that one trial may cost. A diagnosis must
cost at most 1.5 times its evaluations."""
ORDER_IMAGES = 1024
"""Images for the comparison of orders, at most."""
ORDER_SHARE = 0.04
"""...and at most this share of the images already evaluated."""
SMALL_BATCHES = 48
"""The most batches of one or two images: a call costs about as much as a dozen images."""
MISFED, FED = 0.5, 0.25
"""Distances of the first layer's statistics from its input, in sigmas or half a log variance. If it is over the first
with the present preprocessing and under the second with another, the other is tried on all images, however little it
wins on few."""
ALONE = 4.0
"""The first layer drifts alone if it drifts this many times as far as any other."""
REPAIRED = 0.8
"""A cure names the cause if it wins this share of what the best statistics win."""
RENUMBERED = 0.1
"""Accuracy that another numbering of the classes must add: far more than confusing two classes systematically gives."""
CONFIDENT = 1.03
"""...and the loss, as a multiple of what guessing costs, above which the network is wrong with confidence. In the
clinic, other numberings give 1.09 and more, networks that have learnt nothing 1.0."""
PLAIN = 0.5
"""A renumbering is plain if it makes at least this share of predictions right, and `RENUMBERED` more than there were,
both of test and of training images. Then the network need not be confident: a weak one never is, and one of whose
classes only a few are exchanged loses little on the others. Chance learns less than that, except of two classes."""
LEARNT = 0.92
"""A network has learnt its classes in some numbering if its loss, with that, is below this share of that of guessing.
One of few classes that has learnt nothing can give one answer to all images of a class, by the order of its random
features: with the best numbering, its loss is still 0.93 times that and more
(tests/unit/diagnosis/test_labels.py)."""
FAR_DATA = 4.0
"""Test statistics further from the training images' than this many standard errors of their difference..."""
FAR_SIGMAS = 0.1
"""...and further than this, in sigmas or half a log variance, are of another kind of images."""
EARLY = 0.34
"""Share of the layers, from the input, in which test and training images are compared. Later layers also differ where a
network has learnt its training images by heart."""
OVERFITTED = 0.1
"""Accuracy on training images above that on test images by more than this is overfitting."""
UNDERTRAINED = 0.6
"""A loss on training images above this share of log(classes), what guessing costs, is too little training."""
DRIFTED = 0.1
"""Drift, in sigmas or half a log variance, under which a layer's statistics count as correct."""
