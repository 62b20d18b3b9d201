"""The launch side of fine-tuning: cells of task x seed x start, each a job of its own."""

import logging

from models.weight_files import SAFETENSORS
from tasks.checkpoints.inputs import weights_text
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
    model, source = checkpoint.model_hashes, checkpoint.folder
    if begin is not None:
        assert begin.model is not None, "a cell that others start from keeps its model"
        model, source = [file_sha256(begin.model / name) for name in (SAFETENSORS, "config.json")], begin.model
    chosen = [cell.head, cell.seed, cell.start, cell.precision]
    identity = content_hash([CONTRACT_VERSION, model, data.identity, settings, *chosen])
    folder = run.cell(data.task, cell.seed, cell.start)
    with claimed_job(folder, identity, home, CellResult) as done:
        if done is not None and _is_whole(done, run):
            return done
        job = FinetuningJob(
            identity=identity,
            **vars(cell),
            checkpoint=source,
            family=checkpoint.family,
            precision=cell.precision,
            start_from=begin.task if begin else None,
            data=data.folder,
            work=cell.work(checkpoint, data),
        )
        result = run_on_one_device(folder, job, home, on_progress)
        _report_weights(result)
        return result


def _is_whole(cell: CellResult, run: RunFolder) -> bool:
    """Whether all that a finished cell names is still there."""
    predicted = all(run.predictions(path).is_file() for path in cell.predictions.values())
    return predicted and (cell.model is None or is_complete(cell.model))


def _report_weights(cell: CellResult) -> None:
    if cell.start == "random":  # takes none of them, as it was asked to
        return
    weights = weights_text(cell.loaded_weights, cell.new_weights, cell.dropped_weights, cell.notes)
    log.info("%s seed %d (%s, %s): %s", cell.task, cell.seed, cell.start, cell.precision, weights)
