"""A run: what is asked for, its directory, its data and its model opened again."""
