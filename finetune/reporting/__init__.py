"""What people would rather look at than read: self-contained pages, with plots; no TensorFlow."""
