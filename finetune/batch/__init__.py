"""Many runs from one file: each in a process of its own, on this machine, a Ray cluster or Slurm."""
