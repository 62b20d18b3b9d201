"""Naming processes safely: a pid alone may by now belong to another process, so the start time is added."""

import os
from collections.abc import Mapping

import psutil

# The kernel rounds its boot time to seconds, and may round it differently a moment later.
TOLERANCE_SECONDS = 1.5
# Environment variables that name the process that a child works for.
OWNER_PID, OWNER_BORN = "COGITO_OWNER_PID", "COGITO_OWNER_BORN"


def birth(pid: int) -> float:
    """The start time of a process, in seconds; together with the pid it names that process.

    Counted from the machine's boot, so that setting the clock changes nothing; on Windows, the time itself.

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """
    created = psutil.Process(pid).create_time()  # a new object: an old one keeps the time from before the clock was set
    return created if psutil.WINDOWS else created - psutil.boot_time()


def lives(pid: int, born: float) -> bool:
    """Whether the process with this pid and `birth` still runs."""
    try:
        same = abs(birth(pid) - born) < TOLERANCE_SECONDS
        return same and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def own_mark() -> dict[str, str]:
    """Environment variables that tell a child process which process it works for."""
    return {OWNER_PID: str(os.getpid()), OWNER_BORN: str(birth(os.getpid()))}


def owner_lives(environment: Mapping[str, str]) -> bool:
    """Whether the process named in the environment still runs; True if none is named."""
    try:
        return lives(int(environment[OWNER_PID]), float(environment[OWNER_BORN]))
    except (KeyError, ValueError):
        return True  # started by hand
