"""What a cell of the fan-out is: one fine-tuning, of a task with a seed and a start."""

from dataclasses import dataclass

from models.weight_files import weights_size
from tasks.data.task_data import PreparedTask
from tasks.jobs.devices import visible_devices
from tasks.jobs.history import Work
from tasks.spec.evaluation import CellProtocol
from tasks.store.records import Checkpoint, Precision, Start


@dataclass(frozen=True)
class Cell:
    """One fine-tuning job, apart from the checkpoint and the data that it reads.

    Attributes:
        task: a row of the task table.
        head: a row of the heads.
        protocol: how it is trained.
    """

    task: str
    seed: int
    start: Start
    head: str
    protocol: CellProtocol

    @property
    def title(self) -> str:
        """The cell in words, for progress; the start is named unless it is the checkpoint."""
        return f"{self.task} seed {self.seed}" + (
            "" if self.start == "checkpoint" else f" {self.start.replace('_', '-')}"
        )

    @property
    def precision(self) -> Precision:
        """In what it computes on this machine: fp32 on a CPU, bf16 autocast on a GPU, where zero-shot has fp32 too."""
        return "fp32" if self.start == "zero_shot" else training_precision()

    def work(self, checkpoint: Checkpoint, data: PreparedTask) -> Work:
        """By which its duration is judged."""
        return Work(
            kind="zero_shot" if self.start == "zero_shot" else "finetuning",
            size=weights_size(checkpoint.folder),
            tokens=data.train_tokens * (1.0 if self.start == "zero_shot" else self.protocol.epochs),
            task=self.task,
            head=self.head,
            batch=self.protocol.global_batch_size * self.protocol.max_length,
        )


def training_precision() -> Precision:
    """In what a cell that is trained computes on this machine."""
    return "bf16 autocast" if visible_devices()[0].kind == "cuda" else "fp32"
