"""Leases on GPUs, or on shares of the CPU, so that jobs of all runs of one COGITO_HOME never share a device.

A lease is a file lock, freed by the operating system when its owner dies.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from secrets import token_hex

import psutil
from filelock import BaseFileLock, FileLock, Timeout

from tasks.errors import Paused, StageError, UserError
from tasks.run_folder import Home

log = logging.getLogger("cogito.leases")

# On machines without a GPU the cores are dealt out to at most this many jobs at once.
MAX_CPU_JOBS = 4
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Device:
    """A leased device: a GPU by its index, or a share of the CPU with its number of threads."""

    kind: str
    index: str
    threads: int


# GPUs that no longer answered when a job on them had failed: this command leases them to no other.
lost_devices: set[Device] = set()
# How the names of commands begin, which are tags of their flow runs.
TAG = "process-"
# Set when this process was told to stop: nothing waits any longer and no job starts.
stopping = threading.Event()
# Set when it was told to save where it is and end: what runs may finish its step, and no job starts.
pausing = threading.Event()


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


@cache
def visible_devices() -> tuple[Device, ...]:
    """All devices of this machine that jobs can lease."""
    cores = usable_cores()
    gpus = _gpu_indices()
    if gpus:
        return tuple(Device("cuda", index, max(1, cores // len(gpus))) for index in gpus)
    jobs = min(cores, MAX_CPU_JOBS)
    return tuple(Device("cpu", str(number), max(1, cores // jobs)) for number in range(jobs))


def usable_cores() -> int:
    """Processor cores that this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return len(process.cpu_affinity() or [0])
    return os.cpu_count() or 1


@contextmanager
def lease_devices(home: Home, count: int = 1) -> Iterator[list[Device]]:
    """Hold `count` devices until the block ends; waits while they are taken.

    Raises:
        StageError: too few are left that answer, or this process was told to stop.
        Paused: it was told to pause.
    """
    with ExitStack() as held:
        leased: list[Device] = []
        # Only one asks at a time, so that a job that needs many devices is not starved by jobs that need one.
        with hold(home.lock("device-queue")):
            while len(leased) < count:
                if stopping.is_set():
                    raise StageError("interrupted")
                if pausing.is_set():
                    raise Paused("before it began")
                devices = [device for device in visible_devices() if device not in lost_devices]
                if count > len(devices):
                    gone = ", ".join(device.index for device in sorted(lost_devices, key=lambda one: one.index))
                    raise StageError(
                        f"GPU {gone} no longer answers, and {len(devices)} of the {count} needed are left; "
                        "what is done is saved; fix: look at it (`nvidia-smi`), then run the same command again"
                    )
                for device in devices:
                    if device in leased or len(leased) == count:
                        continue
                    lock = FileLock(home.leases / f"{device.kind}-{device.index}.lock")
                    try:
                        lock.acquire(timeout=0)
                    except Timeout:
                        continue
                    held.callback(lock.release)
                    leased.append(device)
                if len(leased) < count:
                    time.sleep(POLL_SECONDS)
        yield leased


@contextmanager
def lease_for_training(home: Home, processes: int) -> Iterator[list[Device]]:
    """Devices for one process each: that many GPUs, or the whole CPU shared out evenly."""
    devices = visible_devices()
    if devices[0].kind == "cuda":
        with lease_devices(home, processes) as leased:
            yield leased
        return
    with lease_devices(home, len(devices)):
        yield [Device("cpu", str(number), max(1, usable_cores() // processes)) for number in range(processes)]


def _gpu_indices() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return [index.strip() for index in named.split(",") if index.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]
