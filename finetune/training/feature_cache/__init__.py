"""Features of frozen layers, computed once per image and kept on disk for every run that needs the same ones."""
