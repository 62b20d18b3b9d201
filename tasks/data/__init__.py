"""Data sets, tokenizers, corpora and task data."""
