"""Experiment files and what they may state."""
