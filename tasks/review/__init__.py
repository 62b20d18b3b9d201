"""Runs beside each other: comparison, reproduction, rescoring, sweeps."""
