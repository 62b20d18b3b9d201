"""What the processes of a job write: progress is passed on, the rest is kept, and a failure is told by it."""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tasks.jobs.messages import OUT_OF_MEMORY, JobError, JobWarning, OnProgress, Progress, parse_line
from tasks.secrets import redact
from tasks.store.files import read_json, writing

log = logging.getLogger("cogito.launch")

LAST_LINES = 12
# How the launchers report that a signal killed a process; they end the other ranks with SIGTERM, which is no cause.
_KILLED_BY = re.compile(r"Signal \d+ \((SIG(?!TERM)\w+)\) received by PID|died with <Signals\.(SIG(?!TERM)\w+):")
# How NCCL, by which GPUs talk to each other, says that it failed; its watchdog then aborts the process.
_NCCL = re.compile(
    r"NCCL error|nccl(Unhandled|System|Internal|Remote|InvalidUsage)\w*|Watchdog caught collective operation timeout"
    r"|NCCL (operation|communicator|timeout)\w*.*(fail|abort|timed? ?out)",
    re.IGNORECASE,
)
# Errors of a rank that lost the connection to another rank.
_LOST_NEIGHBOUR = re.compile(r"gloo|NCCL|Connection (closed|reset)|TCPStore|ProcessGroup|barrier", re.IGNORECASE)


@dataclass
class JobOutput:
    """What the processes of a job wrote, as far as it is needed after their end.

    Attributes:
        signals: names of the signals that killed ranks.
        errors: of ranks that could not write their error file. Kept apart from the last lines, which a launcher fills
            with a long traceback of its own.
        nccl: the first line in which NCCL said that it failed.
    """

    on_progress: OnProgress | None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    signals: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    nccl: str = ""

    def add(self, line: str) -> str | None:
        """Take one line; returns what the job's log keeps of it, None for a progress message that was passed on."""
        if killed := _KILLED_BY.search(line):
            self.signals.append(killed[1] or killed[2])
        if not self.nccl and _NCCL.search(line):
            self.nccl = redact(line.strip())
        # Neither a damaged line nor a failing progress display ends a job.
        try:
            message = parse_line(line)
            if isinstance(message, Progress):
                if self.on_progress:
                    self.on_progress(message)
                return None
        except Exception as error:
            log.warning("progress could not be shown: %s", error)
        else:
            if isinstance(message, JobError):
                self.errors.append(redact(message.message))
            if isinstance(message, JobWarning):
                log.warning("%s", message.message)
        self.last_lines.append(redact(line))
        return self.last_lines[-1]


@contextmanager
def job_log(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that appends lines to a job's log. A full disk loses lines, with one warning, and ends no job."""
    lost = False
    with writing(path), path.open("ab", buffering=0) as file:

        def keep(line: str) -> None:
            nonlocal lost
            try:
                file.write(line.encode("utf-8", "replace"))
            except OSError as error:
                if not lost:
                    log.warning("%s: loses lines, the job goes on: %s", path, error.strerror)
                lost = True

        yield keep


def failure_message(folder: Path, exit_code: int, output: JobOutput) -> str:
    """Why a job failed: an error of its own before the loss of a neighbour, NCCL's failure before what it aborted."""
    errors = [*(str(read_json(path)["message"]) for path in sorted(folder.glob("error-*.json"))), *output.errors]
    own = [error for error in errors if error.startswith(OUT_OF_MEMORY) or not _LOST_NEIGHBOUR.search(error)]
    if own:
        return own[0]
    nccl = output.nccl or next(filter(_NCCL.search, errors), "")
    if nccl and set(output.signals) <= {"SIGABRT"}:
        return (
            f"NCCL, by which GPUs exchange gradients, failed: {nccl.splitlines()[0][:300]}; fix: NCCL_P2P_DISABLE=1 "
            "where they cannot reach each other's memory, as RTX 3090 often; NCCL_DEBUG=INFO tells more"
        )
    if output.signals:
        why = "from outside or because memory ran out" if "SIGKILL" in output.signals else "by a fault in a library"
        return (
            f"a process of the job was killed ({output.signals[0]}), {why}; "
            "fix: run the same command again: it goes on from the last saved state"
        )
    if errors:
        return errors[0]
    tail = " | ".join(line.strip() for line in output.last_lines if line.strip())
    return f"the process ended with code {exit_code} and without a result; its last lines: {tail}"
