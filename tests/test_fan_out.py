"""What both flows share: how they end, whatever becomes of their work."""

import logging

import pytest
from factories import make_record
from prefect.states import Cancelled, Completed, Failed

from flows.fan_out import carry_out, keeping_status
from tasks import stages
from tasks.errors import Paused, RunPaused, StageError, UserError
from tasks.leases import active_locks, pausing, stopping
from tasks.records import load_record
from tasks.run_folder import Home


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


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (Paused("after step 3"), "paused"),
        (KeyboardInterrupt(), "paused"),
        (StageError("no room"), "failed"),
        (UserError("bad data"), "failed"),
        (ZeroDivisionError(), "failed"),
    ],
)
@pytest.mark.parametrize("before", ["running", "paused", "failed"])
def test_a_record_says_running_while_somebody_works(home: Home, before: str, error: BaseException, left: str) -> None:
    run = home.run("run")
    record = make_record(run_id="run", status=before)
    record.save(run)
    with pytest.raises(BaseException) as raised, keeping_status(record, run):
        assert load_record(run).status == "running"
        raise error
    assert load_record(run).status == left
    assert type(raised.value) is (RunPaused if isinstance(error, Paused) else type(error))
    if isinstance(error, Paused):
        assert str(raised.value) == "run: paused after step 3; the same command goes on"


@pytest.mark.parametrize("status", ["complete", "diverged"])
def test_a_finished_run_stays_what_it_is(home: Home, status: str) -> None:
    """Also when the evaluation in a run of its own that follows it pauses, whose message is the one to show."""
    run, other = home.run("run"), home.run("other")
    record, evaluation = make_record(run_id="run", status=status), make_record(run_id="other", status="running")
    record.save(run)
    before = run.record.read_bytes()
    with (
        pytest.raises(RunPaused, match=r"^other: paused with 1 of 2"),
        keeping_status(record, run),
        keeping_status(evaluation, other),
    ):
        raise Paused("with 1 of 2 fine-tunings done")
    assert run.record.read_bytes() == before and load_record(other).status == "paused"


def test_a_pause_is_logged_as_no_error() -> None:
    """The words are Prefect's own; tests/test_guards.py listens to Prefect itself."""
    logger = logging.getLogger("prefect.task_runs")
    levels = []
    for state in (Cancelled(message="after step 3", name=stages.PAUSED), Failed(message="no room")):
        record = logger.makeRecord(logger.name, logging.ERROR, "", 0, f"Finished in state {state}", (), None)
        assert logger.filter(record)
        levels.append(record.levelname)
    assert levels == ["INFO", "ERROR"]


def test_what_another_command_finished_is_not_taken_back(home: Home) -> None:
    run = home.run("run")
    record = make_record(run_id="run", status="running", scores=[])
    with pytest.raises(RunPaused), keeping_status(record, run):
        make_record(run_id="run").save(run)
        before = run.record.read_bytes()
        raise Paused("before it was done")
    assert run.record.read_bytes() == before
