"""The entry point of every rank: `python -P -m tasks.jobs.worker JOB.json`.

Reads the job, runs its loop, and writes `result.json` or `error-RANK.json` beside it (see `tasks.jobs.messages`).
"""

import os
import pkgutil
import re
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from tasks.errors import StageError, UserError
from tasks.jobs.messages import JOBS, OUT_OF_MEMORY, TERMINATED, Job, JobError, send, store_result
from tasks.processes import OWNER_PID, owner_lives
from tasks.secrets import redact
from tasks.store.files import write_json
from tasks.store.records import Result

PARENT_POLL_SECONDS = 2.0
# How torch, the libraries of CUDA, C++ and the operating system say that memory ran out. cuBLAS has no room to begin
# with when its handle cannot be made.
_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot|unable to|failed to) allocate|_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation"
    r"|bad_alloc|CUBLAS_STATUS_NOT_INITIALIZED.*cublasCreate",
    re.IGNORECASE,
)


def _die_with_parent() -> None:
    """End this process once the command that started it is gone, for whatever reason."""

    def watch() -> None:
        while owner_lives(os.environ):
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def explanation(error: Exception, job: Job[Any] | None) -> str:
    """The message for an error of a job, on one line where memory ran out; a lack of memory names the batch size."""
    if isinstance(error, UserError | StageError):
        return str(error)
    text = str(error)
    if job is None or not (isinstance(error, MemoryError) or _NO_MEMORY.search(text)):
        return f"{type(error).__name__}: {text}"
    (key, size, kept), first = job.batch, text.partition(". ")[0].partition("\n")[0]
    smaller = f"--set {key}={max(1, size // 2)}{kept}" if size > 1 else "a smaller model"
    return f"{OUT_OF_MEMORY} with {key} {size}: {first or 'no room'}; fix: {smaller}"


def main(path: str) -> int:
    """Run the job of a file; returns the exit code."""
    folder, job = Path(path).parent, None
    try:
        if OWNER_PID in os.environ:
            _die_with_parent()
        job = JOBS.validate_json(Path(path).read_bytes())
        if job.pausable:
            signal.signal(signal.SIGTERM, lambda number, frame: TERMINATED.set())
        result: Result | None = pkgutil.resolve_name(job.loop)(job, folder)
        if result is not None:
            store_result(folder, job.identity, result)
    except Exception as error:
        message = redact(explanation(error, job))
        trace = redact(traceback.format_exc())
        print(trace, file=sys.stderr)
        try:
            failure = JobError(message=message, traceback=trace)
            write_json(folder / f"error-{os.environ.get('RANK', '0')}.json", failure.model_dump())
        except Exception:  # the disk is full, for example
            send(JobError(message=" ".join(message.split())))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
