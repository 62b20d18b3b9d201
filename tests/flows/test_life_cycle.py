"""How a flow run begins and ends, whatever becomes of its work."""

import logging
import os
import signal
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import MagicMock, call
from uuid import UUID, uuid4

import pytest
from prefect.exceptions import Pause
from prefect.states import Cancelled, Completed, Failed, Pending, State, Suspended

from flows import experiment as experiment_file
from flows.life_cycle import carry_out, heeding, run_of
from flows.orders import Orders
from tasks import stages
from tasks.data.sources import Source
from tasks.errors import Paused, RunFailed, RunPaused, StageError, UserError
from tasks.interruption import interrupted, pausing, stopping
from tasks.runs.preflight import EvaluationInputs, Inputs, hand_over, take_over
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec, ModelSpec
from tasks.store.home import Home
from tasks.store.locks import active_locks

INPUTS = Inputs(ExperimentSpec(name="test", data=DataSpec()), Source("text", "text", None, "f" * 16), {}, "d" * 16)


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


def test_a_final_state_carries_its_run_as_data(home: Home) -> None:
    def pause() -> None:
        raise RunPaused("tiny_1: paused after step 3", "tiny_1")

    paused = carry_out(pause)  # type: ignore[arg-type]
    assert (paused.name, run_of(paused)) == (stages.PAUSED, "tiny_1")
    assert run_of(Completed(message="row", data="tiny_1")) == "tiny_1"
    assert run_of(Failed(message="no room", data=RunFailed("no room", "tiny_1"))) == "tiny_1"
    assert [run_of(state) for state in (Completed(), Failed(message="tiny_1: no"), Failed(data=ValueError()))] == [
        None
    ] * 3


@pytest.mark.parametrize("handed_over", [True, False])
def test_a_flow_finds_its_inputs_only_if_its_caller_did_not(
    home: Home, monkeypatch: pytest.MonkeyPatch, handed_over: bool
) -> None:
    """The command finds them before it starts a server; a deployment has no command."""
    heard: list[str] = []

    def find(*_: object) -> Inputs:
        heard.append("found")
        return INPUTS

    def first_stage(_: object, corpus: Source, *__: object) -> None:
        heard.append(corpus.name)
        raise StageError("far enough")

    monkeypatch.setattr(experiment_file, "find_inputs", find)
    monkeypatch.setattr(experiment_file, "prepare_corpus", first_stage)
    spec = ExperimentSpec(name="test", data=DataSpec(), model=ModelSpec())
    with hand_over(INPUTS if handed_over else None):
        assert take_over(EvaluationInputs) is None
        state = experiment_file.experiment.fn(spec, log="log.md")
    assert state.message == "far enough"
    assert heard == (["text"] if handed_over else ["found", "text"])
    assert take_over(Inputs) is None


def test_the_first_interrupt_pauses_also_after_the_time_budget_and_the_second_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("flows.orders.stop_all_jobs", lambda: asked.append("stop"))
    orders = Orders()
    monkeypatch.setattr(orders, "_apart", lambda why: asked.append("pause"))
    pausing.set()
    try:
        orders.on_interrupt(signal.SIGINT, None)
        with pytest.raises(KeyboardInterrupt):
            orders.on_interrupt(signal.SIGINT, None)
    finally:
        pausing.clear()
        interrupted.clear()
    assert asked == ["pause", "stop"]


@pytest.mark.parametrize("resumed", [True, False])
def test_a_suspended_run_is_said_to_be_so_after_its_last_heartbeat(
    monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    """Else the watch over silent runs would call it crashed; who resumed it meanwhile is not overruled."""
    run, suspended = str(uuid4()), Suspended()
    client = MagicMock()
    client.read_flow_run.return_value.state = Pending() if resumed else suspended
    monkeypatch.setattr("flows.orders.get_client", lambda **_: nullcontext(client))
    monkeypatch.setattr("flows.life_cycle.flow_run", SimpleNamespace(id=run))
    orders = Orders()
    orders.suspended = suspended
    monkeypatch.setattr("flows.life_cycle.heed", lambda _: nullcontext(orders))
    with pytest.raises(Pause) as raised:
        heeding(lambda: Completed(name=stages.PAUSED))
    assert raised.value.state is suspended
    assert client.set_flow_run_state.call_args_list == ([] if resumed else [call(UUID(run), suspended, force=True)])


@pytest.mark.skipif(os.name != "posix", reason="opens a pseudo-terminal")
def test_nothing_is_written_to_a_terminal_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty  # not on Windows

    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        orders = Orders()
        monkeypatch.setattr(orders, "_apart", lambda why: None)
        os.close(ours)
        orders.on_signal(signal.SIGHUP, None)
        print("paused after step 3", flush=True)  # else an error of input and output, which would fail the run


@pytest.mark.prefect
def test_prefect_runs_a_flow_where_it_hears_what_was_handed_over(home: Home) -> None:
    from prefect import flow
    from prefect.testing.utilities import prefect_test_harness

    @flow
    def hears() -> State:
        return Completed(data="same" if take_over(Inputs) is INPUTS else "other")

    @flow
    def fails() -> State:
        return Failed(message="no room", data=RunFailed("no room", "tiny_1"))

    with prefect_test_harness(server_startup_timeout=120), hand_over(INPUTS):
        assert run_of(hears(return_state=True)) == "same"
        failed = fails(return_state=True)
    assert (failed.name, failed.message, run_of(failed)) == ("Failed", "no room", "tiny_1")


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
