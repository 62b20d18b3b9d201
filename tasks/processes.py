"""Which process is meant: a pid alone may have been given to another since."""

import psutil

# The kernel rounds the time of its start to seconds, and may round it otherwise a moment later.
TOLERANCE_SECONDS = 1.5


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
