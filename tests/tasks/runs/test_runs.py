"""Runs: one command works at a run at a time, and its record says how it stands whatever ends the work."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from factories import make_checkpoint, make_record

from tasks.errors import Paused, RunPaused, StageError, UserError
from tasks.interruption import pausing
from tasks.jobs.leases import lease_devices
from tasks.pretraining.stage import pretraining_identity
from tasks.review.rescoring import rescore_run
from tasks.runs.claiming import open_training_run
from tasks.runs.preflight import _with_start
from tasks.runs.request import Request
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec, ModelSpec, TrainingSpec
from tasks.store.home import Home, RunFolder
from tasks.store.records import RunRecord, load_record
from tasks.upkeep import _silent_runs

PATIENCE = 60
SPEC = ExperimentSpec(name="test", data=DataSpec(), model=ModelSpec())


def work(home: Home, identity: str = "a" * 16) -> AbstractContextManager[tuple[RunFolder, RunRecord]]:
    return open_training_run(SPEC, identity, "b" * 16, Request(home, None, home.root / "log.md"))


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    pausing.clear()
    yield
    pausing.clear()


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
    with work(home) as (run, record):
        record.status = before  # type: ignore[assignment]
        record.save(run)
    with pytest.raises(BaseException) as raised, work(home) as (run, record):
        assert load_record(run).status == "running" and load_record(run).finished is None
        record.name = "what was found out before the end"
        raise error
    stored = load_record(run)
    assert (stored.status, stored.name) == (left, "what was found out before the end")
    assert (stored.finished is not None) == (left == "failed")
    assert type(raised.value) is (RunPaused if isinstance(error, Paused) else type(error))
    if isinstance(error, Paused):
        assert str(raised.value) == f"{run.run_id}: paused after step 3; the same command goes on"


@pytest.mark.parametrize("status", ["complete", "diverged"])
def test_a_finished_run_stays_what_it_is(home: Home, status: str) -> None:
    """Also when the evaluation in a run of its own that follows it pauses, whose message is the one to show."""
    with work(home) as (run, record):
        record.status = status  # type: ignore[assignment]
        record.save(run)
    before = run.record.read_bytes()
    with pytest.raises(RunPaused) as raised, work(home), work(home, "c" * 16) as (other, _):
        raise Paused("in the fine-tuning")
    assert str(raised.value) == f"{other.run_id}: paused in the fine-tuning; the same command goes on"
    assert other.run_id != run.run_id
    assert run.record.read_bytes() == before and load_record(other).status == "paused"


def test_a_record_without_room_does_not_hide_what_ended_the_work(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StageError("no space left on device")

    with pytest.raises(KeyboardInterrupt), work(home):
        monkeypatch.setattr(RunRecord, "save", full)
        raise KeyboardInterrupt
    assert "goes on saying running: no space left" in caplog.text


class Other(threading.Thread):
    """A second command for the same run."""

    def __init__(self, home: Home) -> None:
        super().__init__()
        self.home, self.found, self.error = home, "", ""
        self.start()

    def run(self) -> None:
        try:
            with work(self.home) as (_, record):
                self.found = record.status
        except RunPaused as error:
            self.error = str(error)


def wait_until_it_waits(caplog: pytest.LogCaptureFixture, run: Path) -> None:
    for _ in range(PATIENCE * 50):
        if f"another command works on {run.name}: waiting for it" in caplog.text:
            return
        threading.Event().wait(0.02)
    raise AssertionError("it does not wait")


def test_a_second_command_waits_and_finds_what_the_first_did(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    with work(home) as (run, record):
        other = Other(home)
        wait_until_it_waits(caplog, run.root)
        assert other.found == ""
        record.status = "complete"
        record.save(run)
    other.join(PATIENCE)
    assert other.found == "complete" and len(list(home.runs.iterdir())) == 1


def test_a_pause_that_comes_before_the_work_is_written_down(home: Home) -> None:
    """A lock that is free is taken all the same, so that the record is the pausing command's to write."""
    pausing.set()
    with pytest.raises(RunPaused), work(home) as (run, _), lease_devices(home):
        raise AssertionError("it must not begin")
    assert load_record(run).status == "paused"


def test_nobody_else_writes_the_record_of_a_run_at_work(home: Home) -> None:
    with work(home) as (run, record):
        record.status = "complete"
        record.save(run)
        with pytest.raises(UserError, match="another command works at it"):
            rescore_run(run, home.root / "log.md")
        record.status = "running"
        record.save(run)
        (found,) = [one for one in _silent_runs(home) if one.clear]
        found.clear()
        assert load_record(run).status == "running"
    found.clear()
    assert load_record(run).status == "failed"


def test_one_that_waits_and_is_paused_leaves_the_record_alone(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    with work(home) as (run, _):
        before = run.record.read_bytes()
        other = Other(home)
        wait_until_it_waits(caplog, run.root)
        pausing.set()
        other.join(PATIENCE)
        assert other.error == f"{run.run_id}: paused before it began; the same command goes on"
        assert run.record.read_bytes() == before


@pytest.mark.parametrize("typed", ["perceiver_2026", "wide", "perceiver_20260301_000000"])
def test_a_warm_start_is_recorded_by_its_run_id_however_it_was_typed(home: Home, typed: str) -> None:
    """Else the identity of a training would depend on it, and a name that fits today may fit another run tomorrow."""
    run = home.run("perceiver_20260301_000000")
    run.root.mkdir()
    make_record(run_id=run.run_id, name="wide").save(run)
    spec = SPEC.model_copy(update={"training": TrainingSpec(init_from=typed)})
    start = make_checkpoint(name=run.run_id, run_id=run.run_id)
    settled = _with_start(spec, start, Request(home, None, home.root / "log.md"))
    assert settled.training.init_from == run.run_id
    as_typed = spec.model_copy(update={"training": TrainingSpec(init_from=run.run_id)})
    assert pretraining_identity(settled, "d", start) == pretraining_identity(as_typed, "d", start)
    folder = make_checkpoint(origin="local")
    assert _with_start(spec, folder, Request(home, None, home.root / "log.md")) == spec
