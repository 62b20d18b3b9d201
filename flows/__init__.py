"""The command line and the two Prefect flows."""
