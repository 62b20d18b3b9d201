"""Cogito in Python: what a script or a notebook imports.

Importing this package is light; each name brings its libraries on first use. Examples: docs/python.md
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogito.interface import load_checkpoint, load_encoder
    from flows.in_python import run_evaluation, run_experiment
    from models.checkpoints import CheckpointError
    from tasks.errors import Paused, StageError, UserError
    from tasks.log.check import check_log
    from tasks.log.experiment_log import read_log
    from tasks.review.comparisons import compare
    from tasks.spec.reading import load_spec

# Where each name lies.
_NAMES = {
    "cogito.interface": ("load_checkpoint", "load_encoder"),
    "flows.in_python": ("run_evaluation", "run_experiment"),
    "models.checkpoints": ("CheckpointError",),
    "tasks.errors": ("Paused", "StageError", "UserError"),
    "tasks.log.check": ("check_log",),
    "tasks.log.experiment_log": ("read_log",),
    "tasks.review.comparisons": ("compare",),
    "tasks.spec.reading": ("load_spec",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "CheckpointError",
    "Paused",
    "StageError",
    "UserError",
    "check_log",
    "compare",
    "load_checkpoint",
    "load_encoder",
    "load_spec",
    "read_log",
    "run_evaluation",
    "run_experiment",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cogito' has no attribute {name!r}; allowed: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
