"""Pretrained weights: where they are published, how they are fetched, read and assigned."""
