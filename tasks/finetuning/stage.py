"""The launch side of fine-tuning: cells of task x seed x start, each a job of its own."""

import logging

from tasks.data.task_data import PreparedTask
from tasks.finetuning.cell import Cell
from tasks.jobs.launch import claimed_job, run_on_one_device
from tasks.jobs.messages import FinetuningJob, OnProgress
from tasks.store.files import content_hash, file_sha256, is_complete
from tasks.store.home import Home, RunFolder
from tasks.store.records import CellResult, Checkpoint

log = logging.getLogger("cogito.finetuning")

# Raise when the same checkpoint, data and protocol would give other predictions.
CONTRACT_VERSION = 2


def finetune(
    cell: Cell,
    checkpoint: Checkpoint,
    data: PreparedTask,
    run: RunFolder,
    home: Home,
    begin: CellResult | None = None,
    on_progress: OnProgress | None = None,
) -> CellResult:
    """Fine-tune one cell, or reuse its finished result.

    Args:
        begin: the cell of another task whose model this one starts from, instead of the checkpoint.

    Raises:
        StageError: the job failed.
    """
    settings = cell.protocol.model_dump(mode="json", exclude={"seeds", "data"}, exclude_defaults=True)
    weights, source = checkpoint.weights_sha256, checkpoint.folder
    if begin is not None:
        assert begin.model is not None, "a cell that others start from keeps its model"
        weights, source = file_sha256(begin.model / "model.safetensors"), begin.model
    identity = content_hash([CONTRACT_VERSION, weights, data.identity, settings, cell.head, cell.seed, cell.start])
    folder = run.cell(data.task, cell.seed, cell.start)
    with claimed_job(folder, identity, home, CellResult) as done:
        if done is not None and (done.model is None or is_complete(done.model)):
            return done
        job = FinetuningJob(
            identity=identity,
            **vars(cell),
            checkpoint=source,
            family=checkpoint.family,
            start_from=begin.task if begin else None,
            data=data.folder,
        )
        result = run_on_one_device(folder, job, home, on_progress)
        _report_weights(result)
        return result


def _report_weights(cell: CellResult) -> None:
    def names(weights: list[str]) -> str:
        shown = ", ".join(weights[:4]) + (", ..." if len(weights) > 4 else "")
        return f"{len(weights)} ({shown})" if weights else "0"

    log.info(
        "%s seed %d (%s): %d weights loaded, %s new, %s dropped",
        cell.task,
        cell.seed,
        cell.start,
        cell.loaded_weights,
        names(cell.new_weights),
        names(cell.dropped_weights),
    )
