"""Stages in threads of this process, for callers outside a Prefect flow: `import cogito` runs experiments this way.

A stage waits for what it needs, is retried after transient faults and ends in a state, as under Prefect, so the flows
are the same code; but there is no server, no flow run and nothing to see in a UI.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

from tasks.data.hub import gave_up, is_transient
from tasks.interruption import stopping
from tasks.jobs.devices import most_jobs
from tasks.prefect_entry import Completed, Failed, State, allow_failure

RETRIES = 3
# Seconds before the first retry; each further one waits twice as long.
FIRST_DELAY_SECONDS = 2


class StageFuture:
    """A stage that was submitted here; offers what the flows use of Prefect's futures."""

    def __init__(self, future: Future[State]) -> None:
        self._future = future

    @property
    def state(self) -> State:
        """The state in which the stage ended; waits for it."""
        return self._future.result()

    def wait(self) -> None:
        """Wait until the stage has ended, in whatever way."""
        self._future.result()

    def result(self) -> Any:
        """The value of a stage that completed."""
        return self.state.data


@cache
def _pool() -> ThreadPoolExecutor:
    # As many as a flow has. Stages start in the order in which they are submitted, after all that they wait for, so
    # waiting ones cannot take every thread.
    return ThreadPoolExecutor(most_jobs() + 2, thread_name_prefix="stage")


def submit(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any], wait_for: Iterable[Any]
) -> StageFuture:
    """Start a stage; futures among its arguments become their results.

    Args:
        wait_for: futures that must end first, and well, unless they are marked by `allow_failure`.
    """

    def work() -> State:
        needed = [*wait_for, *(value for value in (*arguments, *named.values()) if isinstance(value, StageFuture))]
        for future in needed:
            may_fail = isinstance(future, allow_failure)
            state = (future.unwrap() if may_fail else future).state
            if not (may_fail or state.is_completed()):
                return Failed(message=state.message, name="NotReady")
        return _with_retries(
            function, [_value(value) for value in arguments], {key: _value(value) for key, value in named.items()}
        )

    return StageFuture(_pool().submit(work))


def _value(argument: Any) -> Any:
    return argument.result() if isinstance(argument, StageFuture) else argument


def _with_retries(function: Callable[..., Any], arguments: list[Any], named: dict[str, Any]) -> State:
    attempt = 0
    while True:
        try:
            value = function(*arguments, **named)
            return value if isinstance(value, State) else Completed(data=value)
        except Exception as error:
            if not is_transient(error):
                return Failed(message=str(error))
            if attempt == RETRIES:
                return Failed(message=gave_up(error))
            stopping.wait(FIRST_DELAY_SECONDS * 2**attempt)
            attempt += 1
