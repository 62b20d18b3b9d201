"""Waiting for stages, recording how they went, and ending a run with its row and its report."""

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks import stages
from tasks.errors import BAD_INPUT, PAUSED, Paused, RunFailed, UserError
from tasks.jobs.launch import stop_all_jobs
from tasks.prefect_entry import Completed, Failed, PrefectFuture, State
from tasks.store.home import RunFolder
from tasks.store.records import RunRecord, StageRecord
from tasks.store.stage_table import check_stage, in_order

log = logging.getLogger("cogito.flow")


def settle(future: PrefectFuture[Any], place: str | None = None) -> tuple[Any, str | None]:
    """Wait for a stage; returns its result and None, or None and what went wrong.

    Args:
        place: where the work was paused, for the message; default the stage's own words.

    Raises:
        UserError: the stage found bad input.
        Paused: the stage was paused.
    """
    try:
        future.wait()
    except BaseException:
        # Interrupted, or cancelled from the UI: Prefect waits for its threads, and they wait for their jobs.
        stop_all_jobs()
        raise
    state = future.state
    if state.is_completed():
        return future.result(), None
    if state.name == BAD_INPUT:
        raise UserError(state.message or "bad input")
    if state.name == PAUSED:
        raise Paused(place or state.message or "before it was done")
    return None, (state.message or state.name or "failed").strip()


def note_stage(record: RunRecord, name: str, started: float, result: Any, problem: str | None) -> None:
    """Record how a stage went; one that found its work done keeps what was recorded when it did the work.

    Args:
        name: its row in the table of stages, whose order the record keeps.
        started: on the monotonic clock, in seconds.
        problem: what went wrong, if anything did.

    Raises:
        KeyError: the table has no such row.
    """
    check_stage(name)
    # A stage that ran beside others knows its own time better than the flow that waited for all of them.
    seconds = round(getattr(result, "seconds", None) or time.monotonic() - started, 1)
    if problem is not None:
        log.error("%s failed: %s", name, problem)
        record.stages[name] = StageRecord(status="failed", seconds=seconds, message=problem)
    elif record.stages.get(name) is None or record.stages[name].status != "complete" or not _reused(result):
        record.stages[name] = StageRecord(status="complete", seconds=seconds)
    record.stages = {name: record.stages[name] for name in in_order(record.stages)}


def _reused(result: Any) -> bool:
    parts = result if isinstance(result, list) else [result]
    return bool(parts) and all(getattr(part, "reused", False) for part in parts)


def skip_stages(record: RunRecord, names: Iterable[str], reason: str) -> None:
    """Record that stages were skipped, and why."""
    for name in names:
        record.stages[check_stage(name)] = StageRecord(status="skipped", message=reason)


def finish_run(record: RunRecord, run: RunFolder, log_path: Path) -> State:
    """Settle the status of a record, write its row and its report; returns the state that the flow ends in."""
    failed = {name: stage.message for name, stage in record.stages.items() if stage.status == "failed"}
    if failed or record.status != "complete":
        record.finished = datetime.now(UTC)
    diverged = record.pretraining is not None and record.pretraining.diverged is not None
    record.status = "failed" if failed else "diverged" if diverged and record.kind == "training" else "complete"
    record.save(run)
    _, problem = settle(stages.write_log_row.submit(log_path, record))
    if problem is not None:
        failed["row"] = problem
    report_on(run.root)
    if failed:
        message = f"{record.run_id}: {'; '.join(f'{name}: {text}' for name, text in failed.items())}"
        return Failed(message=message, data=RunFailed(message, record.run_id))
    name = "Diverged" if record.status == "diverged" else None
    return Completed(message=f"{record.run_id}: row in {log_path}", data=record.run_id, name=name)


def report_on(folder: Path) -> None:
    """Write the report of a finished run or sweep.

    It renders records that are saved by now and can be made again, so any failure of it is a warning: record, row and
    state stay what the run made them.
    """
    try:
        _, problem = settle(stages.make_report.submit(folder))
    except Exception as error:
        problem = str(error)
    if problem is not None:
        text = "NO REPORT of %s: %s; the run, its record and its row stay as they are; fix: `cogito report %s`"
        log.warning(text, folder.name, problem, folder.name)
