"""Models that Keras 2 saved, transferred to Keras 3: opened with `tf_keras`, which is imported for such files only."""
