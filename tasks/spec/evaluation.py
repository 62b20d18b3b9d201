"""The sections of an experiment file about a finished checkpoint: its fine-tuning and its concept analysis."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.family import HEADS
from tasks.spec.base import BILLION, MILLION, Member, Spec
from tasks.spec.benchmarks import TASKS, tasks_where
from tasks.spec.values import Flag, Number, Whole

TaskName = Annotated[str, Member("task", TASKS)]
HeadName = Annotated[str, Member("head", HEADS)]


class TaskOverride(Spec):
    """The settings of one task that differ from the rest of the evaluation section."""

    epochs: Number | None = Field(None, gt=0, le=MILLION, description="fine-tuning epochs; null: evaluation.epochs")
    seeds: Whole | None = Field(None, ge=1, le=100, description="number of seeds; null: evaluation.seeds")
    learning_rate: Number | None = Field(
        None, gt=0, le=1, description="highest learning rate; null: evaluation.learning_rate"
    )
    max_train_examples: Whole | None = Field(
        None, ge=50, le=BILLION, description="examples of a seeded sample of train; null: evaluation.max_train_examples"
    )
    start_from: TaskName | None = Field(
        None, description="task whose fine-tuned model is the start, where the task allows it; null: the checkpoint"
    )


class EvaluationSpec(Spec):
    """Fine-tuning and scoring: one cell per task, seed and start."""

    tasks: tuple[TaskName, ...] = Field(
        ("mrpc", "qqp", "mnli", "stsb", "paws"), description="downstream tasks: `cogito ls tasks`"
    )
    data: Literal["hub", "made"] = Field("hub", description="hub: the real tasks; made: generated stand-ins")
    head: HeadName | None = Field(
        None, description="classification head: `cogito ls heads`; null: the default of the checkpoint's variant"
    )
    seeds: Whole = Field(1, ge=1, le=100, description="seeds per task")
    first_seed: Whole = Field(42, ge=0, lt=2**31, description="the first seed of a task; the others follow it")
    epochs: Number | None = Field(
        None, gt=0, le=MILLION, description="fine-tuning epochs; null: those of the task's row"
    )
    global_batch_size: Whole = Field(96, ge=1, le=MILLION, description="examples per optimiser step")
    learning_rate: Number = Field(1e-5, gt=0, le=1, description="highest learning rate, after the warm-up")
    warmup_share: Number = Field(0.06, ge=0, lt=1, description="share of the steps with a rising learning rate")
    weight_decay: Number = Field(0.01, ge=0, le=MILLION, description="weight decay of AdamW")
    max_length: Whole = Field(128, ge=8, le=MILLION, description="tokens of a pair; the longer text is cut first")
    max_train_examples: Whole | None = Field(
        None, ge=50, le=BILLION, description="examples of a seeded sample of train; null: all"
    )
    select_on: Literal["held_out", "dev"] = Field(
        "held_out", description="where the epoch is chosen; dev: the old, optimistic protocol"
    )
    random_start: Flag = Field(False, description="also fine-tune a randomly initialised model")
    zero_shot: Flag = Field(
        False, description="also score the cosine of both texts' mean concepts, without fine-tuning: similarity tasks"
    )
    per_task: dict[TaskName, TaskOverride] = Field(
        default_factory=dict, description="settings of single tasks that differ from those of the section"
    )

    @model_validator(mode="after")
    def _tasks_consistent(self) -> "EvaluationSpec":
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks names a task twice: {', '.join(self.tasks)}")
        unused = sorted(set(self.per_task) - set(self.tasks))
        if unused:
            raise ValueError(f"per_task names {', '.join(unused)}, which tasks does not list; it would be ignored")
        for name, first in [(name, own.start_from) for name, own in self.per_task.items() if own.start_from]:
            if first not in TASKS[name].may_start_from:
                allowed = [row.name for row in TASKS.values() if first in row.may_start_from]
                raise ValueError(f"start_from {first} of {name}: allowed for {', '.join(allowed) or 'no task'}")
            if first not in self.tasks:
                raise ValueError(f"start_from {first} of {name} needs {first} among tasks; fix: add it")
        if self.zero_shot and not self.zero_shot_tasks:
            able = ", ".join(tasks_where(lambda row: row.is_similarity))
            raise ValueError(
                f"zero_shot would be ignored: tasks has none of {able}; fix: add one, or evaluation.zero_shot: false"
            )
        made = tasks_where(lambda row: bool(row.made_sizes))
        unmade = [name for name in self.tasks if name not in made]
        if self.data == "made" and unmade:
            raise ValueError(
                f"data made has no {', '.join(unmade)}; allowed: {', '.join(made)}; "
                "fix: --set evaluation.data=hub for the real tasks, or drop them"
            )
        single = [name for name in self.tasks if not TASKS[name].is_pair]
        if self.head == "sentence_pair" and single:
            raise ValueError(f"head sentence_pair compares two texts; {', '.join(single)} have one; fix: drop them")
        return self

    @property
    def zero_shot_tasks(self) -> list[str]:
        """The tasks that the cosine of two texts can answer without fine-tuning."""
        return [name for name in self.tasks if TASKS[name].is_similarity]

    def for_task(self, name: str) -> "CellProtocol":
        """The protocol of one task with its overrides applied."""
        own = self.per_task.get(name, TaskOverride()).model_dump(exclude_none=True)
        stated = self.model_dump() | own
        stated["epochs"] = stated["epochs"] or TASKS[name].epochs
        stated["seeds"] = range(self.first_seed, self.first_seed + stated["seeds"])
        stated["keep_model"] = any(other.start_from == name for other in self.per_task.values())
        return CellProtocol(**{key: value for key, value in stated.items() if key in CellProtocol.model_fields})


class CellProtocol(Spec):
    """Everything that determines how one task is fine-tuned and scored, except its head and its start.

    Attributes:
        start_from: the task whose fine-tuned model is the start; None: the checkpoint.
        keep_model: whether another task starts from this one's model.
    """

    epochs: float
    seeds: tuple[int, ...]
    learning_rate: float
    max_train_examples: int | None
    global_batch_size: int
    warmup_share: float
    weight_decay: float
    max_length: int
    select_on: str
    data: str
    start_from: str | None = None
    keep_model: bool = False


class AnalysisSpec(Spec):
    """The concept analysis: geometry of the concepts on held-out text."""

    max_samples: Whole = Field(1024, ge=2, le=MILLION, description="held-out blocks that are encoded")
    live_samples: Whole = Field(
        32, ge=2, le=MILLION, description="held-out blocks that every evaluation of pretraining encodes"
    )
    batch_size: Whole = Field(32, ge=1, le=MILLION, description="blocks per forward pass")
