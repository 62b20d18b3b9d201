"""Scores a finished run again from its stored predictions, with the metrics, floors and intervals of today's code.

It needs neither the model nor the task's data. Example: `cogito rescore perceiver_mlm_H64L2C16_20261125_064000`
"""

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

# What makes predictions that are missing or broken.
_AGAIN = "`cogito evaluate {}` scores it in a run of its own"
_ANEW = "delete it and run the command of this run again, which makes it anew"


class Change(Result):
    """A field of a score that changed in the record; `before` or `after` is None where there was no score."""

    task: str
    metric: str
    start: str
    field: str
    before: Any
    after: Any


def rescore_run(run: RunFolder, log: Path) -> list[Change]:
    """Score every cell of a run again, write its record and its row, and return what changed.

    All predictions are read and scored before anything is written.

    Raises:
        UserError: the run is not finished, another command works at it, or predictions are missing or do not fit.
            Nothing is written then.
    """
    with hold_at_once(Home(run.root.parent.parent), run.run_id):
        record = load_record(run)
        if record.status == "running":
            raise UserError(f"{run.run_id}: is not finished; fix: run its command again, which finishes it")
        if not any(cell.status == "complete" for cell in record.cells):
            raise UserError(f"{run.run_id}: has no predictions to score; fix: name a run with a finished fine-tuning")
        if log.exists():
            show_log(log)  # fail on an unreadable log before anything is written
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
                overlap = {each.metric: each.overlap_baseline for each in known if each.overlap_baseline is not None}
                scores += score_split(split.label, cells, references, predictions, overlap)
            else:  # every seed failed: nothing to score, and nothing to change
                scores += known
    lost = {_key(score)[::2] for score in record.scores} - {_key(score)[::2] for score in scores}
    if not problems:  # what a problem names is lost as well
        problems = [
            f"{task} ({start}): the record names no fine-tuning of it; fix: {_AGAIN.format(run.run_id)}"
            for task, start in lost
        ]
    if problems:
        raise UserError("\n".join([f"{run.run_id}: cannot be scored again; nothing was written", *problems]))
    return scores


def _answers(
    label: str, cells: list[CellResult], run: RunFolder, known: list[Score], problems: list[str]
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """References and predictions per seed of a split; faults of its cells are appended to `problems`."""
    references = np.empty(0)
    predictions: dict[int, np.ndarray] = {}
    for cell in cells:
        if cell.status != "complete":
            continue
        name = f"{label} seed {cell.seed} ({cell.start})"
        if label not in cell.predictions:
            problems.append(f"{name}: has no stored predictions; fix: {_AGAIN.format(run.run_id)}")
            continue
        path = run.predictions(cell.predictions[label])
        try:
            labels, answers = read_predictions(path)
        except (OSError, ValueError, KeyError) as error:
            problems.append(f"{name}: {path}: cannot be read ({error}); fix: put it back, or {_ANEW}")
            continue
        counts = {score.n for score in known} | ({len(references)} if predictions else set())
        if counts - {len(labels)} or (predictions and not np.array_equal(references, labels)):
            problems.append(f"{name}: {path}: is of other examples than the run's other figures; fix: {_ANEW}")
            continue
        references, predictions[cell.seed] = labels, answers
    return references, predictions


def _changes(before: list[Score], after: list[Score]) -> list[Change]:
    old, new = ({_key(score): score.model_dump() for score in scores} for scores in (before, after))
    changes = []
    for key in dict.fromkeys([*old, *new]):
        task, metric, start = key
        # A new score, or one of a metric that no longer exists, is a single change
        fields = [name for name in Score.model_fields if name != "reused"] if key in old and key in new else ["value"]
        for field in fields:
            was, now = (scores.get(key, {}).get(field) for scores in (old, new))
            if not _same(was, now):
                changes.append(Change(task=task, metric=metric, start=start, field=field, before=was, after=now))
    return changes


def _same(before: Any, after: Any) -> bool:
    """Whether two values are equal but for the last digits, which depend on the machine."""
    if isinstance(before, dict) and isinstance(after, dict):
        return before.keys() == after.keys() and all(_same(before[key], after[key]) for key in before)
    if isinstance(before, tuple) and isinstance(after, tuple):
        return len(before) == len(after) and all(map(_same, before, after))
    if isinstance(before, float) and isinstance(after, float):
        return bool(np.isclose(before, after, rtol=1e-9, atol=1e-12, equal_nan=True))
    return bool(before == after)


def _key(score: Score) -> tuple[str, str, str]:
    return score.task, score.metric, score.start
