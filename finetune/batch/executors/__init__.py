"""Where the jobs of a batch run: in processes here, or on Ray."""
