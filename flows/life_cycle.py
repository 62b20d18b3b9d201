"""How a flow run begins and ends: its locks, its signals, its time budget, and the state that it ends in."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from flows.orders import heed, say_again
from flows.prefect_api import lost_server, server_lost
from tasks.errors import BAD_INPUT, PAUSED, Paused, RunPaused, StageError, UserError
from tasks.interruption import commanded
from tasks.jobs.devices import most_jobs
from tasks.jobs.launch import pause_all_jobs
from tasks.prefect_entry import (
    Cancelled,
    Completed,
    Failed,
    Flow,
    Pause,
    ResultRecord,
    State,
    TagsContext,
    ThreadPoolTaskRunner,
    flow_run,
)
from tasks.runs.request import check_hours
from tasks.secrets import redact
from tasks.store.home import cogito_home
from tasks.store.locks import TAG, active

log = logging.getLogger("cogito.flow")

# The states in which flow functions of this process ended, should their server not hear them.
_outcomes: list[State] = []


def task_runner() -> Any:
    """The threads of a flow: one for each job that can run at once, one for the analysis, one for short stages."""
    return ThreadPoolTaskRunner(max_workers=most_jobs() + 2)


def carry_out(work: Callable[[], State], max_hours: float | None = None) -> State:
    """Do the work of a flow in this home; returns the state that the flow ends in, also if the work cannot be done.

    Args:
        max_hours: save and pause after so many hours; None has no limit.
    """

    def limited() -> State:
        check_hours(max_hours)
        with _time_budget(max_hours):
            return work()

    with known_as_active(), without_tags():
        return heeding(limited)


def heeding(work: Callable[[], State]) -> State:
    """Do the work of a flow and follow what the process is told meanwhile; returns the state that the flow ends in.

    Raises:
        Pause: it was suspended; a worker starts it again when it is resumed.
        TerminationSignal: a worker ended it, for a reason that Prefect knows.
    """
    with heed(flow_run.id) as orders:
        state = _state_of(work)
    if state.name == PAUSED and orders.cancelled:
        state = Cancelled(message=state.message, data=run_of(state))
    elif state.name == PAUSED and not commanded.is_set():
        if orders.suspended is not None:
            say_again(flow_run.id, orders.suspended)
            raise Pause(state=orders.suspended)
        if orders.signalled:
            signal.raise_signal(signal.SIGTERM)
    _outcomes.append(state)
    return state


def _state_of(work: Callable[[], State]) -> State:
    try:
        return work()
    except Paused as error:  # nothing failed, and the same command goes on
        run_id = error.run_id if isinstance(error, RunPaused) else None
        return Completed(message=str(error), name=PAUSED, data=run_id)
    except UserError as error:
        return Failed(message=str(error), name=BAD_INPUT)
    except StageError as error:
        return Failed(message=str(error))


def call(called: Flow[Any, Any], arguments: dict[str, Any], *, shown: bool) -> State:
    """Run a flow; returns the state in which it ended, also where an error ended it.

    Args:
        shown: by a Prefect server; else its stages run in this process.
    """
    _outcomes.clear()
    try:
        state: State = called(**arguments, return_state=True) if shown else called.fn(**arguments)  # type: ignore[assignment]
        return state
    except Exception as error:
        if not shown:
            log.exception("%s", called.name)
            return Failed(message=redact(str(error)))
        reason = lost_server(error)
        if reason is None or not _outcomes:
            raise
        server_lost.set()
        end = _outcomes[-1]
        log.warning("THE PREFECT UI DOES NOT SHOW THE END OF THIS RUN, which is %s: %s", str(end.name).lower(), reason)
        return end


def run_of(state: State) -> str | None:
    """The id of the run that a flow worked at, from the data of its final state; None if it did not come to one.

    The data of a completed flow is the id; that of a failed one an error which knows it, as Prefect wants errors there.
    """
    data = state.data.result if isinstance(state.data, ResultRecord) else state.data
    return data if isinstance(data, str) else getattr(data, "run_id", None)


def finished_run(state: State) -> str:
    """The id of the run that a flow brought to its end.

    Raises:
        UserError: the flow found bad input.
        StageError: it failed before it had a run.
    """
    if state.name == BAD_INPUT:
        raise UserError(state.message or "")
    run_id = run_of(state)
    if run_id is None:
        raise StageError(state.message or f"the flow ended as {state.name}")
    return run_id


def known_as_active() -> AbstractContextManager[Any]:
    """Hold a lock in this home under the id of the flow run, unless the command that started it holds one already."""
    tagged = any(tag.startswith(TAG) for tag in flow_run.tags or ())
    return nullcontext() if tagged else active(cogito_home(), flow_run.id or "")


def without_tags() -> TagsContext:
    """Give stages no tag: Prefect asks its server for a slot for each tagged one, which fails when that is away."""
    return TagsContext(current_tags=set())


@contextmanager
def _time_budget(max_hours: float | None) -> Iterator[None]:
    """Pause the work of the block when its time is over."""
    timer = threading.Timer((max_hours or 0) * 3600, pause_all_jobs)
    timer.daemon = True
    if max_hours is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
