"""Scoring a finished run again from its stored predictions, with the metrics, floors and intervals of today's code.

Neither the model nor the task's data is needed. Example: `cogito rescore perceiver_mlm_H64L2C16_20261125_064000`
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError, unknown_name
from tasks.finetuning.scoring import read_predictions, score_split
from tasks.log.experiment_log import show_log, write_row
from tasks.spec.benchmarks import TASKS
from tasks.store.home import Home, RunFolder
from tasks.store.locks import hold_at_once
from tasks.store.records import CellResult, Result, RunRecord, Score, load_record

Key = tuple[str, str, str]


class Change(Result):
    """One field of a score that the record now has otherwise; `before` or `after` is None where there was no score."""

    task: str
    metric: str
    start: str
    field: str
    before: Any
    after: Any


def rescore_run(run: RunFolder, log: Path) -> list[Change]:
    """Score every cell of a run again, write its record and its row, and tell what changed.

    All predictions are read and scored before anything is written.

    Raises:
        UserError: the run is not finished or worked at, or predictions are missing or do not fit; nothing is written.
    """
    with hold_at_once(Home(run.root.parent.parent), run.run_id):
        record = load_record(run)
        if record.status == "running":
            raise UserError(f"{run.run_id}: is not finished; fix: finish it with `cogito run` or `cogito evaluate`")
        if not any(cell.status == "complete" for cell in record.cells):
            raise UserError(f"{run.run_id}: has no predictions to score; fix: name a run with a finished fine-tuning")
        if log.exists():
            show_log(log)  # a log that cannot be read is found before anything is written
        scores = _scores(record, run)
        changes = _changes(record.scores, scores)
        record.scores = scores
        record.save(run)
        write_row(log, record)
        return changes


def _scores(record: RunRecord, run: RunFolder) -> list[Score]:
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for cell in record.cells:
        groups.setdefault((cell.task, cell.start), []).append(cell)
    problems: list[str] = []
    scores: list[Score] = []
    for (task, start), cells in groups.items():
        if task not in TASKS:
            problems.append(f"{task}: {unknown_name('task', task, TASKS)}")
            continue
        for split in TASKS[task].eval_splits:
            known = [score for score in record.scores if (score.task, score.start) == (split.label, start)]
            references, predictions = _answers(split.label, cells, run, known, problems)
            if predictions:
                overlap = {one.metric: one.overlap_baseline for one in known if one.overlap_baseline is not None}
                scores += score_split(split.label, cells, references, predictions, overlap)
            else:  # every seed failed: nothing to score, and nothing to change
                scores += known
    lost = {_key(score)[::2] for score in record.scores} - {_key(score)[::2] for score in scores}
    if not problems:  # else these are among what is lost
        problems = [
            f"{task} ({start}): the record names no fine-tuning of it; fix: evaluate again" for task, start in lost
        ]
    if problems:
        raise UserError("\n".join([f"{run.run_id}: cannot be scored again; nothing was written", *problems]))
    return scores


def _answers(
    label: str, cells: list[CellResult], run: RunFolder, known: list[Score], problems: list[str]
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """References and predictions per seed of a split; what is wrong with a cell goes into `problems`."""
    references = np.empty(0)
    predictions: dict[int, np.ndarray] = {}
    for cell in cells:
        if cell.status != "complete":
            continue
        name = f"{label} seed {cell.seed} ({cell.start})"
        if label not in cell.predictions:
            problems.append(f"{name}: has no stored predictions; fix: evaluate again")
            continue
        path = run.predictions(cell.predictions[label])
        try:
            labels, answers = read_predictions(path)
        except (OSError, ValueError, KeyError) as error:
            problems.append(f"{name}: {path}: cannot be read ({error}); fix: put the file back, or evaluate again")
            continue
        counts = {score.n for score in known} | ({len(references)} if predictions else set())
        if counts - {len(labels)} or (predictions and not np.array_equal(references, labels)):
            problems.append(f"{name}: {path}: is of other examples than the run's other figures; fix: evaluate again")
            continue
        references, predictions[cell.seed] = labels, answers
    return references, predictions


def _changes(before: list[Score], after: list[Score]) -> list[Change]:
    old, new = ({_key(score): score for score in scores} for scores in (before, after))
    changes = []
    for key in dict.fromkeys([*old, *new]):
        sides = [scores[key].model_dump() if key in scores else {} for scores in (old, new)]
        # A score that is new, or was one of a metric that is no more, is one change
        fields = [name for name in Score.model_fields if name != "reused"] if all(sides) else ["value"]
        for field in fields:
            one, other = (side.get(field) for side in sides)
            if not _same(one, other):
                task, metric, start = key
                changes.append(Change(task=task, metric=metric, start=start, field=field, before=one, after=other))
    return changes


def _same(one: Any, other: Any) -> bool:
    """Equal but for the last digits of a figure, which hang on the machine."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def _key(score: Score) -> Key:
    return score.task, score.metric, score.start
