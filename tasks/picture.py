"""The summary picture of a run: its loss, its ranks and its tasks at one look, from its record alone.

It opens the report, and stands in the model card and in the Prefect UI. Parts that the record lacks are left out.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.plots import COLORS, INK, QUIET, RANKS, drawing, to_png, to_svg
from tasks.scores.showing import floor_mark
from tasks.spec.benchmarks import score_names
from tasks.store.records import RunRecord, Score

Points = list[dict[str, Any]]

ABOVE, AT, BELOW = COLORS[2], COLORS[1], COLORS[6]
# How a score is drawn by where it stands beside its floor: marker, colour, filled, words of the legend.
MARKS = {
    "above floor": ("o", ABOVE, True, "above floor"),
    "at floor": ("o", AT, False, "at floor (not decided)"),
    "below floor": ("X", BELOW, True, "below floor"),
}
OTHER_STARTS = {"random": ("D", "random start"), "zero_shot": ("P", "zero-shot")}
RANK_TITLES = {RANKS[2]: "effective, per sample", "centred_effective_rank": "effective, centred", RANKS[0]: "nuclear"}
LONG_TITLE = 25  # no two such titles stand side by side in a narrow picture


def read_curve(path: Path) -> tuple[Points, str]:
    """The steps of a training curve, or why there are none."""
    place = f"{path.parent.name}/{path.name}"
    try:
        # A kill may leave half a line at the end.
        points = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except OSError:
        return [], f"there is no {place}"
    except ValueError as error:
        return [], f"{place} cannot be read: {error}"
    points = points_with(("step",), [point for point in points if isinstance(point, dict)])
    return points, "" if points else f"{place} has no step"


def points_with(names: tuple[str, ...], points: Points) -> Points:
    """The points of a curve that hold a number under every name."""
    return [point for point in points if all(type(point.get(name)) in (int, float) for name in names)]


def summary_picture(
    record: RunRecord,
    *,
    points: Points | None = None,
    others: Mapping[str, RunRecord] | None = None,
    form: str = "png",
    narrow: bool = False,
) -> bytes:
    """The summary picture of a run.

    Args:
        points: the training curve; default the one that the record names.
        others: runs whose scores stand beside those of this one, by their title in the legend.
        form: `png`, or `svg`, which is readable on light and on dark pages.
        narrow: stack the parts, for a narrow screen.

    Returns:
        The content of an image file. A record without any result gives a picture that says so.
    """
    if points is None:
        points = read_curve(record.pretraining.curve)[0] if record.pretraining else []
    panels = [] if record.kind == "evaluation" else _training_panels(record, points)
    ranks = _rank_panel(record, [] if record.kind == "evaluation" else points)
    panels += [ranks] if ranks else []
    lines = _task_lines(record)
    height = 1.5 + 0.34 * len(lines)
    with drawing(*_size(len(panels), height if lines else 0.0, narrow)) as figure:
        left, right = _places(figure, len(panels), height if lines else 0.0, narrow)
        for draw, axes in zip(panels, left, strict=True):
            draw(axes)
        if right is not None:
            _draw_tasks(right, lines, record, others or {}, narrow=narrow)
        if not panels and not lines:
            figure.text(0.5, 0.5, "nothing measured so far", ha="center", va="center")
        return to_svg(figure) if form == "svg" else to_png(figure)


def picture_text(record: RunRecord) -> str:
    """What the summary picture shows, in words, for who cannot see it."""
    parts = []
    if record.pretraining is not None and record.kind == "training":
        entropy = record.corpus.unigram_entropy_nats if record.corpus else None
        beside = f", unigram entropy {entropy:.2f}" if entropy is not None else ""
        parts.append(f"held-out loss {record.pretraining.eval_loss:.2f}{beside}")
    if record.analysis is not None and RANKS[2] in record.analysis.figures:
        rank = record.analysis.figures[RANKS[2]]
        parts.append(f"effective rank per sample {rank:.1f} of {record.analysis.num_concepts}")
    for score in record.primary_scores():
        value = "failed" if score.value is None else f"{score.value:.3f}, {floor_mark(score)} {score.floor:.3f}"
        parts.append(f"{_title(score)} {value}")
    return "Summary picture: " + ("; ".join(parts) or "nothing measured so far")


def _size(panels: int, tasks: float, narrow: bool) -> tuple[float, float]:
    """Width and height in inches for a number of panels and the height of the tasks."""
    if narrow:
        return 4.2, max(1.2, 2.7 * panels + tasks)
    return 10.0, max(1.2, tasks if not panels else max(2.5 * panels if tasks else 3.2, tasks))


def _places(figure: Any, panels: int, tasks: float, narrow: bool) -> tuple[list[Any], Any]:
    """The axes of the panels, and those of the tasks."""
    if narrow:
        if not panels + bool(tasks):
            return [], None
        heights = [2.7] * panels + ([tasks] if tasks else [])
        rows = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        axes = [figure.add_subplot(rows[number, 0]) for number in range(len(heights))]
        return axes[:panels], axes[panels] if tasks else None
    if not tasks:
        return list(figure.subplots(1, panels, squeeze=False)[0]) if panels else [], None
    if not panels:
        return [], figure.subplots()
    grid = figure.add_gridspec(panels, 2, width_ratios=(1, 1.15))
    return [figure.add_subplot(grid[row, 0]) for row in range(panels)], figure.add_subplot(grid[:, 1])


def _training_panels(record: RunRecord, points: Points) -> list[Callable[[Any], None]]:
    trained = points_with(("task_loss",), points)
    if not trained:
        return []
    entropy = record.corpus.unigram_entropy_nats if record.corpus else None
    diverged = record.pretraining.diverged if record.pretraining else None

    def draw(axes: Any) -> None:
        held_out = points_with(("eval_loss",), points)
        steps, losses = [p["step"] for p in trained], [p["task_loss"] for p in trained]
        axes.plot(steps, losses, lw=0.8, alpha=0.6, color=COLORS[0], label="training")
        steps, losses = [p["step"] for p in held_out], [p["eval_loss"] for p in held_out]
        if held_out:
            axes.plot(steps, losses, marker="o", ms=3.5, color=COLORS[1], label="held-out")
        if entropy is not None:
            axes.axhline(entropy, ls="--", color=QUIET, lw=1.2, label="unigram entropy (floor)")
        if diverged is not None:
            axes.axvline(diverged.step, color=BELOW, lw=1.2, label=f"diverged at step {diverged.step:,}")
        low, high = axes.get_ylim()
        axes.set(xlabel="step", ylim=(low, high + 0.3 * (high - low)), title="Loss (nats per labelled token)")
        _finish(axes)

    return [draw]


def _rank_panel(record: RunRecord, points: Points) -> Callable[[Any], None] | None:
    """The ranks over the training, or those of the analysis where the curve has none."""
    concepts = record.analysis.num_concepts if record.analysis else record.spec.get("model", {}).get("num_concepts")
    figures = record.analysis.figures if record.analysis else {}
    seen = points_with((RANKS[2],), points)
    names = [name for name in RANK_TITLES if name in figures or any(name in point for point in seen)]
    if not names or not isinstance(concepts, int):
        return None

    def draw(axes: Any) -> None:
        title = f"Ranks of {concepts} concepts"
        if len(seen) > 1:
            for name, color in zip(names, COLORS, strict=False):
                values = [point.get(name, math.nan) for point in seen]
                axes.plot([p["step"] for p in seen], values, marker="o", ms=3, color=color, label=RANK_TITLES[name])
            axes.axhline(concepts, ls="--", color=QUIET, lw=1.2)
            axes.set(xlabel="step", ylim=(0, 1.45 * concepts), title=title)  # with room for the legend
            _finish(axes)
        else:
            values = [figures.get(name, seen[-1].get(name) if seen else None) or 0.0 for name in names]
            axes.barh([RANK_TITLES[name].replace(", ", ",\n") for name in names], values, color=COLORS[0], height=0.5)
            axes.axvline(concepts, ls="--", color=QUIET, lw=1.2)
            axes.set(xlim=(0, 1.08 * concepts), title=title)
            axes.invert_yaxis()

    return draw


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small", ncols=2, loc="upper right")


def _task_lines(record: RunRecord) -> list[Score | str]:
    """The primary score of every split, and the name of every task whose cells failed without a score."""
    scores = record.primary_scores()
    scored = {score.task for score in scores}
    failed = {cell.task for cell in record.cells if cell.status == "failed" and cell.start == "checkpoint"}
    without = [name for name in sorted(failed) if not any(label.partition("-")[0] == name for label in scored)]
    return [*scores, *without]


def _title(score: Score) -> str:
    return f"{score_names().get(score.task, score.task[:20])} {score.metric.replace('f1', 'F1')}"


def _draw_tasks(
    axes: Any, lines: list[Score | str], record: RunRecord, others: Mapping[str, RunRecord], *, narrow: bool
) -> None:
    """A line per task: the score with its interval, and beside it whatever puts it in proportion."""
    lowest = 0.0
    for place, line in enumerate(lines):
        axes.axhline(place, color=QUIET, lw=0.5, alpha=0.35, zorder=0)
        if isinstance(line, str) or line.value is None or not math.isfinite(line.value):
            text = "failed" if isinstance(line, str) or line.value is None else "undefined"
            axes.text(0.5, place, text, color=BELOW, va="center", ha="center", weight="bold")
            continue
        beside = _beside(line, record, others)
        for marker, color, title, value in beside:  # a little lower, where the score does not hide it
            axes.plot(
                value, place + 0.22, marker, color=color, ms=5.5, mfc="none", label=title.replace("$", r"\$"), zorder=5
            )
        axes.plot([line.floor] * 2, [place - 0.32, place + 0.32], color=INK, lw=2, label="floor", zorder=1)
        marker, color, filled, title = MARKS[floor_mark(line)]
        if line.interval is not None:
            axes.plot(line.interval, [place, place], color=color, lw=2.2, zorder=3)
        axes.plot(line.value, place, marker, color=color, ms=8, mfc=color if filled else "none", label=title, zorder=4)
        lowest = min([lowest, line.value, *(line.interval or ()), *(value for *_, value in beside)])
    titles = [line[:20] if isinstance(line, str) else _title(line) for line in lines]
    titles = [title.replace("$", r"\$") for title in titles]  # a dollar sign begins a formula
    axes.set_yticks(range(len(lines)), titles)
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlim=(max(-1.05, lowest - 0.05), 1.03))
    axes.set_title("Tasks: score with its 95 % interval")
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0)
    marks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    columns = 3 if not narrow else 2 if max(map(len, marks), default=0) < LONG_TITLE else 1
    axes.figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=columns, fontsize="small")


def _beside(score: Score, record: RunRecord, others: Mapping[str, RunRecord]) -> list[tuple[str, str, str, float]]:
    """What stands beside a score: marker, colour, title and value."""
    found: list[tuple[str, str, str, float | None]] = [("x", QUIET, "word overlap", score.overlap_baseline)]
    for other in record.scores:
        if (other.task, other.metric) == (score.task, score.metric) and other.start in OTHER_STARTS:
            marker, title = OTHER_STARTS[other.start]
            found.append((marker, COLORS[4], title, other.value))
    for (title, other_record), marker in zip(others.items(), "s^v<>", strict=False):
        for other in other_record.primary_scores():
            if (other.task, other.metric, other.n) == (score.task, score.metric, score.n):
                found.append((marker, COLORS[0], title, other.value))
    return [(*kind, value) for *kind, value in found if value is not None and math.isfinite(value)]  # type: ignore[misc]
