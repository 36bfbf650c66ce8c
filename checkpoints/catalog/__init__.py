"""Catalogue rows: one for each published set of weights, and for each network trained from scratch. No TensorFlow."""
