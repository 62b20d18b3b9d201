"""What the launch side and the ranks of a job tell each other.

Files in the job's folder: `job.json`, `result.json`, `error-RANK.json`, `pause` (a request) and `paused.json` (its
answer). Lines on a rank's standard output: progress, warnings, and an error whose file could not be written.
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tasks.jobs.history import Work
from tasks.spec.evaluation import CellProtocol
from tasks.spec.experiment import ExperimentSpec
from tasks.store.files import read_json, write_json
from tasks.store.records import AnalysisResult, CellResult, Precision, PretrainingResult, Result, Start

R = TypeVar("R", bound=Result)

# Every line that a rank writes for the launch side begins with this.
LINE_MARK = "@cogito "
# Exists in a job's folder while the job is asked to pause.
PAUSE_REQUEST = "pause"
# How the message of a job begins that ran out of memory.
OUT_OF_MEMORY = "out of memory"
# Set in a rank that received SIGTERM: a pausable job then saves its state and ends.
TERMINATED = threading.Event()


class Message(BaseModel):
    """Base of everything that crosses between the two sides: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Job(Message, Generic[R]):
    """What a rank needs for its work.

    Attributes:
        loop: import path of the function that does the work, `(job, folder) -> result`; ranks other than 0 return None.
            It is named rather than imported, so that a rank loads the libraries of its own job alone.
        result: the class R of its result.
        pausable: whether the job saves its state on request and later continues from it.
    """

    loop: ClassVar[str]
    result: ClassVar[Any]
    pausable: ClassVar[bool] = False

    identity: str
    work: Work | None = Field(None, description="by which later jobs judge how long they will take")
    device: Literal["cpu", "cuda"] = Field("cpu", description="kind of the leased devices, set at the start")
    memory: int | None = Field(None, description="bytes of a GPU for its tensors, set at the start; None: all")

    @property
    def secrets(self) -> tuple[str, ...]:
        """Patterns of the secret environment variables that the job needs."""
        return ()

    @property
    def batch(self) -> tuple[str, int, str]:
        """The key that decides how much memory the job takes, its value, and what becomes of a smaller one."""
        raise NotImplementedError


class PretrainingJob(Job[PretrainingResult]):
    """Train one model, in one rank per device."""

    loop = "tasks.pretraining.loop:run_pretraining"
    result = PretrainingResult
    pausable = True

    kind: Literal["pretraining"] = "pretraining"
    spec: ExperimentSpec
    run_id: str
    corpus: Path
    config: dict[str, Any] = Field(description="arguments of `models.configuration.ConceptConfig`")
    init_from: Path | None
    unigram_entropy: float = Field(description="nats per token of the held-out text")
    processes: int
    tracking_folder: Path

    @property
    def secrets(self) -> tuple[str, ...]:
        """W&B needs its key and perhaps a proxy; nothing else of a job uses the network."""
        return ("WANDB_API_KEY", "*_PROXY") if self.spec.tracking.wandb == "online" else ()

    @property
    def batch(self) -> tuple[str, int, str]:
        """A step's sequences stay as many: they are cut into more parts."""
        training = self.spec.training
        kept = f" (a step still sees the {training.global_batch_size} sequences of training.global_batch_size)"
        return "training.per_device_batch_size", training.per_device_batch_size, kept


class FinetuningJob(Job[CellResult]):
    """Train and predict one cell."""

    loop = "tasks.finetuning.loop:run_finetuning"
    result = CellResult

    kind: Literal["finetuning"] = "finetuning"
    task: str
    seed: int
    start: Start
    head: str
    checkpoint: Path
    family: Literal["concept", "plain"]
    precision: Precision
    start_from: str | None
    data: Path
    protocol: CellProtocol

    @property
    def batch(self) -> tuple[str, int, str]:
        """A smaller one is another protocol."""
        return "evaluation.global_batch_size", self.protocol.global_batch_size, " (another protocol: other scores)"


class AnalysisJob(Job[AnalysisResult]):
    """Measure the concepts of one checkpoint on held-out text."""

    loop = "tasks.analysis.loop:run_analysis"
    result = AnalysisResult

    kind: Literal["analysis"] = "analysis"
    checkpoint: Path
    corpus: Path
    special_token_ids: dict[str, int]
    max_samples: int
    batch_size: int

    @property
    def batch(self) -> tuple[str, int, str]:
        """Figures are sums over the texts, whatever the batch."""
        return "analysis.batch_size", self.batch_size, ""


class Progress(Message):
    """How far a job is: `step` of `steps` (None where the end is not known), with the current figures."""

    kind: Literal["progress"] = "progress"
    step: int
    steps: int | None
    figures: dict[str, float] = Field(default_factory=dict)


class JobWarning(Message):
    """A warning for the user of the command."""

    kind: Literal["warning"] = "warning"
    message: str


class JobError(Message):
    """Why a rank failed; also the content of `error-RANK.json`."""

    kind: Literal["error"] = "error"
    message: str
    traceback: str = ""


OnProgress = Callable[[Progress], None]
AnyJob = Annotated[PretrainingJob | FinetuningJob | AnalysisJob, Field(discriminator="kind")]
Line = Annotated[Progress | JobWarning | JobError, Field(discriminator="kind")]
# The content of `job.json`, and of a line behind its mark.
JOBS: TypeAdapter[AnyJob] = TypeAdapter(AnyJob)
_LINES: TypeAdapter[Line] = TypeAdapter(Line)


def send(message: Line) -> None:
    """Write a message to standard output, where the launch side reads it."""
    # A single write, so that no other rank's line comes between the text and its line end.
    sys.stdout.write(f"{LINE_MARK}{message.model_dump_json()}\n")
    sys.stdout.flush()


def parse_line(line: str) -> Line | None:
    """The message of a line, None for any other line.

    Raises:
        ValueError: the line holds a damaged message; ranks may write into each other's lines.
    """
    return _LINES.validate_json(line.removeprefix(LINE_MARK)) if line.startswith(LINE_MARK) else None


def report_progress(step: int, steps: int | None, **figures: float) -> None:
    """Report how far this job is."""
    send(Progress(step=step, steps=steps, figures=figures))


def report_warning(text: str) -> None:
    """Show the user of the command a warning."""
    send(JobWarning(message=text))


def store_result(folder: Path, identity: str, result: Result) -> None:
    """Write a job's `result.json`, with paths relative to its folder."""
    stored = result.model_dump(mode="json", exclude_unset=True, context={"base": folder})
    write_json(folder / "result.json", {"identity": identity, **stored})


def finished_result(folder: Path, identity: str, kind: type[R], *, reused: bool = False) -> R | None:
    """The result of this identity that a job's folder holds; None, so that the job runs again, if none can be read."""
    try:
        stored = read_json(folder / "result.json")
        if stored.pop("identity", None) == identity:
            return kind.model_validate({**stored, "reused": reused}, context={"base": folder})
    except (OSError, ValueError, TypeError, AttributeError):  # a ValidationError is a ValueError
        pass
    return None


def answer_pause(folder: Path, identity: str, step: int) -> None:
    """Write `paused.json`: the state after `step` is saved, and the job has ended."""
    write_json(folder / "paused.json", {"identity": identity, "step": step})


def paused_step(folder: Path) -> int | None:
    """The step of `paused.json`, None without one."""
    path = folder / "paused.json"
    return int(read_json(path)["step"]) if path.exists() else None


def clear_answers(folder: Path) -> None:
    """Remove what an earlier start of a job left in its folder, so that none of it is taken for an answer."""
    for stale in [*(folder / name for name in ("result.json", PAUSE_REQUEST, "paused.json")), *folder.glob("error-*")]:
        stale.unlink(missing_ok=True)
