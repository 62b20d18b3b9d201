"""What the jobs of a home took, and what a new one will therefore take: time, and memory of a GPU.

One function, `expect`, for all who ask: the fan-out, which starts its longest cells first; the line, which lets short
jobs pass (`tasks.jobs.waiting`); a forecast before anything runs. A finished job tells by its `job.json`, which holds
its `Work`, and its `result.json`, which holds its seconds and its peak memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.store.files import read_json
from tasks.store.home import Home

DeviceKind = Literal["cpu", "cuda"]
# Where jobs with results lie in a home: cells, analyses of runs, analyses of their own.
_PLACES = ("runs/*/finetuning/*", "runs/*/analysis", "analyses/*/analysis")
# Bytes of weights x tokens a second, guessed for want of any measurement: good enough for an order alone.
_GUESSED_SPEED: dict[DeviceKind, float] = {"cpu": 2e10, "cuda": 4e12}


class Work(BaseModel):
    """What decides how long a job takes.

    Attributes:
        kind: a cell that is trained, one that is not, or an analysis.
        size: bytes of the weights of its checkpoint: 4 for each parameter.
        tokens: that it reads: mean tokens of an example x examples x epochs; blocks x tokens of an analysis. Of a
            zero-shot cell those of one epoch, which it does not read but which grow with its task.
        task, head: of a cell.
        batch: examples at once x tokens of the longest that it may have; decides, with the rest, its memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["finetuning", "zero_shot", "analysis"]
    size: int
    tokens: float
    task: str = ""
    head: str = ""
    batch: int = 0

    @property
    def amount(self) -> float:
        """Grows as the operations of the job do."""
        return max(1.0, float(self.size)) * max(1.0, self.tokens)


@dataclass(frozen=True)
class Past:
    """A finished job: its work, on what, the seconds that it took, and the bytes of its GPU, if it was on one."""

    work: Work
    device: DeviceKind
    seconds: float
    memory: int | None = None


@dataclass(frozen=True)
class Expectation:
    """What a job will take.

    Attributes:
        seconds: of a device.
        measured: whether jobs of the same head and size tell. Otherwise the seconds follow from the work alone: they
            put jobs in order, and say no more.
        memory: most bytes of a GPU that a job of the same task, head, size and batch took; None: none tells.
    """

    seconds: float
    measured: bool
    memory: int | None = None


def expect(work: Work, device: DeviceKind, home: Home) -> Expectation:
    """How long a job will take on a device, by the finished jobs of a home.

    Those most like it are asked: of the same task, head and size if there are any, else of the same head and size, else
    any of its kind. The median of their speeds gives its time.
    """
    return judge(work, device, past_jobs(home))


def judge(work: Work, device: DeviceKind, past: Iterable[Past]) -> Expectation:
    """`expect` by given jobs."""
    comparable = [job for job in past if (job.device, job.work.kind) == (device, work.kind)]
    if not comparable:
        return Expectation(work.amount / _GUESSED_SPEED[device], measured=False)
    most = max(_likeness(job.work, work) for job in comparable)
    pace = median(job.seconds / job.work.amount for job in comparable if _likeness(job.work, work) == most)
    same_model, same_task = most
    taken = [job.memory for job in comparable if _likeness(job.work, work) == most and job.work.batch == work.batch]
    memory = max(filter(None, taken), default=None) if same_model and same_task else None
    return Expectation(pace * work.amount, same_model, memory)


def _likeness(one: Work, other: Work) -> tuple[bool, bool]:
    """Greater for jobs that are more alike. Weights of one size differ in little but the head of a task."""
    same_model = one.head == other.head and abs(one.size - other.size) <= 0.02 * max(one.size, other.size)
    return same_model, one.task == other.task


def past_jobs(home: Home) -> list[Past]:
    """The finished jobs of a home that say what their work was."""
    found = []
    for folder in chain.from_iterable(home.root.glob(place) for place in _PLACES):
        try:
            written = (folder / "result.json").stat().st_mtime_ns
        except OSError:  # not finished
            continue
        if (past := _past_job(folder, written)) is not None:
            found.append(past)
    return found


@lru_cache(maxsize=10_000)
def _past_job(folder: Path, _written: int) -> Past | None:
    """The job of a folder; None where it is of an earlier version, damaged, or not the one that the result is of."""
    try:
        job, result = read_json(folder / "job.json"), read_json(folder / "result.json")
        if job["identity"] != result["identity"]:
            return None
        seconds, memory = max(0.0, float(result["seconds"])), result.get("peak_memory")
        return Past(Work.model_validate(job["work"]), job["device"], seconds, memory and int(memory))
    except (OSError, ValueError, LookupError, TypeError):  # a ValidationError is a ValueError
        return None
