"""What a cell of the fan-out is: one fine-tuning, of a task with a seed and a start."""

from dataclasses import dataclass

from tasks.spec.evaluation import CellProtocol
from tasks.store.records import Start


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
