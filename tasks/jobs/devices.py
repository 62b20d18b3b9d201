"""Leases on GPUs, or on shares of the CPU, so that jobs of all runs of one COGITO_HOME never share a device.

A lease is a file lock, freed by the operating system when its owner dies. torch, which loads slowly, is imported
where GPUs are counted.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import psutil
from filelock import FileLock, Timeout

from tasks.errors import Paused, StageError
from tasks.interruption import pausing, stopping
from tasks.store.home import Home
from tasks.store.locks import POLL_SECONDS, hold

log = logging.getLogger("cogito.leases")

# On machines without a GPU the cores are dealt out to at most this many jobs at once.
MAX_CPU_JOBS = 4


@dataclass(frozen=True)
class Device:
    """A leased device: a GPU by its index, or a share of the CPU with its number of threads."""

    kind: str
    index: str
    threads: int


# GPUs that did not respond after a job on them had failed; this command leases them no more.
lost_devices: set[Device] = set()


@cache
def visible_devices() -> tuple[Device, ...]:
    """All devices of this machine that jobs can lease."""
    cores = usable_cores()
    gpus = _gpu_indices()
    if gpus:
        return tuple(Device("cuda", index, max(1, cores // len(gpus))) for index in gpus)
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
    if mixed_precision != "bf16" or not emulates_bf16():
        return []
    return ["training.mixed_precision bf16: this CPU has no instructions for it, so it is emulated and slow; fix: auto"]


def usable_cores() -> int:
    """Processor cores that this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return len(process.cpu_affinity() or [0])
    return os.cpu_count() or 1


@contextmanager
def lease_devices(home: Home, count: int = 1) -> Iterator[list[Device]]:
    """Lease `count` devices until the block ends; waits while they are taken.

    Raises:
        StageError: too few devices respond, or the command was interrupted.
        Paused: a pause was requested.
    """
    with ExitStack() as held:
        leased: list[Device] = []
        # One job at a time takes devices, so that jobs that need one do not starve a job that needs many.
        with hold(home.lock("device-queue")):
            while len(leased) < count:
                if stopping.is_set():
                    raise StageError("interrupted")
                if pausing.is_set():
                    raise Paused("before it began")
                devices = [device for device in visible_devices() if device not in lost_devices]
                if count > len(devices):
                    gone = ", ".join(device.index for device in sorted(lost_devices, key=lambda device: device.index))
                    raise StageError(
                        f"GPU {gone} no longer responds, and {len(devices)} of the {count} needed are left; "
                        "finished work is saved; fix: check it with `nvidia-smi`, then run the same command again"
                    )
                for device in devices:
                    if device in leased or len(leased) == count:
                        continue
                    with suppress(Timeout):
                        held.enter_context(FileLock(home.leases / f"{device.kind}-{device.index}.lock", timeout=0))
                        leased.append(device)
                if len(leased) < count:
                    time.sleep(POLL_SECONDS)
        yield leased


@contextmanager
def lease_for_training(home: Home, processes: int) -> Iterator[list[Device]]:
    """Devices for one process each: that many GPUs, or the whole CPU shared out evenly."""
    on_gpu, threads = visible_devices()[0].kind == "cuda", max(1, usable_cores() // processes)
    with lease_devices(home, processes if on_gpu else len(visible_devices())) as leased:
        yield leased if on_gpu else [Device("cpu", str(number), threads) for number in range(processes)]


def _gpu_indices() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return [index.strip() for index in named.split(",") if index.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]
