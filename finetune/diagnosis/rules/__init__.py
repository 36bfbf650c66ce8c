"""The rules of a verdict, each from evidence to one cause."""
