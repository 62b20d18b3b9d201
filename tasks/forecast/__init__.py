"""What an experiment will take before it runs: time, memory, disk."""
