"""How every benchmark measures: CPU-seconds of one thread, both sides in turn, and memory in a process of its own."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from tasks.jobs.launch import KEPT_MEMORY

P, R = ParamSpec("P"), TypeVar("R")
Step = Callable[[], object]
Spread = tuple[float, float, float]  # median, lowest, highest

# As in jobs on a CPU: with glibc's defaults, tensors of 32 MiB and more are mapped anew at every use.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": KEPT_MEMORY, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def fresh(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Call a function of a module in a process of its own, forked from one that has imported the models alone.

    Not from such a process: it would import them again.
    """
    os.environ |= ENVIRONMENT
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.step"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments, **named).result()


def spread(values: Iterable[float]) -> Spread:
    """Median, lowest and highest."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[0], ordered[-1]


def in_turn(steps: Mapping[str, Step], rounds: int, *, warm: bool = False) -> dict[str, list[float]]:
    """CPU-seconds of each step, taken in turn, after one of each that is not measured unless they are `warm`."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(warm, rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number:
                seconds[name].append(time.process_time() - start)
    return seconds


def ratio(other: Iterable[float], ours: Iterable[float]) -> Spread:
    """How many times as long the other takes: of each round, > 1 where ours is faster."""
    return spread(theirs / own for theirs, own in zip(other, ours, strict=True))


def peak_bytes() -> int:
    """Peak memory of this process (Linux); `getrusage` would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
