"""The fan-out over task x seed x start beside the concept analysis, and the scores of its cells."""

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.bookkeeping import note_stage, settle, skip_stages
from tasks import stages
from tasks.analysis.stage import analysis_work
from tasks.data.sources import Source
from tasks.data.task_data import Family, PreparedTask
from tasks.errors import Paused, StageError, UserError
from tasks.finetuning.cell import Cell
from tasks.forecast.foretold import fan_out_seconds
from tasks.jobs.devices import visible_devices
from tasks.jobs.history import judge, past_jobs
from tasks.prefect_entry import PrefectFuture, allow_failure
from tasks.runs.claiming import evaluation_identity
from tasks.spec.evaluation import CellProtocol
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.home import RunFolder, cogito_home
from tasks.store.records import CellResult, Checkpoint, CorpusResult, RunRecord, Score, StageRecord, Start

log = logging.getLogger("cogito.flow")

# A task with a start: its cells differ in the seed alone.
Column = tuple[str, Start]
Cells = dict[Column, dict[int, PrefectFuture[Any]]]


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint is evaluated by.

    Attributes:
        corpus: the text of the concept analysis; None for a plain encoder.
        tasks: the prepared data of every task.
    """

    spec: ExperimentSpec
    corpus: CorpusResult | None
    tasks: dict[str, PreparedTask]

    def identity(self, head: str) -> str:
        """The identity of this evaluation with a head."""
        return evaluation_identity(self.spec, head, self.corpus, self.tasks)

    def protocol(self, task: str) -> CellProtocol:
        """How the cells of a task are trained."""
        return self.spec.evaluation.for_task(task)

    def columns(self) -> list[Column]:
        """All tasks from the checkpoint, then those from random weights, then those without a training."""
        section = self.spec.evaluation
        columns: list[Column] = [(name, "checkpoint") for name in section.tasks]
        if section.random_start:
            columns += [(name, "random") for name in section.tasks]
        if section.zero_shot:
            columns += [(name, "zero_shot") for name in section.zero_shot_tasks]
        return columns

    def cell(self, column: Column, seed: int, head: str) -> Cell:
        """A cell of a column; a zero-shot one has a head of its own."""
        task, start = column
        return Cell(task, seed, start, "sentence_pair" if start == "zero_shot" else head, self.protocol(task))

    def seeds(self, column: Column) -> tuple[int, ...]:
        """The seeds of a column; without a training one says all."""
        seeds = self.protocol(column[0]).seeds
        return seeds[:1] if column[1] == "zero_shot" else seeds

    def cells(self, head: str) -> list[Cell]:
        """Every cell of the fan-out."""
        return [self.cell(column, seed, head) for column in self.columns() for seed in self.seeds(column)]

    def longest_first(self, checkpoint: Checkpoint, head: str) -> list[Column]:
        """The columns in the order in which they start, so that no device idles at the end.

        Those that others start from come before all, and those others last.
        """
        past, device = past_jobs(cogito_home()), visible_devices()[0].kind

        def urgency(column: Column) -> tuple[bool, bool, float]:
            cell = self.cell(column, 0, head)
            awaited = cell.protocol.keep_model and cell.start == "checkpoint"
            expected = judge(cell.work(checkpoint, self.tasks[cell.task]), device, past)
            return self.origin(column) is not None, not awaited, -expected.seconds

        return sorted(self.columns(), key=urgency)

    def origin(self, column: Column) -> str | None:
        """The task whose fine-tuned model the cells of a column start from."""
        return self.protocol(column[0]).start_from if column[1] == "checkpoint" else None


def prepare_corpus(
    data: DataSpec, source: Source, data_root: Path | None, tokenizer: Path | None = None
) -> tuple[PrefectFuture[Any], CorpusResult]:
    """Tokenise the pretraining text; returns the stage and its result.

    Args:
        tokenizer: a checkpoint's own, in place of the one that the data section names.

    Raises:
        StageError: it failed.
    """
    future = stages.prepare_data.submit(data, source, data_root, tokenizer)
    corpus, problem = settle(future)
    if problem is not None:
        raise StageError(f"data: {problem}")
    return future, corpus


def prepare_tasks(
    spec: ExperimentSpec,
    sources: dict[str, Source],
    tokenizer: Path,
    after: Iterable[Any] = (),
    family: Family = "concept",
) -> dict[str, PreparedTask]:
    """Tokenise every task before anything long begins, so that bad data is found early.

    Raises:
        StageError: a task failed.
    """
    futures = {
        name: stages.prepare_task_data.submit(
            name, spec.evaluation.for_task(name), tokenizer, sources[name], family, wait_for=list(after)
        )
        for name in spec.evaluation.tasks
    }
    prepared = {}
    for name, future in futures.items():
        prepared[name], problem = settle(future)
        if problem is not None:
            raise StageError(f"task {name}: {problem}")
    return prepared


def evaluate_checkpoint(
    evaluation: Evaluation, checkpoint: Checkpoint, record: RunRecord, run: RunFolder, after: Iterable[Any] = ()
) -> None:
    """Fine-tune, analyse and score a checkpoint; fills the record.

    Args:
        after: stages that come before, in whatever way they ended.
    """
    wait_for = [allow_failure(future) for future in after]
    started = time.monotonic()
    record.task_warnings = [warning for task in evaluation.tasks.values() for warning in task.warnings]
    _foretell(evaluation, checkpoint, record, run)
    analysis: PrefectFuture[Any] | None = None
    if evaluation.corpus is not None:
        section = evaluation.spec.analysis
        analysis = stages.analyse.submit(checkpoint, evaluation.corpus, section, run, wait_for=wait_for)
    cells = _submit_cells(evaluation, checkpoint, record.head, run, wait_for)
    try:
        results = {
            column: [_cell_result(evaluation, column, *cell) for cell in cells[column].items()] for column in cells
        }
    except Paused:
        for future in (*(future for column in cells.values() for future in column.values()), analysis):
            with suppress(UserError, Paused):  # wait for it in whatever way it ends, and leave nothing at work
                if future is not None:
                    settle(future)
        raise
    record.cells = [cell for column in evaluation.columns() for cell in results[column]]
    failed = [f"{cell.task} seed {cell.seed} ({cell.start})" for cell in record.cells if cell.status == "failed"]
    note_stage(record, "finetuning", started, record.cells, f"failed: {', '.join(failed)}" if failed else None)
    if analysis is None:
        skip_stages(record, ["analysis"], "a plain encoder has no concepts")
    else:
        record.analysis, problem = settle(analysis, "in the analysis")
        note_stage(record, "analysis", started, record.analysis, problem)
    record.save(run)
    _score(evaluation, cells, results, record, run)


def _foretell(evaluation: Evaluation, checkpoint: Checkpoint, record: RunRecord, run: RunFolder) -> None:
    """Record what the fan-out will take, unless a part of it is done."""
    if any(run.root.glob("finetuning/*/result.json")):
        return
    works = [cell.work(checkpoint, evaluation.tasks[cell.task]) for cell in evaluation.cells(record.head)]
    if evaluation.corpus is not None:
        works.append(analysis_work(checkpoint, evaluation.corpus, evaluation.spec.analysis))
    if works and (seconds := fan_out_seconds(works, cogito_home())) is not None:
        record.forecast["finetuning"] = seconds
        record.save(run)


def _submit_cells(
    evaluation: Evaluation, checkpoint: Checkpoint, head: str, run: RunFolder, wait_for: list[Any]
) -> Cells:
    cells: Cells = {}
    for column in evaluation.longest_first(checkpoint, head):
        data, origin = evaluation.tasks[column[0]], evaluation.origin(column)
        begin: dict[int, PrefectFuture[Any]] = cells[origin, "checkpoint"] if origin else {}
        first = next(iter(begin.values()), None)
        cells[column] = {}
        for seed in evaluation.seeds(column):
            cell, source = evaluation.cell(column, seed, head), begin.get(seed, first)
            cells[column][seed] = stages.finetune_cell.submit(cell, checkpoint, data, run, source, wait_for=wait_for)
    return cells


def _cell_result(evaluation: Evaluation, column: Column, seed: int, future: PrefectFuture[Any]) -> CellResult:
    """The result of a cell; a job that failed is a cell that failed."""
    name, start = column
    cell: CellResult
    cell, problem = settle(future, "in the fine-tuning")
    if problem is None:
        return cell
    log.error("finetune %s seed %d (%s) failed: %s", name, seed, start, problem)
    origin = evaluation.origin(column)
    return CellResult(task=name, seed=seed, start=start, status="failed", error=problem, start_from=origin)


def _score(
    evaluation: Evaluation, cells: Cells, results: dict[Column, list[CellResult]], record: RunRecord, run: RunFolder
) -> None:
    record.stages.pop("scores", None)
    scores: list[Score] = []
    for column in evaluation.columns():
        task, start = column
        wait_for = [allow_failure(future) for future in cells[column].values()]
        data = evaluation.tasks[task]
        future = stages.score_cells.submit(task, start, results[column], data, run, wait_for=wait_for)
        column_scores, problem = settle(future)
        if problem is not None:
            record.stages["scores"] = StageRecord(status="failed", message=f"{task}: {problem}")
        scores += column_scores or []
    record.scores = scores
