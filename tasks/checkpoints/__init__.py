"""Checkpoints: finding, publishing, converting and using them."""
