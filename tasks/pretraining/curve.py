"""The training curve of a run as JSON lines, one for each step."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.store.files import write_atomic, writing


class Curve:
    """The curve of a training that goes on; on resume what lies after the resumed step is dropped."""

    def __init__(self, path: Path, done: int) -> None:
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= done]
        write_atomic(path, "".join(kept))
        self.file = path.open("ab", buffering=0)  # a line that found no room is not kept to fail once more

    def add(self, figures: dict[str, Any]) -> None:
        """Write the line of a step."""
        line = json.dumps(figures).encode() + b"\n"
        with writing(Path(self.file.name)):
            while line:  # of a nearly full disk the system takes a part first, and says so at the rest
                line = line[self.file.write(line) :]

    def flush(self) -> None:
        """Have what is written survive a power loss."""
        os.fsync(self.file.fileno())


def last_train_loss(path: Path) -> float:
    """Mean task loss of the last 100 steps; NaN where none was taken."""
    losses = [json.loads(line)["task_loss"] for line in _lines(path)][-100:]
    return sum(losses) / len(losses) if losses else math.nan


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            # A kill may leave half a line at the end.
            yield from [line for line in file if line.endswith("\n")]
