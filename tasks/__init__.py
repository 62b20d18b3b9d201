"""The stages of an experiment as plain functions; `tasks.stages` wraps them for Prefect."""
