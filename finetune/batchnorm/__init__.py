"""BatchNorm as a value: which statistics normalise, whether they update, whether gamma and beta train."""
