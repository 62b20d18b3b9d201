"""How a score is shown. `show` decides what is shown of a score; each medium only arranges it.

The log shows accuracy and F1 in percent; every other medium shows fractions, as the records hold them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from tasks.scores.metrics import METRICS
from tasks.store.records import Score

FloorMark = Literal["above floor", "at floor", "below floor"]
BELOW_FLOOR_HINT = (
    "worse than the trivial answer by more than chance: a mistake in labels, head or metric, or, for F1, little learned"
)
START_TITLES = {"checkpoint": "checkpoint", "random": "random start", "zero_shot": "zero-shot"}
COLUMNS = "task", "metric", "score", "95 % interval", "floor", "word overlap", "random start", "zero-shot", "n", "seeds"


@dataclass(frozen=True)
class ShownScore:
    """What is shown of a score, as text.

    Attributes:
        start: the weights that the cells began with, in words.
        value: a figure, `failed` (no seed was scored) or `undefined` (not a number).
        marks: what must not be overlooked: `no score`, `at floor` or `below floor`, and `interval unreliable`.
        seeds: the value of every seed, or `failed`.
        sd: standard deviation over seeds.
    """

    task: str
    metric: str
    primary: bool
    start: str
    value: str
    interval: str | None
    floor: str
    floor_name: str
    marks: tuple[str, ...]
    word_overlap: str | None
    n: int
    seeds: dict[int, str]
    sd: str | None

    @property
    def floor_mark(self) -> str:
        """`at floor` or `below floor`; empty for any other score."""
        return next((mark for mark in self.marks if mark.endswith("floor")), "")

    @property
    def marked(self) -> str:
        """The value with its mark beside the floor, on one line."""
        return f"{self.value} ({self.floor_mark})" if self.floor_mark else self.value


def floor_mark(score: Score) -> FloorMark:
    """Where a score stands beside its floor.

    Above: the whole interval lies above the floor, by the record's mark and by its figures. Below: the whole interval
    lies below it; no model is that bad by chance, so something is wrong. Otherwise, also without an interval, at floor.
    """
    if score.interval is None or score.value is None:
        return "at floor"
    if score.above_floor and score.interval[0] > score.floor:
        return "above floor"
    return "below floor" if score.interval[1] < score.floor else "at floor"


def is_above_floor(score: Score) -> bool:
    """Whether the whole interval lies above the floor."""
    return floor_mark(score) == "above floor"


def shared_mark(marks: Iterable[FloorMark]) -> str:
    """The mark of a mean over several scores of a task: nothing where one of them lies above its floor."""
    found = set(marks)
    if not found or "above floor" in found:
        return ""
    return "below floor" if found == {"below floor"} else "at floor"


def metric_text(metric: str, value: float) -> str:
    """A figure as the log writes it: accuracy and F1 in percent, correlations as they are."""
    return f"{100 * value:z.1f}" if METRICS[metric].is_percent else f"{value:z.3f}"


def figure_text(value: float | None) -> str:
    """A score's value as a fraction, or what it is instead."""
    if value is None:
        return "failed"
    return "undefined" if math.isnan(value) else f"{value:z.3f}"


def show(score: Score) -> ShownScore:
    """What is shown of a score, its figures as fractions."""
    mark = "no score" if score.value is None else floor_mark(score)
    marks = [] if mark == "above floor" else [mark]
    return ShownScore(
        task=score.task,
        metric=score.metric,
        primary=score.primary,
        start=START_TITLES[score.start] if score.start_from is None else f"model fine-tuned on {score.start_from}",
        value=figure_text(score.value),
        interval=None if score.interval is None else "{:z.3f} to {:z.3f}".format(*score.interval),
        floor=f"{score.floor:z.3f}",
        floor_name=score.floor_name,
        marks=(*marks, *["interval unreliable"] * score.unreliable),
        word_overlap=None if score.overlap_baseline is None else f"{score.overlap_baseline:z.3f}",
        n=score.n,
        seeds={
            **{seed: figure_text(value) for seed, value in sorted(score.seed_values.items())},
            **dict.fromkeys(sorted(score.failed_seeds), "failed"),
        },
        sd=None if score.sd is None else f"{score.sd:.3f}",
    )


def log_cell(score: Score) -> str:
    """A score in a cell of the log: `82.2% (79.2 to 84.2, floor 81.2, n 408)`."""
    if score.value is None or math.isnan(score.value):
        return figure_text(score.value)
    floor = metric_text(score.metric, score.floor)
    notes = [] if score.interval is None else [" to ".join(metric_text(score.metric, end) for end in score.interval)]
    mark = floor_mark(score)
    notes += [f"floor {floor}" if mark == "above floor" else f"**{mark} {floor}**", f"n {score.n:,}"]
    if len(score.seed_values) > 1:
        notes.append(f"{len(score.seed_values)} seeds")
    if score.start_from is not None:
        notes.append(f"from {score.start_from.upper()}")
    if score.unreliable:
        notes.append("interval unreliable")
    if score.failed_seeds:
        notes.append(f"{len(score.failed_seeds)} of {len({*score.failed_seeds, *score.seed_values})} seeds failed")
    unit = "%" if METRICS[score.metric].is_percent else ""
    return f"{metric_text(score.metric, score.value)}{unit} ({', '.join(notes)})"


def score_table(scores: list[Score]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the scores of a checkpoint, each beside those of a random start and of no training.

    A column that would hold nothing in every row is left out. A mark on the interval stands with the interval.
    """
    beside = {(score.start, score.task, score.metric): show(score).marked for score in scores}
    rows = []
    for score in scores:
        if score.start == "checkpoint":
            shown = show(score)
            task = score.task + (f" (from {score.start_from.upper()})" if score.start_from else "")
            interval = shown.interval and shown.interval + " (unreliable)" * score.unreliable
            others = [beside.get((start, score.task, score.metric)) for start in ("random", "zero_shot")]
            cells = [task, score.metric, shown.marked, interval, shown.floor, shown.word_overlap, *others]
            rows.append([*cells, str(score.n), str(len(score.seed_values))])
    held = [number for number in range(len(COLUMNS)) if any(row[number] for row in rows)]
    return [COLUMNS[number] for number in held], [[row[number] or "--" for number in held] for row in rows]


def artifact_row(score: Score) -> dict[str, Any]:
    """A score as a row of a table in the Prefect UI."""
    shown = show(score)
    return {
        "task": shown.task,
        "metric": shown.metric,
        "start": shown.start,
        "value": shown.value,
        "95 % interval": shown.interval or "",
        "floor": f"{shown.floor} ({shown.floor_name})",
        "word overlap": shown.word_overlap or "",
        "mark": ", ".join(shown.marks) or "above floor",
        "n": shown.n,
        "seeds": len(score.seed_values),
    }
