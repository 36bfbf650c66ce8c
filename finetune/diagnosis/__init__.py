"""Is BatchNorm to blame? Measure a model, judge by the numbers alone, name a remedy."""
