"""Progress of long work: bars in a terminal, an occasional log line elsewhere.

While there are bars, all that is logged or printed goes through their console, which clears them, writes the line and
draws them again; whatever wrote past it would tear them.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import TaskID

log = logging.getLogger("cogito.progress")

# Without a terminal, a stage logs one line per this interval.
LINE_SECONDS = 30.0
# Columns from which on a terminal shows bars, the time that is left and notes beside names and counts.
ROOM_FOR_BARS = 70


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
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
        from rich.table import Column

        console = Console(stderr=True)
        if not console.is_terminal or console.is_dumb_terminal:
            yield
            return
        # Each stage keeps to one line: what does not fit is cut, and a narrow terminal has name and count alone.
        columns: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", min_width=12)),
            TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True), style="progress.download"),
        )
        if console.width >= ROOM_FOR_BARS:
            note = TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
            time_left = TimeRemainingColumn(table_column=Column(no_wrap=True), compact=True)
            columns = (columns[0], BarColumn(bar_width=20), columns[1], time_left, note)
        past = sys.stderr, sys.stdout
        bars = Progress(*columns, console=console, transient=True, expand=True, redirect_stdout=sys.stdout.isatty())
        with bars, _through(past):
            self._bars = bars
            try:
                yield
            finally:
                self._bars = None
                self._tasks.clear()

    def update(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Report that a stage has done `done` of `total` units; None where the total is unknown."""
        from rich.progress import Progress

        count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
        if isinstance(self._bars, Progress):
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, count=count, note="")
            self._bars.update(self._tasks[stage], completed=done, total=total, count=count, note=note)
            return
        now = time.monotonic()
        if now - self._last_line.setdefault(stage, now) >= LINE_SECONDS:
            self._last_line[stage] = now
            log.info("%s: %s %s", stage, count, note)

    def finish(self, stage: str) -> None:
        """Remove the bar of a stage that has ended; without bars, say that it has."""
        from rich.progress import Progress

        if isinstance(self._bars, Progress) and stage in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage))
        elif stage in self._last_line:
            log.info("%s: done", stage)
        self._last_line.pop(stage, None)


@contextmanager
def _through(past: tuple[Any, ...]) -> Iterator[None]:
    """Let every log handler that writes to one of the streams `past` write to today's standard error in the block."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    moved = [handler for handler in handlers if getattr(handler, "stream", None) in past]

    def write_to(handler: Any, stream: Any) -> None:
        handler.setStream(stream)
        if hasattr(handler, "console"):  # Prefect's, which prints by a console of its own
            handler.console.file = stream

    before = [(handler, handler.stream) for handler in moved]  # type: ignore[attr-defined]
    for handler in moved:
        write_to(handler, sys.stderr)
    try:
        yield
    finally:
        for handler, stream in before:
            write_to(handler, stream)


DISPLAY = ProgressDisplay()
