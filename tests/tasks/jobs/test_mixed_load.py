"""Cells and trainings of 1, 2 and 4 GPUs on four of them: simulated with the rule of the line, and in real processes.

What must hold: no two jobs on a GPU where one was asked, no GPU idle while a job waits that could use it, and a
training that starts no later than its reservation.
"""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from command import ROOT
from fake_gpus import FakeGpus, uuid
from hypothesis import given
from hypothesis import strategies as st

from tasks.jobs.waiting import UNKNOWN_SECONDS, Load, Need, choose

GPUS, GB, ROOM, MOST = 4, 10**9, 21.6, 4
# So much of the GPUs' time may be lost to looking now and then, and so many seconds a reservation may be late by it.
IDLE_PART, SLACK = 0.02, 1.0


@dataclass
class Task:
    """A job of the load; `expected` is what the line is told of its duration, at least what it takes, or nothing."""

    number: int
    comes: float
    count: int
    seconds: float
    expected: float | None
    memory: int | None
    on: list[int] = field(default_factory=list)
    begins: float = math.inf
    ends: float = math.inf
    bound: float = math.inf

    def need(self, now: float) -> Need:
        left = UNKNOWN_SECONDS if self.expected is None else self.begins + self.expected - now
        return Need(left, self.memory)


@dataclass
class Host:
    """Four GPUs and a line, by the product's rule; moments are exact."""

    line: list[Task]
    now: float = 0.0
    done: list[Task] = field(default_factory=list)
    running: list[Task] = field(default_factory=list)

    def loads(self) -> list[Load]:
        jobs = [[task.need(self.now) for task in self.running if gpu in task.on] for gpu in range(GPUS)]
        return [Load(held, MOST, ROOM * GB) for held in jobs]

    def run(self) -> None:
        waiting: list[Task] = []
        while self.line or waiting or self.running:
            moments = [task.ends for task in self.running] + [task.comes for task in self.line[:1]]
            self.now = max(self.now, min(moments))
            self.done += [task for task in self.running if task.ends <= self.now]
            self.running = [task for task in self.running if task.ends > self.now]
            while self.line and self.line[0].comes <= self.now:
                waiting.append(self.line.pop(0))
            while any(self.start(task, waiting) for task in waiting):
                pass
            if waiting and waiting[0].bound == math.inf:
                waiting[0].bound = self.reservation(waiting[0].count)

    def start(self, task: Task, waiting: list[Task]) -> bool:
        ahead = [other.count for other in waiting[: waiting.index(task)]]
        chosen = choose(task.count, Need(task.expected, task.memory), ahead, self.loads())
        if chosen:
            task.on, task.begins, task.ends = chosen, self.now, self.now + task.seconds
            self.running.append(task)
            waiting.remove(task)
        return bool(chosen)

    def reservation(self, count: int) -> float:
        """When the first in the line starts at the latest: by what is said of those that run; see docs/gpus.md."""
        if any(task.expected is None for task in self.running):
            return max(task.ends for task in self.running) + UNKNOWN_SECONDS
        return self.now + sorted(load.end for load in self.loads())[count - 1]


loads = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 2, 4]),
        st.floats(1, 700),
        st.none() | st.floats(1, 1.5),
        st.floats(0, 200),
        st.integers(0, 12),
    ),
    min_size=1,
    max_size=30,
)


@given(loads)
def test_a_mixed_load_by_the_rule(drawn: list[tuple[int, float, float | None, float, int]]) -> None:
    """Cells state memory of some GB or, with 0, want a GPU alone; trainings want theirs alone."""
    tasks, comes = [], 0.0
    for number, (count, seconds, over, gap, memory) in enumerate(drawn):
        comes += gap / 4
        stated = memory * GB if count == 1 and memory else None
        tasks.append(Task(number, comes, count, seconds, over and seconds * over, stated))
    host = Host(list(tasks))
    host.run()
    assert len(host.done) == len(tasks)
    for task in tasks:
        assert task.begins <= task.bound + 1e-6
    check_together([(task.begins, task.ends, task.on, task.memory) for task in tasks], room=ROOM * GB)
    assert idle_seconds(tasks) < 1e-6


def check_together(held: Sequence[tuple[float, float, list[int], int | None]], room: float) -> None:
    """At every start: a job that asked for a GPU alone has it alone, and others fit together."""
    for begins, _, on, _ in held:
        for gpu in on:
            beside = [memory for b, e, gpus, memory in held if gpu in gpus and b <= begins < e]
            if len(beside) > 1:
                assert None not in beside, f"two jobs on GPU {gpu} at {begins}, one of which asked for it alone"
                assert sum(filter(None, beside)) <= room and len(beside) <= MOST


def idle_seconds(tasks: Sequence[Task]) -> float:
    """GPU-seconds in which a GPU was free while a job waited that could have used it without delaying one before it."""
    moments = sorted({moment for task in tasks for moment in (task.comes, task.begins, task.ends)})
    idle = 0.0
    for now, then in pairwise(moments):
        running = [task for task in tasks if task.begins <= now < task.ends]
        waiting = sorted((task for task in tasks if task.comes <= now < task.begins), key=lambda task: task.comes)
        taken = {gpu for task in running for gpu in task.on}
        ends = [max(task.need(now).seconds or 0 for task in running if gpu in task.on) for gpu in taken]
        able = [
            task.count for place, task in enumerate(waiting) if could(task, waiting[:place], GPUS - len(taken), ends)
        ]
        idle += max(able, default=0) * (then - now)
    return idle


def could(task: Task, ahead: Sequence[Task], free: int, ends: Sequence[float]) -> bool:
    """Whether a job could start without delaying those ahead, found by trying."""
    if task.count > free:
        return False
    lasts = 1e6 if task.expected is None else task.expected
    before = starts([0.0] * free + list(ends), ahead)
    after = starts([0.0] * (free - task.count) + [lasts] * task.count + list(ends), ahead)
    if math.inf in before or (before[-1:] <= [0.0] and task.count > free - sum(other.count for other in ahead)):
        return False
    return all(late <= soon for late, soon in zip(after, before, strict=False))


def starts(moments: list[float], ahead: Sequence[Task]) -> list[float]:
    """When each of those ahead starts, up to the first that has to wait."""
    found, moments = list[float](), sorted(moments)
    for other in ahead:
        found.append(moments[other.count - 1] if other.count <= len(moments) else math.inf)
        if found[-1] > 0:
            break
        del moments[: other.count]
    return found


# In real processes

FLOW = """
import json, subprocess, sys, threading, time
from pathlib import Path
from tasks.jobs import leases
from tasks.jobs.devices import Device
from tasks.jobs.leases import lease_devices
from tasks.jobs.waiting import Need
from tasks.store.home import Home

home, uuids, jobs, out = Home(Path(sys.argv[1])), sys.argv[2].split(","), json.loads(sys.argv[3]), Path(sys.argv[4])
gpus = tuple(Device("cuda", str(n), 4, uuid, "", 24 * 10**9) for n, uuid in enumerate(uuids))
leases.visible_devices = lambda: gpus
leases.POLL_SECONDS = 0.06
begun, said = time.time(), threading.Lock()

def work(number, comes, count, seconds, expected, memory):
    time.sleep(max(0.0, begun + comes - time.time()))
    came = time.time()
    with lease_devices(home, count, lambda: Need(expected, memory)) as held:
        started = time.time()
        subprocess.run(["sleep", str(seconds)], check=True)
        on, ended = [int(device.index) for device in held], time.time()
    with said, out.open("a") as file:
        file.write(json.dumps([number, came, count, ended - started, expected, memory, on, started, ended]) + "\\n")

threads = [threading.Thread(target=work, args=job) for job in jobs]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="the made nvidia-smi is a shell script")
def test_a_mixed_load_of_two_flows_in_real_processes(tmp_path: Path) -> None:
    """Long: jobs that sleep for seconds, so that the time between two looks is small beside them."""
    host, draw = FakeGpus(GPUS, tmp_path / "smi"), random.Random(0)
    flows: list[list[tuple[int, float, int, float, float | None, int | None]]] = [[], []]
    for number in range(24):
        count = 1 if number % 6 else (4, 2, 1, 2)[number // 6 % 4]
        seconds = draw.uniform(6, 12) if number % 6 == 0 else math.exp(draw.uniform(1.4, 3.0))
        cell = bool(number % 6)
        memory = int(draw.choice([3, 6, 9, 12]) * GB) if cell and draw.random() < 0.7 else None
        flows[number % 2].append((number, draw.uniform(0, 12), count, seconds, seconds + 0.5, memory))
    out, processes = tmp_path / "events", []
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": host.path}
    for number, jobs in enumerate(flows):
        names = ",".join(uuid(gpu) for gpu in range(GPUS))
        arguments = [sys.executable, "-c", FLOW, str(tmp_path / f"home-{number}"), names, json.dumps(jobs), str(out)]
        processes.append(subprocess.Popen(arguments, env=environment))
    assert [process.wait(300) for process in processes] == [0, 0]
    tasks = []
    for row in map(json.loads, out.read_text(encoding="utf-8").splitlines()):
        fields = ("number", "comes", "count", "seconds", "expected", "memory", "on", "begins", "ends")
        tasks.append(Task(**dict(zip(fields, row, strict=True))))
    assert len(tasks) == 24
    check_together([(task.begins, task.ends, task.on, task.memory) for task in tasks], room=ROOM * GB)
    span = max(task.ends for task in tasks) - min(task.begins for task in tasks)
    idle = idle_seconds(tasks) / (GPUS * span)
    late = [late_by(task, tasks) for task in tasks if task.count == GPUS]
    busy = sum(task.seconds * task.count for task in tasks) / (GPUS * span)
    print(
        f"\n{len(tasks)} jobs in {span:.1f} s: idle {idle:.2%}, jobs per GPU {busy:.2f}, trainings of 4 late by {late}"
    )
    assert idle <= IDLE_PART
    assert late and max(late) <= SLACK


def late_by(training: Task, tasks: Sequence[Task]) -> float:
    """Seconds between the start of a training of all GPUs and the end of those that ran when it became the first."""
    before = [task.begins for task in tasks if task.comes < training.comes]
    first = max([training.comes, *before])
    ran = [task.ends for task in tasks if task.begins <= first < task.ends]
    return training.begins - max([first, *ran])
