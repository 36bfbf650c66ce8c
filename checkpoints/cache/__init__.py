"""Downloaded files on this machine."""
