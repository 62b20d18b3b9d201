"""The entry point of every child process: `python -m tasks.worker JOB.json`.

A job is a JSON file naming its kind; the result is `result.json` beside it, an error `error-RANK.json`.
Progress goes to stdout as JSON lines that the parent understands (see `tasks.launch`).
"""

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
from tasks.processes import OWNER_PID, owner_lives
from tasks.run_folder import write_json
from tasks.secrets import redact

PROGRESS_MARK = "@progress "
ERROR_MARK = "@error "
WARNING_MARK = "@warning "
PARENT_POLL_SECONDS = 2.0
# Set when this process was asked to end: a training then saves where it is.
TERMINATED = threading.Event()


def report_progress(**figures: Any) -> None:
    """Tell the parent how far this job is."""
    # One write, so that another rank's line cannot come between a line and its end.
    sys.stdout.write(f"{PROGRESS_MARK}{json.dumps(figures)}\n")
    sys.stdout.flush()


def report_warning(text: str) -> None:
    """Tell the user of the command something that is no error."""
    sys.stdout.write(f"{WARNING_MARK}{text}\n")
    sys.stdout.flush()


def _pretraining(job: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    from tasks.pretraining_loop import run_pretraining

    signal.signal(signal.SIGTERM, lambda number, frame: TERMINATED.set())
    return run_pretraining(job, folder)


def _finetuning(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    from tasks.finetuning_loop import run_finetuning

    return run_finetuning(job, folder)


def _analysis(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    from tasks.analysis_loop import run_analysis

    return run_analysis(job, folder)


JOBS: dict[str, Callable[[dict[str, Any], Path], dict[str, Any] | None]] = {
    "pretraining": _pretraining,
    "finetuning": _finetuning,
    "analysis": _analysis,
}


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
        result = JOBS[job["kind"]](job, folder)
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
