"""Leases on GPUs, or on shares of the CPU, so that no two jobs share a device.

A lease is a file lock, freed by the operating system when its owner dies. Shares of the CPU are leased within one
COGITO_HOME on one host; GPUs on the whole host, whatever homes its user has there. GPUs that other programs use are
left to them. torch, which loads slowly, is imported where it is asked.
"""

import getpass
import logging
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock, Timeout

from tasks.errors import StageError, UserError
from tasks.interruption import go_on
from tasks.jobs.gpus import find_gpus, others_use
from tasks.jobs.waiting import Expected, Line, may_start, not_known
from tasks.store.home import PRIVATE, Home
from tasks.store.locks import POLL_SECONDS, hold

log = logging.getLogger("cogito.leases")

# On machines without a GPU the cores are dealt out to at most this many jobs at once.
MAX_CPU_JOBS = 4
# A job far back in the line waits so many times POLL_SECONDS between two looks at most.
SELDOM = 10
# Seconds between two looks at the GPUs that other programs use.
LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Device:
    """A device that a job can lease: a GPU, or a share of the CPU.

    Attributes:
        index: its number, as nvidia-smi counts GPUs.
        threads: of the CPU, for the job.
        uuid: names a GPU in any process and order; a GPU without is named by its number.
        name: of the GPU's model.
        memory: bytes of a GPU; zero where they are not known.
    """

    kind: Literal["cpu", "cuda"]
    index: str
    threads: int
    uuid: str = ""
    name: str = ""
    memory: int = 0

    @property
    def key(self) -> str:
        """What CUDA_VISIBLE_DEVICES and its lease call it."""
        return self.uuid or self.index


# GPUs that did not respond after a job on them had failed; this command leases them no more.
lost_devices: set[Device] = set()


@cache
def visible_devices() -> tuple[Device, ...]:
    """All devices of this machine that jobs can lease.

    Raises:
        UserError: there are GPUs that cannot be used, and `--device cpu` was not requested.
    """
    cores, gpus = usable_cores(), find_gpus()
    if gpus:
        threads = max(1, cores // len(gpus))
        return tuple(Device("cuda", gpu.index, threads, gpu.uuid, gpu.name, gpu.total) for gpu in gpus)
    jobs = min(cores, MAX_CPU_JOBS)
    return tuple(Device("cpu", str(number), max(1, cores // jobs)) for number in range(jobs))


@cache
def emulates_bf16() -> bool:
    """Whether jobs run on a CPU that has no instructions for bf16, as far as torch can tell."""
    if visible_devices()[0].kind != "cpu":
        return False
    import torch

    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # earlier versions of torch do not tell
    return bool(known) and not any(has for name, has in known.items() if "bf16" in name)


def precision_warnings(mixed_precision: str) -> list[str]:
    """What is worth knowing of a requested precision on this machine."""
    try:
        if mixed_precision != "bf16" or not emulates_bf16():
            return []
    except UserError as error:
        return [str(error)]
    return ["training.mixed_precision bf16: this CPU has no instructions for it, so it is emulated and slow; fix: auto"]


def usable_cores() -> int:
    """Processor cores that this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return len(process.cpu_affinity() or [0])
    return os.cpu_count() or 1


@contextmanager
def lease_devices(home: Home, count: int = 1, expected: Expected = not_known) -> Iterator[list[Device]]:
    """Lease `count` devices until the block ends; waits while they are taken.

    Args:
        expected: how long they will be needed, asked now and then.

    Raises:
        StageError: too few devices respond, or the command was interrupted.
        Paused: a pause was requested.
    """
    home.create()
    on_gpu, told, asked, seconds = visible_devices()[0].kind == "cuda", False, -math.inf, None
    line = Line(_host_leases() / "line" if on_gpu else home.leases / f"line-{_host()}")
    with ExitStack() as held:
        with line.ticket(count) as ticket:
            while True:
                go_on()
                if time.monotonic() - asked > LOOK_SECONDS:
                    seconds, asked = expected(), time.monotonic()
                ahead = line.ahead_of(ticket)
                leased, foreign = _take(home, count, seconds, line, ahead, held)
                if leased:
                    break
                if foreign and not told:
                    told = True
                    others = "; ".join(f"GPU {device.index}: {who}" for device, who in foreign.items())
                    log.warning(
                        "waits for a GPU that other programs use (%s); fix: end them, or leave it out by "
                        "CUDA_VISIBLE_DEVICES",
                        others,
                    )
                # Those at the end of a long line look less often.
                time.sleep(LOOK_SECONDS if foreign else POLL_SECONDS * min(1 + len(ahead), SELDOM))
        yield leased


def _take(
    home: Home, count: int, seconds: float | None, line: Line, ahead: list[int], held: ExitStack
) -> tuple[list[Device], dict[Device, str]]:
    """Lease `count` devices if this job may start, none otherwise; and which only other programs keep, with who."""
    devices = [device for device in visible_devices() if device not in lost_devices]
    if count > len(devices):
        gone = ", ".join(device.index for device in sorted(lost_devices, key=lambda device: device.index))
        raise StageError(
            f"GPU {gone} no longer responds, and {len(devices)} of the {count} needed are left; "
            "finished work is saved; fix: check it with `nvidia-smi`, then run the same command again"
        )
    with hold(line.lock), ExitStack() as unused:
        free: dict[Device, ExitStack] = {}
        for device in devices:
            with suppress(Timeout), ExitStack() as taken:
                for lock in _locks(home, device):
                    taken.enter_context(lock.acquire(timeout=0))
                free[device] = unused.enter_context(taken.pop_all())
        if count > len(free):
            return [], {}
        ends = [line.seconds_left(device.key) for device in devices if device not in free]
        if not may_start(count, seconds, len(free), ahead, ends):
            return [], {}
        used = others_use() if any(device.uuid for device in free) else {}
        foreign = {device: used[device.uuid] for device in free if device.uuid in used}  # of no job: its lease was free
        usable = [device for device in free if device not in foreign]
        if foreign and not may_start(count, seconds, len(usable), ahead, ends):
            return [], foreign
        for device in usable[:count]:
            held.push(free[device].pop_all())
            line.note_end(device.key, seconds)
        return usable[:count], foreign


def _locks(home: Home, device: Device) -> list[FileLock]:
    """What the holder of a device holds: within the home, where it counts as work, and for a GPU on the whole host."""
    own = FileLock(home.leases / f"{_host()}-{device.kind}-{device.key}.lock")
    return [own] if device.kind == "cpu" else [own, FileLock(_host_leases() / f"{device.key}.lock")]


def _host() -> str:
    """The name of this host: a home may lie on a disk that several share."""
    return socket.gethostname().split(".")[0]


def _host_leases() -> Path:
    """The folder of the locks on the GPUs of this host: one for all homes of a user; nvidia-smi tells of other users.

    Raises:
        UserError: somebody else owns a folder of its name.
    """
    user = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir()) / f"cogito-{user}"
    folder.mkdir(mode=PRIVATE, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: belongs to another account, and holds the locks on GPUs; fix: remove it, or TMPDIR")
    (folder / _host()).mkdir(exist_ok=True)
    return folder / _host()


@contextmanager
def lease_for_training(home: Home, processes: int) -> Iterator[list[Device]]:
    """Devices for one process each: that many GPUs, or the whole CPU shared out evenly."""
    on_gpu, threads = visible_devices()[0].kind == "cuda", max(1, usable_cores() // processes)
    with lease_devices(home, processes if on_gpu else len(visible_devices())) as leased:
        yield leased if on_gpu else [Device("cpu", str(number), threads) for number in range(processes)]
