"""A run's settings: what each may be, presets, contradictions. No TensorFlow."""
