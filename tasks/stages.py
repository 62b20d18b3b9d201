"""The Prefect tasks: each gives the plain function of a stage its name, its retries, its progress and its artifacts.

A stage that fails with an expected error ends as a Failed state with one clear message; a stage that finds its work
done ends as Cached. Transient faults (network, Hub) are raised and retried with backoff and jitter.
"""

import functools
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tasks.analysis.stage import analyse_concepts
from tasks.artifacts import artifact_key, show, show_image, show_progress, show_summary
from tasks.checkpoints.publishing import publish_checkpoint
from tasks.data.corpus import prepare_corpus
from tasks.data.hub import asked_wait, gave_up, is_transient
from tasks.data.sources import Source
from tasks.data.task_data import Family, PreparedTask, prepare_task
from tasks.errors import BAD_INPUT, PAUSED, Paused, StageError, UserError
from tasks.finetuning.cell import Cell
from tasks.finetuning.scoring import score_task
from tasks.finetuning.stage import finetune
from tasks.in_process import RETRIES, submit
from tasks.interruption import pausing, stopping
from tasks.jobs.messages import Progress
from tasks.log.experiment_log import write_row
from tasks.log.rows import render_row
from tasks.picture import read_curve, summary_picture
from tasks.plots import plot_curve, plot_live_geometry
from tasks.prefect_entry import (
    Cancelled,
    Completed,
    Failed,
    FlowRunContext,
    State,
    Task,
    TaskRunContext,
    create_markdown_artifact,
    create_table_artifact,
    exponential_backoff,
)
from tasks.pretraining.stage import pretrain
from tasks.progress import DISPLAY
from tasks.report.writing import is_current, write_report
from tasks.scores.showing import artifact_row
from tasks.secrets import redact
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import AnalysisSpec, CellProtocol
from tasks.spec.experiment import ExperimentSpec, PublishSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.files import disk_full
from tasks.store.home import RunFolder, cogito_home
from tasks.store.records import (
    AnalysisResult,
    CellResult,
    Checkpoint,
    CorpusResult,
    PretrainingResult,
    PublishResult,
    RunRecord,
    Score,
    load_record,
)
from tasks.store.stage_table import check_stage

# Seconds between two pictures of the ranks of a training: one takes 0.2 s of the CPU.
DRAWING_SECONDS = 30.0


class _PauseIsNoError(logging.Filter):
    """Logs a pause at INFO: Prefect logs any end of a task but Completed as an error, and of those waiting for it."""

    def filter(self, record: logging.LogRecord) -> bool:
        ends = tuple(f"Finished in state {name}" for name in (PAUSED, "NotReady"))
        if pausing.is_set() and record.getMessage().startswith(ends):
            record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        return True


logging.getLogger("prefect.task_runs").addFilter(_PauseIsNoError())


def _retry_transient(_task: Any, _run: Any, state: State) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_transient(error)


def _is_last_try() -> bool:
    context = TaskRunContext.get()
    return context is not None and context.task_run.run_count > RETRIES


class Stage(Task[..., Any]):
    """A Prefect task within a flow; outside of one the same function in a thread of this process."""

    def submit(  # type: ignore[override]
        self, *args: Any, wait_for: Iterable[Any] | None = None, **kwargs: Any
    ) -> Any:
        """Start the stage and return its future."""
        if FlowRunContext.get() is None:
            return submit(self.fn, args, kwargs, wait_for or ())
        return super().submit(*args, wait_for=wait_for, **kwargs)


def stage(row: str, run_name: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a Prefect task of a function.

    Args:
        row: the stage that the task belongs to, by its name in the table of stages.
        run_name: a template over the function's arguments.

    Raises:
        KeyError: the table has no such row.
    """
    check_stage(row)

    def wrap(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                value = function(*args, **kwargs)
            except UserError as error:
                return Failed(message=str(error), name=BAD_INPUT)
            except StageError as error:
                return Failed(message=str(error))
            except Paused as error:
                return Cancelled(message=str(error), name=PAUSED)
            except Exception as error:
                if disk_full(error):
                    return Failed(message=f"no space left on device: {error}; fix: make room, then run it again")
                if is_transient(error):
                    if _is_last_try():
                        return Failed(message=gave_up(error))
                    stopping.wait(asked_wait(error))  # before Prefect's own delay, which knows nothing of the Hub
                    raise
                text = redact(str(error))
                if text == str(error):
                    raise
                raise StageError(f"{type(error).__name__}: {text}") from None  # Prefect stores and shows what is raised
            return Completed(data=value, name="Cached") if getattr(value, "reused", False) else value

        function.row = row  # type: ignore[attr-defined]
        return Stage(
            run,
            name=function.__name__.replace("_", "-"),
            task_run_name=run_name,
            retries=RETRIES,
            retry_delay_seconds=exponential_backoff(backoff_factor=2),
            retry_jitter_factor=1,
            retry_condition_fn=_retry_transient,
            persist_result=False,
        )

    return wrap


@stage("data", "prepare-corpus")
def prepare_data(spec: DataSpec, source: Source, data_root: Path | None, tokenizer: Path | None = None) -> CorpusResult:
    """Tokenise the pretraining text into blocks; `tokenizer` is a folder that replaces the one of the data section."""
    note = show_progress("corpus", lambda figures: "documents")
    result = prepare_corpus(
        spec,
        source,
        cogito_home(),
        data_root,
        tokenizer_folder=tokenizer,
        progress=lambda done, total: note(Progress(step=done, steps=total)),
    )
    DISPLAY.finish("corpus")
    facts = result.model_dump(mode="json", exclude={"folder", "tokenizer", "special_token_ids"})
    show(create_table_artifact, [{"figure": name, "value": value} for name, value in facts.items()], key="corpus")
    return result


@stage("data", "prepare-{name}")
def prepare_task_data(
    name: str, protocol: CellProtocol, tokenizer: Path, source: Source, family: Family
) -> PreparedTask:
    """Tokenise a task for a family of models."""
    return prepare_task(TASKS[name], protocol, tokenizer, source, cogito_home(), family)


@stage("pretraining", "pretrain")
def pretrain_model(
    spec: ExperimentSpec,
    corpus: CorpusResult,
    run: RunFolder,
    processes: int | None,
    init_from: Checkpoint | None = None,
) -> PretrainingResult:
    """Pretrain, with the loss and the concept ranks as pictures; the ranks while it trains."""
    evaluations: list[dict[str, Any]] = []
    picture: Any = None
    drawn = -math.inf

    def note(figures: dict[str, float]) -> str:
        speed = f"{figures['steps_per_second']:.2f} steps/s, {figures['tokens_per_second']:,.0f} tokens/s"
        return f"loss {figures['task_loss']:.3f} at {speed}"

    def show_ranks(points: list[dict[str, Any]]) -> None:
        nonlocal picture
        path, key = run.plots / "ranks.png", artifact_key("ranks", run.run_id)
        plot_live_geometry(points, spec.model.num_concepts, path)
        picture = show_image(path, key, "Concept ranks during pretraining", picture)

    report = show_progress("pretraining", note)

    def heard(progress: Progress) -> None:
        nonlocal drawn
        report(progress)
        if "nuclear_rank_of_mean" in progress.figures:  # an evaluation: collapse must be seen while it happens
            evaluations.append({"step": progress.step, **progress.figures})
            if time.monotonic() - drawn > DRAWING_SECONDS:
                drawn = time.monotonic()
                show_ranks(evaluations)

    result = pretrain(spec, corpus, run, cogito_home(), init_from=init_from, processes=processes, on_progress=heard)
    DISPLAY.finish("pretraining")
    if not result.reused or not (run.plots / "loss.png").exists():  # they may have found no room
        points = [json.loads(line) for line in result.curve.read_text(encoding="utf-8").splitlines()]
        plot_curve(points, corpus.unigram_entropy_nats, run.plots / "loss.png")
        show_image(run.plots / "loss.png", artifact_key("loss", run.run_id), "Pretraining loss")
        show_ranks(points)
    return result


@stage("publishing", "publish")
def publish_model(model: Path, record: RunRecord, spec: PublishSpec) -> PublishResult:
    """Publish a checkpoint to the Hub or to a folder."""
    result = publish_checkpoint(model, record, spec, cogito_home())
    return result.model_copy(update={"reused": result == record.publishing})


@stage("publishing", "renew-card")
def renew_card(model: Path, record: RunRecord, spec: PublishSpec) -> PublishResult:
    """Renew the card of a published checkpoint, which now has scores."""
    return publish_checkpoint(model, record, spec, cogito_home()).model_copy(update={"reused": True})


@stage("analysis", "analyse-concepts")
def analyse(checkpoint: Checkpoint, corpus: CorpusResult, spec: AnalysisSpec, run: RunFolder) -> AnalysisResult:
    """Measure the concept geometry of a checkpoint, with its figures as a table and its pictures."""
    result = analyse_concepts(
        checkpoint, corpus, spec, run, cogito_home(), on_progress=show_progress("analysis", lambda figures: "samples")
    )
    DISPLAY.finish("analysis")
    rows = [{"figure": name, "value": round(value, 5)} for name, value in result.figures.items()]
    show(create_table_artifact, rows, key=artifact_key("geometry", run.run_id), description="Concept geometry")
    for name, path in result.plots.items():
        show_image(path, artifact_key(name, run.run_id), name.replace("_", " "))
    return result


@stage("finetuning", "finetune-{cell.task}-seed{cell.seed}-{cell.start}")
def finetune_cell(
    cell: Cell, checkpoint: Checkpoint, data: PreparedTask, run: RunFolder, begin: CellResult | None = None
) -> CellResult:
    """Fine-tune a cell; `begin` is the cell of another task whose model it starts from."""
    progress = show_progress(
        cell.title, lambda figures: f"epoch {figures['epoch']:.1f}, selection {figures['selection']:.3f}"
    )
    try:
        return finetune(cell, checkpoint, data, run, cogito_home(), begin=begin, on_progress=progress)
    finally:
        DISPLAY.finish(cell.title)


@stage("scores", "score-{name}-{start}")
def score_cells(name: str, start: str, cells: list[CellResult], data: PreparedTask, run: RunFolder) -> list[Score]:
    """Score the cells of a task that have the same start."""
    return score_task(cells, data, run)


@stage("row", "write-row")
def write_log_row(log: Path, record: RunRecord) -> bool:
    """Write the row of a run into the log, and show it with the scores; returns whether the log changed."""
    changed = write_row(log, record)
    show(create_markdown_artifact, row_markdown(record), key=artifact_key("row", record.run_id))
    rows = [artifact_row(score) for score in record.scores]
    show(create_table_artifact, rows, key=artifact_key("scores", record.run_id), description="Scores")
    return changed


@stage("report", "write-report")
def make_report(folder: Path) -> list[Path]:
    """Write the report of the folder of a run or a sweep, and show the first screen of a run's."""
    paths = [folder / "report.md"] if is_current(folder) else write_report(folder, cogito_home())
    if (folder / "record.json").is_file() and FlowRunContext.get() is not None:
        points, _ = read_curve(folder / "pretraining" / "curve.jsonl")
        picture = summary_picture(load_record(RunFolder(folder)), points=points)
        show_summary(paths[0], picture, artifact_key("summary", folder.name))
    return paths


def row_markdown(record: RunRecord) -> str:
    """The log's row as a small table of column and cell."""
    cells = "\n".join(f"| {title} | {cell} |" for title, cell in render_row(record).items())
    return f"# {record.run_id}\n\n| column | cell |\n|---|---|\n{cells}\n"
