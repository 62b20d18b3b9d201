"""What the launch side and the ranks of a job say to each other."""

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

PROGRESS_MARK = "@progress "
ERROR_MARK = "@error "
WARNING_MARK = "@warning "
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


OnProgress = Callable[[dict[str, Any]], None]
# In a job's folder: the wish that it pause, and its answer.
PAUSE_WISH, PAUSE_ANSWER = "pause", "paused.json"
# Kinds of jobs that save where they are when they are told to pause.
PAUSABLE = ("pretraining",)
