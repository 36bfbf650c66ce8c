"""Is BatchNorm to blame? Measure a model, judge by the numbers alone, name a remedy."""

TRAINING_IMAGES = 2_000
"""Training images of a diagnosis, by default."""
RECALIBRATION_IMAGES = 10_000
"""Training images that new statistics are measured on, by default. Precise BN needs 1k to 10k (Wu & Johnson 2021,
section 3.2)."""
