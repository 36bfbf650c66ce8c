"""The readers of data: one module per kind."""
