"""The training loop. It knows neither run directories nor the command line: it reports through an Observer."""
