"""Catalogue rows: one for each published set of weights."""
