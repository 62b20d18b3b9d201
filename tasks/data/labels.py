"""The labels of a task's split as numbers, after every check that tells another numbering from ours.

A mirror may number the classes of a task in another order, or scale its scores from 0 to 1. Nothing fails then: a model
is trained, and its figure is wrong. So class names are compared by position, the counts of a published split by class.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tasks.errors import UserError
from tasks.spec.benchmarks import Task

Warn = Callable[[str], None]

NO_LABEL = -1
# How the label of an example without one is written: GLUE's test splits have -1, SNLI's and MNLI's files a hyphen.
_NONE_WORDS = {"-", "-1"}


def read_labels(task: Task, place: str, given: Sequence[Any], names: Sequence[str] | None, warn: Warn) -> np.ndarray:
    """The labels of a split as float64 [n]; NO_LABEL where an example has none.

    Args:
        place: the split, for messages.
        names: the class names that the data set states, in the order of its ids.
        warn: called with what is only odd.

    Raises:
        UserError: a label is no number or class name, lies outside its range, or all that are there are the same; or
            the classes are numbered in another order than the task's.
    """
    if len(given) == 0:
        raise UserError(f"{place} is empty; fix: mirror the data set again")
    if names is not None:
        _compare_names(task, place, names, warn)
    labels = np.array([_number(task, place, row, value) for row, value in enumerate(given, 1)])
    kept = labels[labels != NO_LABEL]
    low, high = task.label_range
    bad = (kept < low) | (kept > high) | ((kept != kept.round()) & (not task.is_regression))
    if len(kept) == 0 or bad.any():
        shown = ", ".join(f"{label:g}" for label in sorted(set(labels.tolist()))[:20])
        raise UserError(
            f"{place} has labels {shown}; allowed: {low:g} to {high:g}, and -1 for none; fix: correct the data set"
        )
    if task.is_regression and kept.max() <= (low + high) / 2:
        raise UserError(
            f"{place}: the largest score is {kept.max():g}, that of the task {high:g}: another scale; "
            f"allowed: scores from {low:g} to {high:g}; fix: bring the data set to this scale"
        )
    if len(np.unique(kept)) == 1 and len(kept) > 1:
        raise UserError(f"{place}: all its labels are {kept[0]:g}; fix: correct the data set")
    if missing := [name for label, name in enumerate(task.labels) if label not in kept]:
        warn(f"{place}: no example of class {', '.join(missing)}: its score is not that of the task")
    return labels


def check_published_counts(task: Task, place: str, labels: np.ndarray, published: tuple[int, ...], warn: Warn) -> None:
    """Compare the class counts of a split with those that were published, if it has as many examples.

    Raises:
        UserError: the counts are the published ones in another order: so are the classes.
    """
    kept = labels[labels != NO_LABEL].astype(int)
    if task.is_regression or len(kept) != sum(published):
        return
    counts = tuple(np.bincount(kept, minlength=len(published)).tolist())
    if counts != published and sorted(counts) == sorted(published):
        raise UserError(
            f"{place}: {_counted(task, counts)}, where the published split has {_counted(task, published)}: "
            f"its classes are numbered in another order; fix: number them {_order(task)}"
        )
    if counts != published:
        warn(f"{place}: {_counted(task, counts)}, the published split {_counted(task, published)}")


def _number(task: Task, place: str, row: int, value: Any) -> float:
    word = value.strip() if isinstance(value, str) else None
    if word in _NONE_WORDS:
        return NO_LABEL
    if word is not None and (label := _position(task, word)) is not None:
        return label
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (ValueError, TypeError):
        number = float("nan")
    if not np.isfinite(number):
        raise UserError(
            f"{place}: column {task.label_column!r} holds {value!r} in row {row}, which is not one of the numbers "
            f"{_order(task)}; allowed: a number or the name of a class in every row; fix: correct the data set"
        )
    return number


def _compare_names(task: Task, place: str, names: Sequence[str], warn: Warn) -> None:
    """Refuse class names of which one stands at the place of another of ours; warn of names that we do not know."""
    positions = [_position(task, name) for name in names]
    if any(position is not None and position != label for label, position in enumerate(positions)):
        given = ", ".join(f"{label} {name}" for label, name in enumerate(names))
        raise UserError(
            f"{place}: its classes are numbered {given}; allowed: {_order(task)}; fix: number them so in the data set"
        )
    if unknown := [f"{label} {name}" for label, name in enumerate(names) if positions[label] is None]:
        warn(f"{place}: unknown classes {', '.join(unknown)} are taken as {_order(task)}")


def _position(task: Task, name: str) -> int | None:
    """The id of a class by its name, in full or begun (`pos` for positive), or by its own number."""
    if name.isdecimal():
        return int(name)
    word = _plain(name)
    known = [_plain(label) for label in task.labels]
    begun = [label for label, ours in enumerate(known) if len(word) >= 3 and (ours.startswith(word) or word == ours)]
    return begun[0] if len(begun) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip().casefold())


def _order(task: Task) -> str:
    if task.is_regression:
        return f"{task.label_range[0]:g} to {task.label_range[1]:g}"
    return ", ".join(f"{label} {name}" for label, name in enumerate(task.labels))


def _counted(task: Task, counts: Sequence[int]) -> str:
    return ", ".join(f"{count:,} {name}" for count, name in zip(counts, task.labels, strict=True))
