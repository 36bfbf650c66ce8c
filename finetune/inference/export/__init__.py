"""Exports: a finished run in the file formats of other programs. Each format is one module, `to_<format>`."""
