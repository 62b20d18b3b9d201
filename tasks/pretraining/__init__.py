"""Pretraining: the stage, and the loop that every rank runs."""
