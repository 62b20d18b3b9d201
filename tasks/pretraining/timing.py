"""Where the time of a training goes, and how much of the device it uses."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from tasks.store.records import Timing

Beside = Literal["evaluation", "checkpoints", "data_wait"]

# Dense products of bf16 on tensor cores with sums in fp32, in TFLOP/s, by whole words of the device's name: NVIDIA's
# nominal figures. A name stands before those that it contains.
PEAK_TFLOPS = {
    "RTX 3090 Ti": 80.0,
    "RTX 3090": 71.0,
    "RTX 4090": 165.2,
    "RTX A6000": 154.8,
    "A10": 125.0,
    "L4": 121.0,
    "L40S": 362.0,
    "A100": 312.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H200 NVL": 835.0,
    "H200": 989.4,
}


def peak_flops(device: str, precision: str) -> float | None:
    """What a device can do in a second by its data sheet; None for a CPU, an unknown GPU, or fp32."""
    found = (peak for name, peak in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", device))
    return next((peak * 1e12 for peak in found), None) if precision == "bf16" else None


class Clock:
    """Measures a training from its first step on, on one rank."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._spent: dict[Beside, float] = {"evaluation": 0.0, "checkpoints": 0.0, "data_wait": 0.0}

    @contextmanager
    def spends_on(self, what: Beside) -> Iterator[None]:
        """Count the time of a block as time that no step was computed in, or, for `data_wait`, waited for text."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent[what] += time.monotonic() - began

    @property
    def total(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._started

    def timing(self) -> Timing:
        """The seconds so far and what they were spent on."""
        training = self.total - self._spent["evaluation"] - self._spent["checkpoints"]
        return Timing(training=training, **self._spent)


def peak_memory() -> int | None:
    """The most bytes that tensors of this process took on its GPU at once; None on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
