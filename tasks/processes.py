"""Which process is meant: a pid alone may have been given to another since."""

import os
from collections.abc import Mapping

import psutil

# The kernel rounds the time of its start to seconds, and may round it otherwise a moment later.
TOLERANCE_SECONDS = 1.5
# The process that another one works for, in the environment of the latter.
OWNER_PID, OWNER_BORN = "COGITO_OWNER_PID", "COGITO_OWNER_BORN"


def birth(pid: int) -> float:
    """When a process was started, in seconds; with its pid it names that process to others.

    Counted from the machine's start, so that a clock which is set meanwhile changes nothing. Windows keeps the moment
    itself instead.

    Raises:
        psutil.NoSuchProcess: there is none.
    """
    created = psutil.Process(pid).create_time()  # anew: an object keeps what it saw before the clock was set
    return created if psutil.WINDOWS else created - psutil.boot_time()


def lives(pid: int, born: float) -> bool:
    """Whether the process that had this pid and `birth` still runs."""
    try:
        same = abs(birth(pid) - born) < TOLERANCE_SECONDS
        return same and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def own_mark() -> dict[str, str]:
    """What tells a child process whom it works for."""
    return {OWNER_PID: str(os.getpid()), OWNER_BORN: str(birth(os.getpid()))}


def owner_lives(environment: Mapping[str, str]) -> bool:
    """Whether the process that another one works for still lives; also true where none is named."""
    try:
        return lives(int(environment[OWNER_PID]), float(environment[OWNER_BORN]))
    except (KeyError, ValueError):
        return True  # started by hand
