"""The rules that turn evidence into a cause."""
