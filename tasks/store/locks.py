"""Locks between the commands that share a COGITO_HOME: on a run, and on being at work at all.

The operating system releases a lock when the process that holds it dies.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from filelock import BaseFileLock, FileLock, Timeout

from tasks.errors import UserError
from tasks.interruption import go_on
from tasks.store.home import Home

log = logging.getLogger("cogito.locks")

POLL_SECONDS = 0.2
# Prefix of a command's name, which is also a tag of its flow runs.
TAG = "process-"


@contextmanager
def hold(lock: BaseFileLock, what: str = "") -> Iterator[None]:
    """Hold a lock while the block runs. A stop or a pause ends the wait for it, but a free lock is always taken.

    Args:
        what: what the lock protects; logged once if another process holds it.

    Raises:
        StageError: this process was told to stop while it waited.
        Paused: this process was told to pause while it waited.
    """
    while True:
        try:
            lock.acquire(timeout=POLL_SECONDS)
            break
        except Timeout:
            go_on()
            if what:
                log.warning("another command works on %s: waiting for it", what)
                what = ""
    try:
        yield
    finally:
        lock.release()


def work_lock(home: Home, run_id: str) -> BaseFileLock:
    """The lock that a command holds while it works at a run; only its holder may write the record."""
    return home.lock(f"work-{run_id}")


@contextmanager
def hold_at_once(home: Home, run_id: str) -> Iterator[None]:
    """Hold the lock of a run while the block runs, without waiting for it.

    Raises:
        UserError: another command is working at the run.
    """
    try:
        lock = work_lock(home, run_id).acquire(timeout=0)
    except Timeout:
        raise UserError(f"{run_id}: another command works at it; fix: wait until that has ended") from None
    with lock:
        yield


@contextmanager
def active(home: Home, name: str = "") -> Iterator[str]:
    """Mark this process as at work in this home while the block runs.

    A lock file that outlives its process, after a kill or an error, tells the next start which flow runs to check
    in Prefect.

    Args:
        name: id of the flow run, if there is one already; its lock file is kept when the block raises. Default: a
            new name, which the caller gives to its flow runs as a tag.

    Yields:
        The name.
    """
    named = bool(name)
    name = name or f"{TAG}{os.getpid()}-{token_hex(3)}"
    lock = home.lock(f"active-{name}")
    path = Path(lock.lock_file)
    with lock:
        try:
            yield name
        except BaseException:
            if named:
                _forget(path)
            raise
        _forget(path)


def active_locks(home: Home) -> list[Path]:
    """The locks of commands, jobs and devices that a process holds now, which means that work is in progress."""
    if not home.root.is_dir():
        return []
    held = []
    for pattern in ("locks/active-*.lock", "locks/job-*.lock", "leases/*.lock"):
        for path in sorted(home.root.glob(pattern)):
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
                lock.release()
            except Timeout:
                held.append(path)
    return held


def end_lost_work(home: Home, end: Callable[[str], bool]) -> None:
    """Remove the locks of `active` whose process died.

    Args:
        end: is called with the name of each; where it returns False, the lock file is kept for the next start.
    """
    for path in sorted(home.locks.glob("active-*.lock")):
        lock = FileLock(path)
        try:
            with lock.acquire(timeout=0):
                if end(path.stem.removeprefix("active-")):
                    _forget(path)
        except Timeout:
            continue


def _forget(path: Path) -> None:
    """Remove a lock file while it is held, so that no other process mistakes it for a left one.

    Windows refuses this and removes the file on release.
    """
    with suppress(PermissionError):
        path.unlink(missing_ok=True)
