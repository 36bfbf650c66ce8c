"""A TensorFlow Hub module or SavedModel as a backbone."""
