"""Which network a checkpoint fits, and the strict transfer of its variables."""
