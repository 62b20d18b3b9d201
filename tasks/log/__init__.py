"""The Master Experiment Log: its rows, and the check of what it states."""
