"""Where and with what a run is made: machine, Git state, versions."""

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tasks.jobs.devices import visible_devices
from tasks.store.records import Environment

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "prefect", "numpy", "scipy", "scikit-learn")


def describe_environment(log: Path) -> Environment:
    """The environment of this process.

    Args:
        log: the experiment log, which every run rewrites; it does not make the working tree dirty.
    """
    return Environment(
        machine=machine_name(),
        platform=platform.platform(),
        python=platform.python_version(),
        gpus=[device.name for device in visible_devices() if device.kind == "cuda"],
        git_commit=_git("rev-parse", "HEAD"),
        git_dirty=_git_dirty(log),
        git_tag=_git("describe", "--tags", "--exact-match"),
        versions={name: _version(name) for name in PACKAGES},
    )


def machine_name() -> str:
    """COGITO_MACHINE, else the host's short name."""
    return os.environ.get("COGITO_MACHINE") or socket.gethostname().split(".")[0]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _git(*arguments: str) -> str | None:
    """The output of a Git command in the working directory; None outside a repository or without Git."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, encoding="utf-8", timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _git_dirty(log: Path) -> bool | None:
    top = _git("rev-parse", "--show-toplevel")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    if top is None or changes is None:
        return None
    changed = [Path(top, line[2:].strip().strip('"').split(" -> ")[-1]) for line in changes.splitlines()]
    return any(path.resolve() != log.resolve() for path in changed)
