"""Cogito in Python: what a script or a notebook imports.

Importing this package is light; each name brings its libraries on first use. Examples: docs/python.md
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.checkpoints import load_checkpoint
    from models.text_encoder import load_encoder
    from tasks.log.check import check_log
    from tasks.log.experiment_log import read_log
    from tasks.spec.reading import load_spec

# Where each name lies.
_HOMES = {
    "check_log": "tasks.log.check",
    "load_checkpoint": "models.checkpoints",
    "load_encoder": "models.text_encoder",
    "load_spec": "tasks.spec.reading",
    "read_log": "tasks.log.experiment_log",
}

__all__ = ["check_log", "load_checkpoint", "load_encoder", "load_spec", "read_log"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'cogito' has no attribute {name!r}; allowed: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
