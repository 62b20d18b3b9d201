"""Proof that the GPU path works on this machine: `cogito doctor --gpu`, or `python -m tasks.gpu_check` by itself."""
