"""Every number a verdict turns on, with its reason. docs/diagnosis.md lists them for the user."""

NOISE = 3.0
"""A difference of two accuracies counts when it is more than this many of its standard errors..."""
LEAST_GAP = 0.02
"""...and more than this, as a fraction: smaller gaps are not what anybody loses weeks over, and decay, augmentation
and the choice of recalibration images make gaps of a point in healthy runs."""
LEAST_EXCESS = 1.0
"""A loss this many nats, and twice the other loss, above it is not noise."""
FORGOTTEN = 0.01
"""A share decay^n under this is no longer there."""
FITTED = 0.05
"""A fitted share under this, or under what the fit misses, is none: augmentation and moving weights give as much."""
AHEAD = -0.08
"""A fitted share of the source under this lies beyond the data's statistics: in the clinic averages over 100 steps give
-0.12 to -0.15, and statistics that lag are positive."""
NOISE_RATIO = 1.5
"""Moving means that miss the data's by less than this many spreads of a single batch's mean are noisy: an average over
(1+d)/(1-d) batches misses by 1 spread where it is a single batch, by 0.23 with decay 0.9. What lags misses by more."""
FEW_VALUES = 16
"""Under this many values per channel and batch, batch statistics are a lottery."""
GOOD_ON_TRAINING = 0.9
"""A model with this accuracy on training images is fed what it expects: preprocessing is not tried."""
FIRST_TRIAL = 64
"""Images on which every way to feed pixels is tried; an accuracy of 50 % is then known to 6 points."""
TRIAL_IMAGES = 256
"""Images on which the best of these are tried again, and at most for a batch size."""
TRIAL_SHARE = 0.01
"""...and, where there are few images, the part of those already looked at that one trial may cost: a diagnosis is to
cost at most 1.5 times its evaluations."""
ORDER_IMAGES = 1024
"""Images for the comparison of orders, at most."""
ORDER_SHARE = 0.04
"""...of the images already looked at."""
SMALL_BATCHES = 48
"""Batches of one or two images are so many at most: a call costs about as much as a dozen images."""
MISFED, FED = 0.5, 0.25
"""A first layer whose statistics are further than this (in sigmas, or half a log variance) from what it is fed, and
nearer than that to what it would be fed in another way: that way is tried on all images, however little it wins on
few."""
REPAIRED = 0.8
"""A cure that wins back this share of what the best statistics win names the cause."""
RENUMBERED = 0.1
"""Accuracy that another numbering of the classes must add: far more than systematic confusion of two classes gives."""
FAR_DATA = 4.0
"""Test statistics further from the training images' than this many standard errors of their difference..."""
FAR_SIGMAS = 0.1
"""...and further than this, in sigmas or in log variance, are of other images."""
EARLY = 0.34
"""Share of the layers, from the input, at which data is compared: later ones also differ where a network has learnt its
training images by heart."""
OVERFITTED = 0.1
"""Accuracy on training images above that on test images by more than this is overfitting."""
UNDERTRAINED = 0.6
"""A loss on training images above this share of log(classes), what guessing costs, is too little training."""
DRIFTED = 0.1
"""Drift, in sigmas or half a log variance, under which a layer's statistics are as they should be."""
