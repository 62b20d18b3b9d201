"""Where a score is made: the predictions of fine-tuned cells become scores with intervals and floors.

pyarrow and `evaluate` are imported where they are used, since they slow the commands that only import this module.
"""

from pathlib import Path

import numpy as np

from tasks.data.task_data import PreparedTask, load_examples
from tasks.errors import StageError
from tasks.scores.intervals import bootstrap_interval, is_unreliable
from tasks.scores.metrics import METRICS, overlap_baseline
from tasks.spec.benchmarks import TASKS
from tasks.store.files import content_hash, file_sha256, read_json, write_json
from tasks.store.home import RunFolder, cogito_home
from tasks.store.records import CellResult, Score

# Raise when the same predictions would give other scores, intervals or floors.
SCORING_VERSION = 4


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n] and predictions [n] of a split, in the order of its examples."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["label", "prediction"])
    return table["label"].to_numpy(), table["prediction"].to_numpy()


def score_task(cells: list[CellResult], data: PreparedTask, run: RunFolder) -> list[Score]:
    """Score the cells of one task and one start: every metric on every split, with interval and floors.

    The scores are stored beside the cells and reused while the predictions stay the same.

    Args:
        cells: one per seed, some possibly failed.

    Raises:
        StageError: the predictions of a cell are of other examples than those of the split.
    """
    seen = [[cell.seed, cell.status, cell.precision, *map(file_sha256, cell.predictions.values())] for cell in cells]
    identity = content_hash([SCORING_VERSION, data.identity, seen])
    stored = run.root / "finetuning" / f"scores-{data.task}-{cells[0].start}.json"
    if stored.exists() and (earlier := read_json(stored))["identity"] == identity:
        return [Score.model_validate(score) for score in earlier["scores"]]
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
                    raise StageError(
                        f"{cell.predictions[split.label]}: made for other examples than those of {split.label}; "
                        "fix: delete it and run the same command again"
                    )
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
        label: of the split.
        cells: one per seed of one task and one start, some possibly failed.
        references: [n].
        predictions: [n] of every seed that did not fail.
        overlap: the score of a regression on word overlap, by metric, where it is known.
    """
    from tasks.scores.evaluate_metric import CogitoMetric

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
                precision=next((cell.precision for cell in cells if cell.status == "complete"), None),
                unreliable=is_unreliable(name, references, list(predictions.values())),
            )
        )
    return scores
