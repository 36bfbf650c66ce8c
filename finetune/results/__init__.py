"""What finished runs came to: read from their files, without TensorFlow where the run kept its predictions."""
