"""Telling experiment trackers how a run goes: TensorBoard's event files, MLflow's store.

The run's own files are the record; a tracker is a copy of it for its users. So one that fails once the run has begun is
given up with a warning, and costs no training.
"""

from finetune.training.tracking.trackers import Trackers, absolute, check, opened

__all__ = ["Trackers", "absolute", "check", "opened"]
