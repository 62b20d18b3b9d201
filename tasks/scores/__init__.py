"""Scores: their metrics, floors and intervals, and how a score is shown."""
