"""The main job in two minutes, offline: bundled weights, generated images."""
