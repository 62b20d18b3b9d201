"""The entry point of every child process: `python -m tasks.jobs.worker JOB.json`.

A job is a JSON file naming its kind; the result is `result.json` beside it, an error `error-RANK.json`.
Progress goes to stdout as JSON lines that the parent understands (see `tasks.jobs.launch`).
"""

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.errors import StageError, UserError
from tasks.jobs.messages import ERROR_MARK, PAUSABLE, TERMINATED
from tasks.processes import OWNER_PID, owner_lives
from tasks.secrets import redact
from tasks.store.files import write_json

PARENT_POLL_SECONDS = 2.0


# Where the function of every kind of job lies: (job, folder) -> result, None where another rank gives it. Named rather
# than imported, so that the worker stands below the loops and a job pays for its own libraries alone.
LOOPS = {
    "pretraining": "tasks.pretraining.loop:run_pretraining",
    "finetuning": "tasks.finetuning.loop:run_finetuning",
    "analysis": "tasks.analysis.loop:run_analysis",
}


def _loop(kind: str) -> Callable[[dict[str, Any], Path], dict[str, Any] | None]:
    module, _, function = LOOPS[kind].partition(":")
    return getattr(importlib.import_module(module), function)


def _die_with_parent() -> None:
    """End this process when the command that started it is gone, however it went."""

    def watch() -> None:
        waiting = threading.Event()
        while not waiting.wait(PARENT_POLL_SECONDS):
            if not owner_lives(os.environ):
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(path: str) -> int:
    """Run the job; returns the exit code."""
    job_file = Path(path)
    folder = job_file.parent
    rank = int(os.environ.get("RANK", "0"))
    try:
        if OWNER_PID in os.environ:
            _die_with_parent()
        job = json.loads(job_file.read_text(encoding="utf-8"))
        if job["kind"] in PAUSABLE:
            signal.signal(signal.SIGTERM, lambda number, frame: TERMINATED.set())
        result = _loop(job["kind"])(job, folder)
        if result is not None:
            write_json(folder / "result.json", {"identity": job["identity"], **result})
    except Exception as error:
        expected = isinstance(error, UserError | StageError)
        message = redact(str(error) if expected else f"{type(error).__name__}: {error}")
        trace = redact(traceback.format_exc())
        print(trace, file=sys.stderr)
        try:
            write_json(folder / f"error-{rank}.json", {"message": message, "traceback": trace})
        except Exception:
            print(ERROR_MARK + " ".join(message.split()), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
