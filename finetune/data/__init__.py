"""Images and labels: where they come from, how they are prepared, and the batches they are served in."""
