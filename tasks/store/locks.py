"""Locks between the commands of one COGITO_HOME: who works at a run, and who works here at all.

The operating system frees them when their owner dies.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from filelock import BaseFileLock, FileLock, Timeout

from tasks.errors import Paused, StageError, UserError
from tasks.interruption import pausing, stopping
from tasks.store.home import Home

log = logging.getLogger("cogito.locks")


POLL_SECONDS = 0.2
# How the names of commands begin, which are tags of their flow runs.
TAG = "process-"


@contextmanager
def hold(lock: BaseFileLock, what: str = "") -> Iterator[None]:
    """Hold a lock; waiting for it ends when this process is told to stop. One that is free is taken all the same.

    Args:
        what: said once if another process holds it.

    Raises:
        StageError: this process was told to stop.
        Paused: it was told to pause.
    """
    while True:
        try:
            lock.acquire(timeout=POLL_SECONDS)
            break
        except Timeout:
            if stopping.is_set():
                raise StageError("interrupted") from None
            if pausing.is_set():
                raise Paused("before it began") from None
            if what:
                log.warning("another command works on %s: waiting for it", what)
                what = ""
    try:
        yield
    finally:
        lock.release()


def work_lock(home: Home, run_id: str) -> BaseFileLock:
    """What a command holds as long as it works at a run: its record is nobody else's to write."""
    return home.lock(f"work-{run_id}")


@contextmanager
def hold_at_once(home: Home, run_id: str) -> Iterator[None]:
    """Hold the lock of a run that nobody works at.

    Raises:
        UserError: somebody does.
    """
    try:
        lock = work_lock(home, run_id).acquire(timeout=0)
    except Timeout:
        raise UserError(f"{run_id}: another command works at it; fix: wait until that has ended") from None
    with lock:
        yield


@contextmanager
def active(home: Home, name: str = "") -> Iterator[str]:
    """Be known as somebody who works in this home, until the block or this process ends.

    What is left of a lock after a kill or an error tells the next start which flow runs to look at in Prefect.

    Args:
        name: id of the flow run, whose end somebody else sees too; default a new name, to be taken before there is a
            flow run and given to it as a tag.

    Yields:
        The name.
    """
    named = bool(name)
    name = name or f"{TAG}{os.getpid()}-{token_hex(3)}"
    path = home.locks / f"active-{name}.lock"
    with FileLock(path):
        try:
            yield name
        except BaseException:
            if named:
                _forget(path)
            raise
        _forget(path)


def active_locks(home: Home) -> list[Path]:
    """The locks that only work in progress holds: of runs, of jobs and of devices."""
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
    """Remove the locks of runs whose process died.

    Args:
        end: told the name of each; False keeps the lock for another time.
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
    """Remove a lock file while it is held, so that nobody takes it for one that was left; Windows does on release."""
    with suppress(PermissionError):
        path.unlink(missing_ok=True)
