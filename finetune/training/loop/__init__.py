"""The training loop. It knows no run directory and no command line."""
