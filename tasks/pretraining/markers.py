"""What training states on disk say of themselves, read without torch: which is whole, and how it was trained."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.store.files import file_sha256, read_json

log = logging.getLogger("cogito.training_state")

# A file of a state for each, beside the random states of its ranks.
PARTS = ("module", "optimizer", "scheduler")


def last_complete_state(folder: Path, identity: str, warn: Callable[[str], None] = log.warning) -> Path | None:
    """The newest state of this training whose marker is true, else None; `warn` hears of those that are skipped."""
    for state in sorted(folder.glob("step-*"), reverse=True):
        problem = _problem(state, identity)
        if problem is None:
            return state
        warn(f"training state {state} is skipped: {problem}")
    return None


def _problem(state: Path, identity: str) -> str | None:
    """Why training cannot go on from a state, or None."""
    try:
        facts = read_json(state / "complete.json")
        if facts["identity"] != identity:
            return "it is of another training"
        needed = {f"{part}.pt" for part in PARTS} | {f"random-{rank}.pt" for rank in range(facts["processes"])}
        if missing := sorted(needed - facts["files"].keys()):
            return f"its marker does not list {', '.join(missing)}"
        for name, known in facts["files"].items():
            size, sha256 = (known["size"], known["sha256"]) if isinstance(known, dict) else (known, None)
            if (state / name).stat().st_size != size:
                return f"{name} has {(state / name).stat().st_size} bytes instead of {size}"
            if sha256 is not None and file_sha256(state / name) != sha256:  # states of earlier versions have none
                return f"the SHA-256 of {name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it is incomplete or unreadable ({type(error).__name__}: {error})"
    return None


def newest_marker(folder: Path, identity: str | None = None) -> dict[str, Any] | None:
    """What the newest state says of itself, unread: identity, step, processes; None without one.

    Args:
        identity: of the training; None takes whatever is there.
    """
    for state in sorted(folder.glob("step-*"), reverse=True):
        try:
            facts = read_json(state / "complete.json")
            known = {"identity": str(facts["identity"]), **{name: int(facts[name]) for name in ("step", "processes")}}
            known |= {name: facts.get(name) for name in ("precision", "device")}  # states of earlier versions have none
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if identity in (None, known["identity"]):
            return known
    return None
