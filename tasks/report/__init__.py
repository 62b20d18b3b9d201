"""Reports of runs and sweeps, from records alone."""
