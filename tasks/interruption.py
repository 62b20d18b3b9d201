"""Flags that every wait and every start of a job checks: whether this process has to end or to pause."""

import threading

from tasks.errors import Paused, StageError

# Set when this process has to end: no wait continues and no job starts.
stopping = threading.Event()
# Set when it has to save its state and end: a running job may finish its step, and no job starts.
pausing = threading.Event()
# Set beside it when short work is not to finish either.
hurrying = threading.Event()
# Set by a command: signals to this process are about its run.
commanded = threading.Event()
# Set by the first Ctrl-C of such a command, which pauses its run.
interrupted = threading.Event()


def go_on(place: str = "before it began") -> None:
    """Return if this process is to go on with its work.

    Args:
        place: where the work is, for the message of a pause.

    Raises:
        StageError: it has to end.
        Paused: it has to pause.
    """
    if stopping.is_set():
        raise StageError("interrupted")
    if pausing.is_set():
        raise Paused(place)
