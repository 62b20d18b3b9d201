"""The concept-encoder family. Importing this package is light; torch is imported on first use."""

from importlib import import_module
from typing import Any

_HOMES = {"load_checkpoint": "models.checkpoints", "load_encoder": "models.text_encoder"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'models' has no attribute {name!r}")
