"""What a training takes on this machine and on the lab's GPU, estimated from its operations.

torch loads slowly, so this module is imported by commands that need it.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import psutil
import torch

from tasks.forecast.history import achieved_flops, known_corpus
from tasks.jobs.devices import visible_devices
from tasks.pretraining.cost import StepMemory, step_memory
from tasks.pretraining.timing import peak_flops
from tasks.runs.environment import machine_name
from tasks.spec.experiment import ExperimentSpec, training_steps
from tasks.store.home import Home

# The part of its peak that a training is assumed to reach on a device without a history, from and to: of a GPU's peak
# by its data sheet, and of the products of large matrices that a CPU was just seen to compute.
ASSUMED_UTILISATION = {"cuda": (0.10, 0.45), "cpu": (0.15, 0.80)}
# In a job on a CPU: bytes of the libraries of a process, and how many times the tensors' bytes the allocator takes,
# which keeps what it has freed. Both are measured (docs/benchmarks.md).
LIBRARIES, KEPT = 410 * 10**6, 1.35
BILLION = 10**9


@dataclass(frozen=True)
class Machine:
    """What a training would run on.

    Attributes:
        device: the name of its GPUs, or what is known of its CPU.
        processes: of the training.
        memory: bytes of a GPU, or of the whole machine; zero where they are not known.
    """

    kind: Literal["cpu", "cuda"]
    device: str
    processes: int
    memory: int


# The lab trains on these.
LAB_GPU = Machine("cuda", "NVIDIA GeForce RTX 3090", 1, 24 * 2**30)


def this_machine() -> Machine:
    """Every GPU of this machine, or one process on its CPU.

    Raises:
        UserError: there are GPUs that cannot be used.
    """
    first, *others = visible_devices()
    if first.kind == "cuda":
        return Machine("cuda", first.name, 1 + len(others), first.memory)
    return Machine("cpu", "this CPU", 1, psutil.virtual_memory().total)


@dataclass(frozen=True)
class Room:
    """The memory that a training needs on a machine.

    Attributes:
        tensors: those of a process at the peak of a step.
    """

    machine: Machine
    tensors: StepMemory

    @property
    def needed(self) -> int:
        """Bytes of a process; on a CPU with libraries, allocator, and the copy of a state that is being written."""
        if self.machine.kind == "cuda":
            return self.tensors.total
        return round(LIBRARIES + KEPT * self.tensors.total) + self.tensors.weights + self.tensors.optimizer

    @property
    def warning(self) -> str | None:
        """What to change where the memory does not suffice; None where it does, or is not known."""
        memory = self.machine.memory
        if not memory or self.needed <= memory:
            return None
        fix = "a lower training.per_device_batch_size; a step keeps its blocks"
        if self.needed - self.tensors.working > memory:
            fix = "a lower model.hidden_size or model.num_layers, or a smaller vocabulary"
        needed = f"memory: a training step needs about {size_text(self.needed)}"
        return f"{needed}; {self.machine.device} has {size_text(memory)}; fix: {fix}"


@dataclass(frozen=True)
class Estimate:
    """What a training takes on a machine.

    Attributes:
        source: where the speed comes from, or why it is not known.
        tokens: of the whole training; None where the text was not prepared before.
        seconds: range of the time in steps: of all tokens or, where their number is not known, of a billion.
    """

    room: Room
    precision: str
    source: str
    tokens: int | None
    seconds: tuple[float, float] | None

    def as_json(self) -> dict[str, Any]:
        """The estimate as JSON takes it."""
        room = asdict(self.room) | {"needed": self.room.needed, "warning": self.room.warning}
        return asdict(self) | {"room": room}

    def lines(self) -> list[str]:
        """The estimate in words."""
        machine, tensors = self.room.machine, self.room.tensors
        name = machine.device if machine.processes == 1 else f"{machine.processes} x {machine.device}"
        parts = {name: size for name, size in asdict(tensors).items() if size}
        held = ", ".join(f"{part} {size_text(size)}" for part, size in parts.items())
        has = f" of {size_text(machine.memory)}" if machine.memory else ""
        text = [f"{name}, {self.precision}: {size_text(self.room.needed)}{has} memory for a process ({held})"]
        if self.seconds is None:
            return [*text, f"{name}: time not known: {self.source}"]
        low, high = map(time_text, self.seconds)
        work = "a billion tokens (the text was not prepared here before)"
        if self.tokens is not None:
            work = f"{self.tokens / 1e6:,.1f} M tokens"
        return [
            *text,
            f"{name}: {low if low == high else f'{low} to {high}'} for {work}, in steps alone; {self.source}",
        ]


def estimates(spec: ExperimentSpec, config: Mapping[str, Any], flops: float, home: Home) -> list[Estimate]:
    """What the training of a spec takes on this machine and, if that is another, on the lab's GPU.

    Args:
        config: arguments of `ConceptConfig`.
        flops: for each token.

    Raises:
        UserError: there are GPUs that cannot be used.
    """
    here = this_machine()
    machines = [here] if here.device == LAB_GPU.device else [here, LAB_GPU]
    return [_estimate(spec, config, flops, home, machine) for machine in machines]


def room(spec: ExperimentSpec, config: Mapping[str, Any], machine: Machine) -> Room:
    """The memory that the training of a spec needs on a machine."""
    return Room(machine, step_memory(spec, config, machine.kind, machine.processes))


def _estimate(spec: ExperimentSpec, config: Mapping[str, Any], flops: float, home: Home, machine: Machine) -> Estimate:
    precision = spec.training.precision_on(machine.kind)
    speed, source = speed_of(home, flops, machine, precision)
    tokens, corpus, seconds = None, known_corpus(home, spec), None
    if corpus is not None or spec.training.max_steps is not None:
        steps = training_steps(spec, corpus.train_blocks if corpus else BILLION)
        tokens = steps * spec.training.global_batch_size * spec.data.block_tokens
    if speed is not None:
        work = (tokens or BILLION) * flops / machine.processes
        seconds = work / speed[1], work / speed[0]
    return Estimate(room(spec, config, machine), precision, source, tokens, seconds)


def speed_of(home: Home, flops: float, machine: Machine, precision: str) -> tuple[tuple[float, float] | None, str]:
    """The range of FLOP/s of a process, and its source."""
    device, on_cpu = machine.device, machine.kind == "cpu"
    known = achieved_flops(home, machine_name(), "CPU" if on_cpu else device, precision, flops)
    if known:
        return (min(known), max(known)), f"as {len(known)} past training{'s' if len(known) > 1 else ''} of this home"
    peak = _product_rate(precision) if on_cpu else peak_flops(device, precision)
    if peak is None:
        return None, f"its peak in {precision} is not known, and no training of this home ran on it"
    low, high = ASSUMED_UTILISATION[machine.kind]
    of = "what its matrix products reach now" if on_cpu else "its dense peak"
    return (low * peak, high * peak), f"assuming {low:.0%} to {high:.0%} of {of}, {peak / 1e12:,.3g} TFLOP/s"


def _product_rate(precision: str) -> float:
    """FLOP/s of products of matrices of 1,024 x 1,024 on this CPU, the best of three."""
    size = 1024
    a = torch.ones(size, size, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times[1:])


def size_text(size: float) -> str:
    """A size in GB, or in MB below one."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def time_text(seconds: float) -> str:
    """A time in the unit that suits it, in two digits."""
    units = ("days", 172_800, 86_400), ("h", 5_400, 3_600), ("min", 90, 60), ("s", 0, 1)
    unit, length = next((unit, length) for unit, least, length in units if seconds >= least)
    return f"{float(f'{seconds / length:.2g}'):,g} {unit}"
