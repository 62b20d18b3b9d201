"""Concept analysis: the stage, and the job that measures."""
