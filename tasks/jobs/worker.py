"""The entry point of every rank: `python -P -m tasks.jobs.worker JOB.json`.

Reads the job, runs its loop, and writes `result.json` or `error-RANK.json` beside it (see `tasks.jobs.messages`).
"""

import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from tasks.errors import StageError, UserError
from tasks.jobs.messages import JOBS, TERMINATED, JobError, send, store_result
from tasks.processes import OWNER_PID, owner_lives
from tasks.secrets import redact
from tasks.store.files import write_json
from tasks.store.records import Result

PARENT_POLL_SECONDS = 2.0


def _die_with_parent() -> None:
    """End this process once the command that started it is gone, for whatever reason."""

    def watch() -> None:
        while owner_lives(os.environ):
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(path: str) -> int:
    """Run the job of a file; returns the exit code."""
    folder = Path(path).parent
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
        expected = isinstance(error, UserError | StageError)
        message = redact(str(error) if expected else f"{type(error).__name__}: {error}")
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
