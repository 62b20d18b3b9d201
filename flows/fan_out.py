"""What both flows share: the fan-out over task x seed beside the concept analysis, the scores, the row."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import allow_failure
from prefect.context import TagsContext
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State

from tasks import stages
from tasks.data.sources import Source
from tasks.data.task_data import PreparedTask
from tasks.errors import Paused, StageError, UserError
from tasks.interruption import pause_on_sigterm, pausing, stopping
from tasks.jobs.devices import visible_devices
from tasks.jobs.launch import pause_all_jobs, stop_all_jobs
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import RunFolder, cogito_home
from tasks.store.locks import TAG, active
from tasks.store.records import CellResult, Checkpoint, CorpusResult, RunRecord, Score, StageRecord, Start
from tasks.store.stage_table import check_stage, in_order

log = logging.getLogger("cogito.flow")


def workers() -> int:
    """Threads of a flow: one per device, one for the analysis, one for short stages."""
    return len(visible_devices()) + 2


def settle(future: PrefectFuture[Any], place: str | None = None) -> tuple[Any, str | None]:
    """Wait for a stage: its result and None, or None and what went wrong.

    Args:
        place: what to say where it was told to pause; default its own words.

    Raises:
        UserError: the stage found bad input.
        Paused: the stage was told to pause.
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
    if state.name == stages.BAD_INPUT:
        raise UserError(state.message or "bad input")
    if state.name == stages.PAUSED:
        raise Paused(place or state.message or "before it was done")
    return None, (state.message or state.name or "failed").strip()


def wait_for_all(futures: Iterable[PrefectFuture[Any] | None]) -> None:
    """Wait until every stage has ended, however it did: a pause of one must not leave others at work."""
    for future in futures:
        with suppress(UserError, Paused):
            if future is not None:
                settle(future)


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
    # A stage that ran beside others knows its own time better than whoever waited for all of them.
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


def prepare_tasks(
    spec: ExperimentSpec, sources: dict[str, Source], tokenizer: Path, after: Iterable[Any] = ()
) -> dict[str, PreparedTask]:
    """Tokenise every task before anything long begins, so that bad data is found early."""
    futures = {
        name: stages.prepare_task_data.submit(
            name, spec.evaluation.for_task(name), tokenizer, sources[name], wait_for=list(after)
        )
        for name in spec.evaluation.tasks
    }
    prepared = {}
    for name, future in futures.items():
        data, problem = settle(future)
        if problem is not None:
            raise StageError(f"task {name}: {problem}")
        prepared[name] = data
    return prepared


def evaluate_checkpoint(
    spec: ExperimentSpec,
    checkpoint: Checkpoint,
    corpus: CorpusResult | None,
    tasks: dict[str, PreparedTask],
    record: RunRecord,
    run: RunFolder,
    after: Iterable[Any] = (),
) -> None:
    """Fan out over task x seed x start with the concept analysis beside it; fills the record."""
    wait_for = [allow_failure(future) for future in after]
    started = time.monotonic()
    analysis: PrefectFuture[Any] | None = None
    if corpus is not None:
        analysis = stages.analyse.submit(checkpoint, corpus, spec.analysis, run, wait_for=wait_for)
    protocols = {name: spec.evaluation.for_task(name) for name in tasks}
    order: list[tuple[str, Start]] = [(name, "checkpoint") for name in spec.evaluation.tasks]
    if spec.evaluation.random_start:
        order += [(name, "random") for name in spec.evaluation.tasks]
    if spec.evaluation.zero_shot:
        order += [(name, "zero_shot") for name in spec.evaluation.zero_shot_tasks]

    def urgency(key: tuple[str, Start]) -> tuple[bool, bool, float]:
        # What others start from comes before them; then the longest first, so that no device idles at the end.
        name, start = key
        work = tasks[name].train_examples * protocols[name].epochs
        return start != "checkpoint", protocols[name].start_from is not None, -work

    cells: dict[tuple[str, Start], list[tuple[int, PrefectFuture[Any]]]] = {}
    for name, start in sorted(order, key=urgency):
        protocol = protocols[name]
        begin: dict[int, PrefectFuture[Any]] = {}
        if protocol.start_from is not None and start == "checkpoint":
            begin = dict(cells[protocol.start_from, "checkpoint"])
        first = next(iter(begin.values()), None)
        head = "sentence_pair" if start == "zero_shot" else record.head
        cells[name, start] = [
            (
                seed,
                stages.finetune_cell.submit(
                    name,
                    seed,
                    start,
                    checkpoint,
                    tasks[name],
                    protocol,
                    head,
                    run,
                    begin.get(seed, first),
                    wait_for=wait_for,
                ),
            )
            for seed in (protocol.seeds[:1] if start == "zero_shot" else protocol.seeds)
        ]
    results: dict[tuple[str, Start], list[CellResult]] = {}
    for (name, start), futures in cells.items():
        results[name, start] = []
        for seed, future in futures:
            try:
                cell, problem = settle(future, "in the fine-tuning")
            except Paused:
                wait_for_all([*(one for column in cells.values() for _, one in column), analysis])
                raise
            if problem is not None:
                log.error("finetune %s seed %d (%s) failed: %s", name, seed, start, problem)
                origin = protocols[name].start_from if start == "checkpoint" else None
                cell = CellResult(task=name, seed=seed, start=start, status="failed", error=problem, start_from=origin)
            results[name, start].append(cell)
    record.cells = [cell for key in order for cell in results[key]]
    failed = [f"{cell.task} seed {cell.seed} ({cell.start})" for cell in record.cells if cell.status == "failed"]
    note_stage(record, "finetuning", started, record.cells, f"failed: {', '.join(failed)}" if failed else None)
    if analysis is None:
        record.stages["analysis"] = StageRecord(status="skipped", message="a plain encoder has no concepts")
    else:
        record.analysis, problem = settle(analysis, "in the analysis")
        note_stage(record, "analysis", started, record.analysis, problem)
    record.save(run)

    record.stages.pop("scores", None)
    scores: list[Score] = []
    for name, start in order:
        future = stages.score_cells.submit(
            name,
            start,
            results[name, start],
            tasks[name],
            run,
            wait_for=[allow_failure(future) for _, future in cells[name, start]],
        )
        found, problem = settle(future)
        if problem is not None:
            record.stages["scores"] = StageRecord(status="failed", message=f"{name}: {problem}")
        scores += found or []
    record.scores = scores


def report_on(folder: Path) -> None:
    """Write the report of a finished run or sweep.

    It is a rendering of records that are saved by now and can be made again, so it is no stage of the record, and one
    that fails, however it does, is a warning: record, row and state stay what the run made them.
    """
    try:
        _, problem = settle(stages.make_report.submit(folder))
    except Exception as error:
        problem = str(error)
    if problem is not None:
        log.warning(
            "NO REPORT of %s: %s; the run, its record and its row are not touched by this; fix: `cogito report %s`",
            folder.name,
            problem,
            folder.name,
        )


@contextmanager
def time_budget(max_hours: float | None) -> Iterator[None]:
    """Have the work of the block pause when its time is over, or when the process is asked to end (SIGTERM).

    The signal is listened to only where the command asked for that; a worker's flow run is ended as Prefect does it.
    """
    timer = threading.Timer((max_hours or 0) * 3600, pause_all_jobs)
    timer.daemon = True
    before: Any = None
    listens = pause_on_sigterm.is_set() and threading.current_thread() is threading.main_thread()
    if max_hours is not None:
        timer.start()
    if listens:
        before = signal.signal(signal.SIGTERM, lambda number, frame: pause_all_jobs(end_short_ones=True))
    try:
        yield
    finally:
        timer.cancel()
        if listens:
            signal.signal(signal.SIGTERM, before)


def carry_out(work: Callable[[], State], max_hours: float | None = None) -> State:
    """Do the work of a flow in this home; the state in which the flow ends, also when the work cannot be done.

    Args:
        max_hours: save and pause after so many hours; None has no limit.
    """
    stopping.clear()
    pausing.clear()
    with known_as_active(), without_tags():
        return _outcome(work, max_hours)


def known_as_active() -> AbstractContextManager[Any]:
    """Be known in this home by the id of the flow run, unless the command that started it is already known."""
    tagged = any(tag.startswith(TAG) for tag in flow_run.tags or ())
    return nullcontext() if tagged else active(cogito_home(), flow_run.id or "")


def without_tags() -> TagsContext:
    """Give stages no tag: for one with a tag Prefect asks its server for a slot, and work goes on without a server."""
    return TagsContext(current_tags=set())


def _outcome(work: Callable[[], State], max_hours: float | None) -> State:
    try:
        with time_budget(max_hours):
            return work()
    except Paused as error:  # nothing failed, and the same command goes on
        return Completed(message=str(error), name=stages.PAUSED)
    except UserError as error:
        return Failed(message=str(error), name=stages.BAD_INPUT)
    except StageError as error:
        return Failed(message=str(error))


def finish_run(record: RunRecord, run: RunFolder, log_path: Path) -> State:
    """Settle the record's status, write the row, and say how the flow ends."""
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
        message = "; ".join(f"{name}: {text}" for name, text in failed.items())
        return Failed(message=f"{record.run_id}: {message}", data=None)
    name = "Diverged" if record.status == "diverged" else None
    return Completed(message=f"{record.run_id}: row in {log_path}", data=record.run_id, name=name)
