"""Progress of long work: bars in a terminal, an occasional log line elsewhere."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

log = logging.getLogger("cogito.progress")

# Without a terminal, a stage logs one line per this interval.
LINE_SECONDS = 30.0


class ProgressDisplay:
    """The progress of all stages in progress, one bar each."""

    def __init__(self) -> None:
        self._bars: object | None = None
        self._last_line: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}

    @contextmanager
    def on_terminal(self) -> Iterator[None]:
        """Show bars while the block runs, if standard error is a terminal."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        if not console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description:32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as bars:
            self._bars = bars
            try:
                yield
            finally:
                self._bars = None
                self._tasks.clear()

    def update(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Report that a stage has done `done` of `total` units; None where the total is unknown."""
        from rich.progress import Progress

        if isinstance(self._bars, Progress):
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, note="")
            self._bars.update(self._tasks[stage], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if now - self._last_line.setdefault(stage, now) >= LINE_SECONDS:
            self._last_line[stage] = now
            log.info("%s: %s of %s %s", stage, f"{done:,}", f"{total:,}" if total else "?", note)

    def finish(self, stage: str) -> None:
        """Remove the bar of a stage that has ended."""
        from rich.progress import Progress

        if isinstance(self._bars, Progress) and stage in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage))
        self._last_line.pop(stage, None)


DISPLAY = ProgressDisplay()
