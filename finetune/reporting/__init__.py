"""Reports on finished runs: from run directories to JSON, and from JSON to pages and model cards. No TensorFlow."""
