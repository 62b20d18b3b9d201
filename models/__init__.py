"""The concept-encoder family. Importing this package is light; torch is imported on first use."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "load_checkpoint":
        from models.checkpoints import load_checkpoint

        return load_checkpoint
    if name == "load_encoder":
        from models.text_encoder import load_encoder

        return load_encoder
    raise AttributeError(f"module 'models' has no attribute {name!r}")
