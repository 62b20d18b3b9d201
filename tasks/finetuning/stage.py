"""The launch side of fine-tuning: cells of task x seed x start, each a job of its own, and their scores."""

import logging
from pathlib import Path

import numpy as np

from tasks.data.task_data import PreparedTask, load_examples
from tasks.errors import StageError
from tasks.finetuning.scores import METRICS, bootstrap_interval, is_unreliable, overlap_baseline
from tasks.jobs.launch import claimed_job, run_on_one_device
from tasks.jobs.messages import OnProgress
from tasks.spec.benchmarks import TASKS
from tasks.spec.experiment import CellProtocol
from tasks.store.files import content_hash, file_sha256, is_complete, read_json, write_json
from tasks.store.home import Home, RunFolder, cogito_home
from tasks.store.records import CellResult, Checkpoint, Score

log = logging.getLogger("cogito.finetuning")

# Raise when the same checkpoint, data and protocol would give other predictions.
CONTRACT_VERSION = 1
# Raise when the same predictions would give other scores, intervals or floors.
SCORING_VERSION = 3


def finetune(
    checkpoint: Checkpoint,
    data: PreparedTask,
    protocol: CellProtocol,
    head: str,
    seed: int,
    start: str,
    run: RunFolder,
    home: Home,
    begin: CellResult | None = None,
    on_progress: OnProgress | None = None,
) -> CellResult:
    """Fine-tune one cell, or find it done.

    Args:
        start: `checkpoint`, `random` for the same model with random weights, or `zero_shot` for no fine-tuning.
        begin: the cell of another task whose model this one starts from, instead of the checkpoint.

    Raises:
        StageError: the job failed.
    """
    settings = protocol.model_dump(mode="json", exclude={"seeds", "data"}, exclude_defaults=True)
    weights, source = checkpoint.weights_sha256, checkpoint.folder
    if begin is not None:
        assert begin.model is not None, "a cell that others start from keeps its model"
        weights, source = file_sha256(begin.model / "model.safetensors"), begin.model
    identity = content_hash([CONTRACT_VERSION, weights, data.identity, settings, head, seed, start])
    folder = run.cell(data.task, seed, start)
    with claimed_job(folder, identity, home) as done:
        if done is not None:
            found = CellResult.of_job(done, folder, reused=True)
            if found.model is None or is_complete(found.model):
                return found
        job = {
            "kind": "finetuning",
            "identity": identity,
            "task": data.task,
            "seed": seed,
            "start": start,
            "head": head,
            "checkpoint": source,
            "family": checkpoint.family,
            "start_from": begin.task if begin else None,
            "data": data.folder,
            "protocol": protocol.model_dump(mode="json"),
        }
        result = CellResult.of_job(run_on_one_device(folder, job, home, on_progress), folder)
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


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of a split, in the order of its examples."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["label", "prediction"])
    return table["label"].to_numpy(), table["prediction"].to_numpy()


def score_task(cells: list[CellResult], data: PreparedTask, run: RunFolder) -> list[Score]:
    """Score the cells of one task and one start: every split, every metric, with interval and floors.

    Args:
        cells: the seeds of one task, some possibly failed.

    Raises:
        StageError: the seeds' predictions are not of the same examples.
    """
    seen = [[cell.seed, cell.status, *map(file_sha256, cell.predictions.values())] for cell in cells]
    identity = content_hash([SCORING_VERSION, data.identity, seen])
    stored = run.root / "finetuning" / f"scores-{data.task}-{cells[0].start}.json"
    if stored.exists() and (known := read_json(stored))["identity"] == identity:
        return [Score.model_validate(score) for score in known["scores"]]
    scores = _score(cells, data)
    write_json(stored, {"identity": identity, "scores": [score.model_dump(mode="json") for score in scores]})
    return scores


def _score(cells: list[CellResult], data: PreparedTask) -> list[Score]:
    task = TASKS[data.task]
    train = load_examples(data.folder, "train")
    scores = []
    for split in task.eval_splits:
        examples = load_examples(data.folder, f"eval-{split.label}")
        references = examples["labels"]
        predictions: dict[int, np.ndarray] = {}
        for cell in cells:
            if cell.status == "complete":
                labels, answers = read_predictions(cell.predictions[split.label])
                if not np.array_equal(labels, references):
                    raise StageError(f"{cell.predictions[split.label]}: was made for other examples of {split.label}")
                predictions[cell.seed] = answers
        overlap: dict[str, float] = {}
        if task.is_pair:
            sides = (train["features"], train["labels"]), (examples["features"], references)
            overlap = {name: overlap_baseline(name, *sides, regression=task.is_regression) for name in task.metrics}
        scores += score_split(split.label, cells, references, predictions, overlap)
    return scores


def score_split(
    label: str,
    cells: list[CellResult],
    references: np.ndarray,
    predictions: dict[int, np.ndarray],
    overlap: dict[str, float],
) -> list[Score]:
    """Score one split by every metric of its task, with interval and floors.

    Args:
        cells: the seeds of one task and one start, some possibly failed.
        references: [n].
        predictions: [n] of every seed that did not fail.
        overlap: metric -> what a regression on word overlap reaches, where that is known.
    """
    from tasks.finetuning.metric import CogitoMetric

    task = TASKS[cells[0].task]
    failed = [cell.seed for cell in cells if cell.status == "failed"]
    cache = str(cogito_home().cache / "metrics")
    scores = []
    for name in task.metrics:
        metric = METRICS[name]
        library = CogitoMetric(config_name=name, keep_in_memory=True, cache_dir=cache)
        values = {
            seed: library.compute(predictions=answers, references=references)[name]
            for seed, answers in predictions.items()
        }
        interval = bootstrap_interval(name, references, list(predictions.values())) if values else None
        floor = metric.floor(references)
        scores.append(
            Score(
                task=label,
                metric=name,
                primary=name == task.primary_metric,
                start=cells[0].start,
                value=float(np.mean(list(values.values()))) if values else None,
                interval=interval,
                n=len(references),
                seed_values=values,
                sd=float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else None,
                floor=floor,
                floor_name=metric.floor_name,
                overlap_baseline=overlap.get(name),
                above_floor=interval is not None and interval[0] > floor,
                failed_seeds=failed,
                start_from=cells[0].start_from,
                unreliable=is_unreliable(name, references, list(predictions.values())),
            )
        )
    return scores
