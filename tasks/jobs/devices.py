"""The devices of this machine: its GPUs, or shares of its CPU.

torch, which loads slowly, is imported where it is asked.
"""

import os
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import psutil

from tasks.errors import UserError
from tasks.jobs.gpus import find_gpus, takes_used

# On machines without a GPU the cores are dealt out to at most this many jobs at once; so many share a GPU at most.
MAX_CPU_JOBS, MAX_SHARED = 4, 4


@dataclass(frozen=True)
class Device:
    """A device that a job can lease: a GPU, or a share of the CPU.

    Attributes:
        index: its number, as nvidia-smi counts GPUs.
        threads: of the CPU, for the job.
        uuid: names a GPU in any process and order; a GPU without is named by its number.
        name: of the GPU's model.
        memory: bytes of the GPU; 0 where that is not known.
        share: bytes of it that a lease is for; None: all, it is leased to one job alone.
    """

    kind: Literal["cpu", "cuda"]
    index: str
    threads: int
    uuid: str = ""
    name: str = ""
    memory: int = field(default=0, compare=False)
    share: int | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """What CUDA_VISIBLE_DEVICES and its lease call it."""
        return self.uuid or self.index

    @property
    def most_jobs(self) -> int:
        """How many jobs can hold it at once: several on a GPU of known memory, if a core can feed each."""
        return min(self.threads, MAX_SHARED) if self.memory else 1


@cache
def visible_devices() -> tuple[Device, ...]:
    """All devices of this machine that jobs can lease.

    Raises:
        UserError: there are GPUs that cannot be used, and `--device cpu` was not requested.
    """
    cores, gpus = usable_cores(), find_gpus()
    if gpus:
        threads = max(1, cores // len(gpus))
        takes_used()  # refuses a misspelt setting before any work
        return tuple(Device("cuda", gpu.index, threads, gpu.uuid, gpu.name, gpu.total) for gpu in gpus)
    jobs = min(cores, MAX_CPU_JOBS)
    return tuple(Device("cpu", str(number), max(1, cores // jobs)) for number in range(jobs))


def most_jobs() -> int:
    """How many jobs can hold devices of this machine at once."""
    return sum(device.most_jobs for device in visible_devices())


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
