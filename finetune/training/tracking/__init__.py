"""Experiment trackers: TensorBoard's event files, MLflow's store, Weights & Biases.

The run's own files are the record; a tracker holds a copy. A tracker that fails once the run has begun is given up with
a warning, and costs no training.
"""
