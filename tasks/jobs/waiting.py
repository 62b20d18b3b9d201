"""The line in which jobs wait for devices: first come, first served, except for short jobs that delay nobody.

A training that waits for all GPUs would leave those idle that are free before the last one. A job behind it may use
them if it ends before then (backfilling: Lifka 1995, The ANL/IBM SP scheduling system).
"""

import heapq
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.store.files import write_atomic

# What is assumed of a running job whose duration is not known: it goes on for so long. Shorter jobs pass a waiting
# one in the meantime, which they delay by no more than this.
UNKNOWN_SECONDS = 600.0

# How many seconds a job will take, about; None while nobody knows.
Expected = Callable[[], float | None]


def not_known() -> None:
    """The `Expected` of a job whose duration nobody knows."""


def last_end(seconds: Iterable[float], devices: int) -> float:
    """When the last of some jobs ends that start longest first, each on the device that is free first."""
    free = [0.0] * devices
    for job in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free)


def may_start(count: int, seconds: float | None, free: int, ahead: Sequence[int], ends: Sequence[float]) -> bool:
    """Whether a job may take devices now.

    Args:
        count: devices that it needs.
        seconds: how long it will need them; None where nobody knows.
        free: devices that are free.
        ahead: what each job needs that stands before it in the line.
        ends: seconds until each busy device is free.
    """
    for needed in ahead:
        if needed > free:
            break
        free -= needed  # that one starts by itself at any moment
    else:
        return count <= free
    if count > free or needed > free + len(ends):
        return False
    begins = sorted(ends)[needed - free - 1]
    spare = free + sum(end <= begins for end in ends) - needed
    return count <= spare or (seconds is not None and seconds <= begins)


class Line:
    """The line for the devices whose leases are taken under one lock.

    Attributes:
        lock: held while devices are counted and taken, never while a job waits.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.lock = FileLock(folder / "line.lock")

    @contextmanager
    def ticket(self, count: int) -> Iterator[Path]:
        """A place at the end of the line while the block runs; the system clears that of a process that was killed."""
        ticket = self._folder / f"{time.time_ns():020}-{os.getpid()}-{count}.ticket"
        try:
            with FileLock(ticket):
                yield ticket
        finally:
            with suppress(OSError):
                ticket.unlink(missing_ok=True)

    def ahead_of(self, ticket: Path) -> list[int]:
        """What each job needs that waits before this one."""
        counts = []
        for path in sorted(self._folder.glob("*.ticket")):
            if path.name >= ticket.name:
                break
            try:
                with FileLock(path).acquire(timeout=0):
                    pass
            except Timeout:
                counts.append(int(path.stem.rsplit("-", 1)[1]))
            else:
                with suppress(OSError):
                    path.unlink(missing_ok=True)  # its process was killed, or has just left the line
        return counts

    def note_end(self, device: str, seconds: float | None) -> None:
        """Remember when a device that was just leased will be free again."""
        write_atomic(self._folder / f"{device}.until", str(time.time() + (math.inf if seconds is None else seconds)))

    def seconds_left(self, device: str) -> float:
        """Seconds until a busy device is free; `UNKNOWN_SECONDS`, less what a job is late, where nobody knows."""
        try:
            left = float((self._folder / f"{device}.until").read_text()) - time.time()
        except (OSError, ValueError):
            return UNKNOWN_SECONDS
        if left == math.inf:
            return UNKNOWN_SECONDS
        return left if left > 0.0 else max(0.0, UNKNOWN_SECONDS + left)
