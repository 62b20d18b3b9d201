"""What both flows share: how they end, whatever becomes of their work."""

import logging

import pytest
from prefect.states import Cancelled, Completed, Failed, Pending

from flows.fan_out import carry_out
from tasks import stages
from tasks.errors import Paused, StageError, UserError
from tasks.interruption import pausing, stopping
from tasks.store.home import Home
from tasks.store.locks import active_locks


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (UserError("bad key"), "FAILED", stages.BAD_INPUT),
        (StageError("no room"), "FAILED", "Failed"),
        (Paused("after step 3"), "COMPLETED", stages.PAUSED),
    ],
)
def test_an_expected_end_is_a_state_with_its_message(home: Home, error: Exception, kind: str, name: str) -> None:
    def work() -> None:
        raise error

    state = carry_out(work)  # type: ignore[arg-type]
    assert (state.type.value, state.name, state.message) == (kind, name, str(error))


def test_work_is_done_afresh_and_in_sight(home: Home) -> None:
    """An earlier run of this process that was stopped stops no later one; `cogito clean` sees that one works."""
    stopping.set()
    pausing.set()

    def work() -> Completed:  # type: ignore[valid-type]
        assert not stopping.is_set() and not pausing.is_set()
        assert [path.name.startswith("active-") for path in active_locks(home)] == [True]
        return Completed(message="done")

    assert carry_out(work).message == "done"
    assert active_locks(home) == []
    with pytest.raises(ZeroDivisionError):
        carry_out(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert active_locks(home) == []


def test_a_pause_is_logged_as_no_error() -> None:
    """The words are Prefect's own; tests/tasks/pretraining/test_guards.py listens to Prefect itself."""
    logger = logging.getLogger("prefect.task_runs")
    ends = Cancelled(message="after step 3", name=stages.PAUSED), Pending(name="NotReady"), Failed(message="no room")
    levels: dict[bool, list[str]] = {}
    for paused in (True, False):
        (pausing.set if paused else pausing.clear)()
        records = [
            logger.makeRecord("", logging.ERROR, "", 0, f"Finished in state {state}", (), None) for state in ends
        ]
        assert all(logger.filter(record) for record in records)
        levels[paused] = [record.levelname for record in records]
    assert levels == {True: ["INFO", "INFO", "ERROR"], False: ["ERROR"] * 3}
