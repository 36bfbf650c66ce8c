"""Catalogue rows: one for each published set of weights, and for each network trained from scratch. No TensorFlow."""

from checkpoints.catalog.lookup import CATALOG, find_row
from checkpoints.catalog.spec import BackboneSpec

__all__ = ["CATALOG", "BackboneSpec", "find_row"]
