"""How this process was told to stop: flags that every wait and every start of a job looks at."""

import threading

# Set when this process was told to stop: nothing waits any longer and no job starts.
stopping = threading.Event()
# Set when it was told to save where it is and end: what runs may finish its step, and no job starts.
pausing = threading.Event()
# Set by the command: a SIGTERM pauses its run instead of ending it.
pause_on_sigterm = threading.Event()
