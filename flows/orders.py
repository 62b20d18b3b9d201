"""What a flow run is told while it works: by a signal, or by a state that somebody gave to it in the UI.

Whoever asks, the work ends in one way: jobs save their state, their devices are free, and the same command goes on.
Only the state in which the flow run ends says who asked:

    UI Cancel, `prefect flow-run cancel`           Cancelled
    UI Suspend, SIGTERM, SIGHUP, Ctrl-C            Paused
    UI Suspend of a run of a deployment            stays Suspended, so that Resume starts it again
    a signal of the worker, if it did not cancel   as Prefect ends it
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO
from uuid import UUID

from tasks.interruption import commanded, hurrying, interrupted, pausing, stopping
from tasks.jobs.launch import end_all_jobs, pause_all_jobs, stop_all_jobs
from tasks.prefect_entry import State, StateType, get_client

log = logging.getLogger("cogito.flow")

# Seconds between two looks at the state that the server has of a flow run.
LOOK_SECONDS = 3.0
# A job that has not saved its state by then is ended: Prefect's worker kills a cancelled run after 30 s.
SAVE_SECONDS = 20.0
# A cancelled process that is still at work then, in an upload for instance, is ended in the middle of it.
END_SECONDS = 27.0
# What asks a process to end; SIGHUP comes when a terminal is lost, SIGBREAK when a window of Windows is closed.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]

_heeding: list["Orders"] = []


class Orders:
    """What one flow run was told so far.

    Attributes:
        cancelled: its work is to end for good; otherwise it is to pause.
        suspended: the state that suspended it, if one did.
        signalled: whether a signal asked.
    """

    def __init__(self) -> None:
        self.cancelled = False
        self.suspended: State | None = None
        self.signalled = False
        self._over = threading.Event()
        # Asked now: a terminal that is gone is none any more.
        self._terminals = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and stream.isatty()]

    def obey(self, why: str) -> None:
        """Let all jobs save and end. Only the first to ask does something."""
        if hurrying.is_set() or self._over.is_set():
            return
        log.warning("%s: saving what is done, and ending", why)
        if self.cancelled or not commanded.is_set():  # nobody kills a command that takes its time
            self._later(SAVE_SECONDS, end_all_jobs)  # whatever becomes of the request, on a full disk for instance
        pause_all_jobs(end_short_ones=True)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal that asks the process to end."""
        if number != signal.SIGTERM:
            _leave(self._terminals)
        self.signalled = True
        self._apart(signal.Signals(number).name)

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle Ctrl-C in the command's terminal."""
        if interrupted.is_set() or hurrying.is_set():  # a time budget that is over asked nobody to hurry
            stop_all_jobs()  # whatever code the interrupt falls into and whether that lets it pass
            raise KeyboardInterrupt
        interrupted.set()
        self._apart("interrupted; Ctrl-C again ends at once")

    def follow(self, state: State | None, give_up: Callable[[], None]) -> None:
        """Do what a state asks for that the server has of the flow run.

        Args:
            give_up: is called if the process is still at work so long after it was cancelled.
        """
        if state is None:
            return
        if state.type in (StateType.CANCELLING, StateType.CANCELLED):
            if not self.cancelled:
                self.cancelled = True
                self._later(END_SECONDS, give_up)
            self.obey("cancelled")
        elif state.type == StateType.PAUSED:
            self.suspended = state
            self.obey("suspended")

    def end(self) -> None:
        """Nothing is obeyed any more."""
        self._over.set()

    def wait(self, seconds: float) -> bool:
        """Wait; returns whether the work goes on."""
        return not self._over.wait(seconds)

    def _apart(self, why: str) -> None:
        # A handler interrupts whatever the main thread does, perhaps with a lock in its hands that is needed here.
        threading.Thread(target=self.obey, args=(why,), daemon=True).start()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, lambda: None if self._over.is_set() else action())
        timer.daemon = True
        timer.start()


@contextmanager
def heed(flow_run: str | None) -> Iterator[Orders]:
    """Follow what the process is told while the block runs; what it was told before counts for a block within a block.

    Args:
        flow_run: its id; None for work that no server shows.
    """
    orders = Orders()
    if not _heeding:
        for told in (stopping, pausing, hurrying):
            told.clear()
    _heeding.append(orders)
    handlers: dict[int, Any] = {}
    # Signals to a script or a notebook that calls a flow as a function are its own.
    if (commanded.is_set() or flow_run) and threading.current_thread() is threading.main_thread():
        handlers = {number: orders.on_signal for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
        if commanded.is_set():
            handlers[signal.SIGINT] = orders.on_interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    if flow_run:
        threading.Thread(target=_watch, args=(UUID(flow_run), orders), daemon=True).start()
    try:
        yield orders
    finally:
        orders.end()
        _heeding.remove(orders)
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(flow_run: UUID, orders: Orders) -> None:
    """Look at the state of a flow run now and then. A server that is away orders nothing."""
    with get_client(sync_client=True) as client:

        def give_up() -> None:
            log.error("still at work %.0f s after it was cancelled: ended as by a kill", END_SECONDS)
            end_all_jobs()
            with suppress(Exception):
                client.set_flow_run_state(flow_run, State(type=StateType.CANCELLED), force=True)
            os._exit(1)

        while orders.wait(LOOK_SECONDS):
            try:
                state = client.read_flow_run(flow_run).state
            except Exception as error:
                log.debug("the state of the flow run is not known: %s", error)
                continue
            orders.follow(state, give_up)


def say_again(flow_run: str, state: State) -> None:
    """Give the server the state of a flow run once more, unless it has another one by now.

    The watch over silent runs takes a state for the end of a run, but not if a heartbeat came after it.
    """
    try:
        with get_client(sync_client=True) as client:
            now = client.read_flow_run(UUID(flow_run)).state
            if now is not None and now.id == state.id:
                client.set_flow_run_state(UUID(flow_run), state, force=True)
    except Exception as error:
        log.warning("the run may be shown as Crashed 90 s after it was suspended: %s", error)


def _leave(terminals: list[TextIO]) -> None:
    """Write no more to terminals that are gone: each line would be an error."""
    for stream in terminals:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
