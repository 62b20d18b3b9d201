"""The line in which jobs wait for devices: first come, first served, except for jobs that delay nobody.

A training that waits for all GPUs would leave those idle that are free before the last one. A job behind it may use
them if it ends before then (EASY backfilling: Lifka 1995, The ANL/IBM SP scheduling system). In the same way a cell
joins others on a GPU.
"""

import heapq
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.store.files import read_json, write_atomic, write_json

# What is assumed of a running job whose duration is not known: it goes on for so long. Shorter jobs pass a waiting
# one in the meantime, which they delay by no more than this.
UNKNOWN_SECONDS = 600.0


@dataclass(frozen=True)
class Need:
    """What a job needs of a device.

    Attributes:
        seconds: how long it will take, about; None where nobody knows.
        memory: bytes of a GPU with which it is content beside others; None: it needs the device alone.
    """

    seconds: float | None = None
    memory: int | None = None


# What a job needs, asked now and then while it waits.
Asked = Callable[[], Need]


def last_end(seconds: Iterable[float], devices: int) -> float:
    """When the last of some jobs ends that start longest first, each on the device that is free first."""
    free = [0.0] * devices
    for job in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free)


def may_start(count: int, seconds: float | None, free: int, ahead: Sequence[int], ends: Sequence[float]) -> bool:
    """Whether a job may take free devices now.

    Args:
        count: devices that it needs.
        seconds: how long it will need them; None where nobody knows.
        free: devices that are free.
        ahead: what each job needs that stands before it in the line.
        ends: seconds until each busy device is free.
    """
    busy = [*ends, *[math.inf if seconds is None else seconds] * count]
    return _delays_nobody(ahead, (free, ends), (free - count, busy))


def may_join(seconds: float | None, end: float, free: int, ahead: Sequence[int], ends: Sequence[float]) -> bool:
    """Whether a job may go to a device that is busy until `end`, one of `ends`; the rest as in `may_start`."""
    busy = list(ends)
    busy[busy.index(end)] = max(end, math.inf if seconds is None else seconds)
    return _delays_nobody(ahead, (free, ends), (free, busy))


@dataclass(frozen=True)
class Load:
    """A device as a job finds it that wants one.

    Attributes:
        jobs: what those need that hold it; none where it is free.
        most_jobs: so many may hold it at once.
        room: bytes of its memory that they may state together.
        taken: bytes of its memory that are taken now, perhaps by others too.
    """

    jobs: Sequence[Need]
    most_jobs: int = 1
    room: float = 0.0
    taken: int = 0

    @property
    def end(self) -> float:
        """Seconds until it is free."""
        return max((job.seconds or 0.0 for job in self.jobs), default=0.0)

    def fits(self, need: Need) -> bool:
        """Whether a job fits beside those that hold it, none of which asked to have it alone."""
        stated = [job.memory for job in (*self.jobs, need) if job.memory is not None]
        if len(stated) <= len(self.jobs) or len(stated) > self.most_jobs:
            return False
        return max(sum(stated), self.taken + stated[-1]) <= self.room


def choose(count: int, need: Need, ahead: Sequence[int], loads: Sequence[Load]) -> list[int]:
    """The places among `loads` of the devices that a job may take now: free ones, else one that it shares; or none.

    Args:
        count, ahead: as in `may_start`.
    """
    free = [place for place, load in enumerate(loads) if not load.jobs]
    ends = [load.end for load in loads if load.jobs]
    if may_start(count, need.seconds, len(free), ahead, ends):
        return free[:count]
    joined = [
        place
        for place, load in enumerate(loads)
        if load.jobs and load.fits(need) and may_join(need.seconds, load.end, len(free), ahead, ends)
    ]
    return sorted(joined, key=lambda place: len(loads[place].jobs))[:1]


def _delays_nobody(ahead: Sequence[int], now: tuple[int, Sequence[float]], then: tuple[int, Sequence[float]]) -> bool:
    """Whether those ahead begin no later with the free devices and the ends of `then` than with those of `now`."""
    (free, ends), (left, busy) = now, then
    for needed in ahead:
        if needed > free:
            return left >= 0 and _begin(needed, left, busy) <= _begin(needed, free, ends) < math.inf
        free, left = free - needed, left - needed  # that one starts by itself at any moment
    return left >= 0


def _begin(needed: int, free: int, ends: Sequence[float]) -> float:
    """Seconds until so many devices are free; infinite where there are not so many."""
    if needed <= free:
        return 0.0
    return sorted(ends)[needed - free - 1] if needed - free <= len(ends) else math.inf


class Ticket:
    """A place in the line; its file is locked while its job stands there.

    Args:
        path: names the moment at which the job came, its process, and how many devices it needs.
        devices: those that it can take, by their keys.
    """

    def __init__(self, path: Path, devices: Sequence[str]) -> None:
        self.path, self._lock, self._devices = path, FileLock(path), devices

    def stand(self) -> None:
        """Stand in the line, at the place of the moment at which the job came."""
        if not self._lock.is_locked:
            self._lock.acquire()
            write_atomic(self.path.with_suffix(".devices"), "\n".join(self._devices))

    def leave(self) -> None:
        """Leave the line, for good or to stand at the same place again."""
        self._lock.release()
        remove_ticket(self.path)


def remove_ticket(path: Path) -> None:
    """Remove the files of a ticket that nobody holds."""
    for left in (path, path.with_suffix(".devices")):
        with suppress(OSError):
            left.unlink(missing_ok=True)


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
    def ticket(self, count: int, devices: Sequence[str]) -> Iterator[Ticket]:
        """A place at the end of the line while the block runs; the system clears that of a process that was killed."""
        ticket = Ticket(self._folder / f"{time.time_ns():020}-{os.getpid()}-{count}.ticket", devices)
        try:
            ticket.stand()
            yield ticket
        finally:
            ticket.leave()

    def ahead_of(self, ticket: Ticket, devices: Sequence[str]) -> list[int]:
        """How many of these devices each job needs that waits before this one, without those that can take none."""
        counts = []
        for path in sorted(self._folder.glob("*.ticket")):
            if path.name >= ticket.path.name:
                break
            try:
                with FileLock(path).acquire(timeout=0):
                    pass
            except Timeout:
                counts.append(min(int(path.stem.rsplit("-", 1)[1]), self._in_common(path, devices)))
            else:
                remove_ticket(path)  # its process was killed, or has just left the line
        return [count for count in counts if count]

    @staticmethod
    def _in_common(ticket: Path, devices: Sequence[str]) -> int:
        try:
            return len(set(devices).intersection(ticket.with_suffix(".devices").read_text().split("\n")))
        except OSError:  # it has just come
            return len(devices)

    @contextmanager
    def noted(self, place: str, need: Need) -> Iterator[None]:
        """Tell while the block runs what the holder of a place on a device, which was just leased, needs."""
        note = self._folder / f"{place}.held"
        write_json(note, {"until": None if need.seconds is None else time.time() + need.seconds, "memory": need.memory})
        try:
            yield
        finally:
            with suppress(OSError):
                note.unlink(missing_ok=True)

    def held(self, place: str) -> Need | None:
        """The seconds until a place is free, and its memory; None where nobody holds it.

        Where nobody knows the end it is `UNKNOWN_SECONDS` ahead; of a job that is late, less what it is late.
        """
        try:
            noted = read_json(self._folder / f"{place}.held")
            until, memory = noted["until"], noted["memory"]
            left = UNKNOWN_SECONDS if until is None else float(until) - time.time()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError):
            return Need(UNKNOWN_SECONDS)
        return Need(left if left > 0.0 else max(0.0, UNKNOWN_SECONDS + left), memory)
