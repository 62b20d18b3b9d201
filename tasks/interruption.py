"""Flags that every wait and every start of a job checks: whether this process has to end or to pause."""

import threading

# Set when this process has to end: no wait continues and no job starts.
stopping = threading.Event()
# Set when it has to save its state and end: a running job may finish its step, and no job starts.
pausing = threading.Event()
# Set by the command: SIGTERM pauses its run instead of ending it.
pause_on_sigterm = threading.Event()
