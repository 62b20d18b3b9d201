"""Finding or claiming the run of a spec: a spec that was run before continues its run, and nothing is done twice.

One command at a time works at a run. Another one waits for it, and then finds finished what the first has done.

A run id names a pretraining. A spec that differs only in evaluation or analysis reuses the pretraining and gets an
evaluation run of its own, with its row in the evaluation table.
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tasks.data.task_data import PreparedTask
from tasks.errors import Paused, RunPaused
from tasks.finetuning.cell import training_precision
from tasks.runs.checkpoint_spec import evaluation_head, stored_spec
from tasks.runs.environment import describe_environment
from tasks.runs.request import Request
from tasks.spec.experiment import ExperimentSpec
from tasks.store.files import content_hash, read_json, remove_tree, write_json
from tasks.store.home import Home, RunFolder, claim_run
from tasks.store.locks import hold, work_lock
from tasks.store.records import ROW_FORM, Checkpoint, CorpusResult, RunRecord, load_record
from tasks.store.stage_table import Kind

logger = logging.getLogger("cogito.runs")


@dataclass(frozen=True)
class _Claim:
    """What a run is found or claimed by, and what its record says of it.

    Attributes:
        identity: of what the run is about: of a pretraining, or of a checkpoint with its evaluation.
        evaluation: identity of the evaluation.
    """

    kind: Kind
    prefix: str
    spec: ExperimentSpec
    identity: str
    evaluation: str
    head: str
    checkpoint: Checkpoint | None = None


def evaluation_identity(
    spec: ExperimentSpec, head: str, corpus: CorpusResult | None, tasks: dict[str, PreparedTask]
) -> str:
    """The identity of an evaluation: head, protocols, precision, and the very texts and labels that it reads."""
    protocols = {name: spec.evaluation.for_task(name).model_dump(mode="json", exclude_defaults=True) for name in tasks}
    data = {name: task.identity for name, task in tasks.items()}
    analysis = spec.analysis.model_dump(mode="json")
    zero_shot = ["zero_shot"] if spec.evaluation.zero_shot else []
    text = corpus.corpus_id if corpus else None
    others = [spec.evaluation.random_start, analysis, text, training_precision(), *zero_shot]
    return content_hash([head, protocols, data, *others])


def open_training_run(
    spec: ExperimentSpec, identity: str, evaluation: str, request: Request
) -> AbstractContextManager[tuple[RunFolder, RunRecord]]:
    """Work at the run of a pretraining identity: the existing one, or a new one.

    The record says `running` until the block ends, and `paused` or `failed` where an error ends it; a finished run
    keeps its status.

    Args:
        identity: of data, model, objective and training.
        evaluation: identity of the evaluation.

    Raises:
        RunPaused: the work, or the wait for another command, was paused.
    """
    return _work_at(_Claim("training", spec.run_prefix, spec, identity, evaluation, spec.head), request)


def open_evaluation_run(
    spec: ExperimentSpec, checkpoint: Checkpoint, evaluation: str, request: Request
) -> AbstractContextManager[tuple[RunFolder, RunRecord]]:
    """Work at the evaluation run of a checkpoint under an evaluation section, as `open_training_run` does."""
    head = evaluation_head(spec, checkpoint)
    identity = content_hash([checkpoint.name, checkpoint.revision, checkpoint.model_hashes, evaluation])
    return _work_at(_Claim("evaluation", head, spec, identity, evaluation, head, checkpoint), request)


def needs_evaluation_run(record: RunRecord, evaluation: str) -> bool:
    """Whether a training run was already evaluated in another way or on other data."""
    return bool(record.scores or record.analysis) and record.evaluation_identity != evaluation


def uses_made_data(spec: ExperimentSpec) -> bool:
    """Whether corpus or tasks are made data, which every table must state."""
    return spec.data.is_builtin or spec.evaluation.data == "made"


def training_run(identity: str, home: Home, repeats: str | None = None) -> RunFolder | None:
    """The run that a pretraining identity would continue, if there is one.

    Args:
        repeats: the run that is repeated, as in a `Request`.
    """
    try:
        run_id = read_json(_index("training", identity, repeats, home))["run_id"]
    except FileNotFoundError:
        return None
    return home.run(run_id) if home.has_run(run_id) else None


def _index(kind: Kind, identity: str, repeats: str | None, home: Home) -> Path:
    """The file that leads from an identity to its run; a repetition has one of its own."""
    key = content_hash([identity, repeats]) if repeats and _is_kind(repeats, kind, home) else identity
    return home.root / "index" / f"{kind}-{key}.json"


def _is_kind(run_id: str, kind: str, home: Home) -> bool:
    """Whether a repeated run is of this kind; an old one without a record stands for its training."""
    return (load_record(home.run(run_id)).kind if home.has_run(run_id) else "training") == kind


@contextmanager
def _work_at(claim: _Claim, request: Request) -> Iterator[tuple[RunFolder, RunRecord]]:
    run = _find_or_claim(claim, request)
    try:
        with hold(work_lock(request.home, run.run_id), run.run_id):
            record = load_record(run)
            if not needs_evaluation_run(record, claim.evaluation):
                _update(record, claim)
            with _keeping_status(record, run):
                yield run, record
    except RunPaused:  # also of the evaluation in a run of its own that follows a training
        raise
    except Paused as error:
        raise RunPaused(f"{run.run_id}: paused {error}; the same command goes on", run.run_id) from None


@contextmanager
def _keeping_status(record: RunRecord, run: RunFolder) -> Iterator[None]:
    def leave(status: Literal["failed", "paused"]) -> None:
        try:
            if load_record(run).status == "running":
                record.status, record.finished = status, datetime.now(UTC) if status == "failed" else None
                record.save(run)
        except Exception as error:  # it must not hide what ended the work
            logger.warning("%s: its record goes on saying running: %s", run.run_id, error)

    try:
        if record.status in ("failed", "paused"):
            record.status, record.finished = "running", None
            record.save(run)
        yield
    except BaseException as error:  # an interrupt, and a cancellation from the UI, are no `Exception`
        leave("failed" if isinstance(error, Exception) and not isinstance(error, Paused) else "paused")
        raise


def _find_or_claim(claim: _Claim, request: Request) -> RunFolder:
    home = request.home
    index = _index(claim.kind, claim.identity, request.repeats, home)
    with home.lock(f"run-{index.stem.partition('-')[2]}"):
        if index.exists():
            run_id = read_json(index)["run_id"]
            if not home.has_run(run_id):
                logger.warning("the run of this spec is gone from %s: starting a new one", home.runs)
            elif not request.fresh:
                return home.run(run_id)
        run = claim_run(home, claim.prefix)
        record = RunRecord(
            kind=claim.kind,
            run_id=run.run_id,
            name=claim.spec.name,
            spec=stored_spec(claim.spec, claim.checkpoint),
            made_data=uses_made_data(claim.spec),
            pretraining_identity=claim.identity,
            evaluation_identity=claim.evaluation,
            environment=describe_environment(request.log),
            head=claim.head,
            row_form=ROW_FORM,
            checkpoint=claim.checkpoint,
        )
        try:
            record.save(run)
            write_json(index, {"run_id": run.run_id})
        except BaseException:
            remove_tree(run.root)  # no index leads to it, so it would never be found again
            raise
        return run


def _update(record: RunRecord, claim: _Claim) -> None:
    """Take over what may change without a new run: publishing, tracking and, before anything is scored, evaluation."""
    record.name = claim.spec.name
    record.made_data = uses_made_data(claim.spec)
    record.spec = stored_spec(claim.spec, record.checkpoint)
    record.evaluation_identity = claim.evaluation
    record.head = claim.head
