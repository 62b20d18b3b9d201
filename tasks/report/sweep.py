"""The report of a sweep: the facts that `templates/sweep.md.j2` prints, and the losses of all runs in one plot."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.picture import Points, points_with, read_curve
from tasks.plots import RANKS, plot_curves
from tasks.report.baseline import primary_pairs
from tasks.report.facts import MADE_DATA, loss_mark
from tasks.report.rendering import Plot, Report
from tasks.report.swept import Swept, swept, swept_plots
from tasks.review.sides import Side, run_side
from tasks.review.sweeps import read_comparison, verdict_rows
from tasks.store.files import is_safe_name
from tasks.store.home import Home, RunFolder
from tasks.store.records import RunRecord, Score, StageRecord, load_record

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep; `gap` says why it has no record or no curve."""

    experiment: str
    folder: RunFolder
    record: RunRecord | None
    points: Points
    gap: str

    @property
    def run_id(self) -> str:
        """The run id."""
        return self.folder.run_id

    @property
    def side(self) -> Side | None:
        """The run as a side of a comparison."""
        return run_side(self.record, self.folder) if self.record else None

    @property
    def entropy(self) -> float | None:
        """The unigram entropy of the held-out text, in nats."""
        return self.record.corpus.unigram_entropy_nats if self.record and self.record.corpus else None

    @property
    def loss_mark(self) -> str:
        """The mark of its held-out loss."""
        return loss_mark(self.record) if self.record else ""

    @property
    def seconds(self) -> float:
        """The time of all stages."""
        return sum(stage.seconds for stage in self.record.stages.values()) if self.record else 0.0


def read_sweep(folder: Path, home: Home) -> tuple[Rows, list[SweepRun]]:
    """The rows of a sweep's `comparison.json`, and the runs that they name.

    Raises:
        UserError: it cannot be read.
    """
    try:
        rows: Rows = read_comparison(folder)
        runs = [(str(row["name"]), run_id) for row in rows for run_id in row["runs"]]
        return rows, [_read_run(name, run_id, home) for name, run_id in dict.fromkeys(runs)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        path = folder / "comparison.json"
        raise UserError(f"{path}: is no comparison of a sweep ({error!r}); fix: run the sweep again") from None


def _read_run(experiment: str, run_id: str, home: Home) -> SweepRun:
    if not is_safe_name(run_id):
        raise ValueError(f"no run id: {run_id!r}")
    try:
        record = load_record(home.run(run_id))
    except UserError:
        return SweepRun(experiment, home.run(run_id), None, [], "its record is gone or cannot be read")
    own = record.checkpoint.run_id if record.kind == "evaluation" and record.checkpoint else None
    points, gap = read_curve(home.run(own if own and home.has_run(own) else run_id).pretraining / "curve.jsonl")
    return SweepRun(experiment, home.run(run_id), record, points_with(("task_loss",), points), gap)


def sweep_report(folder: Path, rows: Rows, runs: Sequence[SweepRun], baseline: Side | None = None) -> Report:
    """The report of a sweep: one line per run, with a link to its own report below this one.

    Args:
        folder: of the sweep.
        rows, runs: the result of `read_sweep`.
        baseline: a run to compare with.
    """
    records = [run.record for run in runs if run.record]
    found = swept([(run.experiment, run.record) for run in runs if run.record])
    runs = sorted(runs, key=lambda run: (run.record is None, found.place(run.run_id)))
    rows = sorted(rows, key=lambda row: (not row["runs"], [found.place(run_id) for run_id in row["runs"][:1]]))
    plots = [*swept_plots(found, records), *_loss_plots(runs, found)]
    entropies = {run.entropy for run in runs if run.points}
    others = [(run, run.side) for run in runs if run.side and baseline and run.run_id != baseline.name]
    compared = [(run, primary_pairs(side, baseline)) for run, side in others if baseline]
    facts = {
        "rows": [(row, found.cells(row["runs"][0]) if row["runs"] else None) for row in rows],
        "runs": runs,
        "swept": found,
        "ranks": (RANKS[0], RANKS[2]),
        "complete": sum(record.status == "complete" for record in records),
        "made_data": MADE_DATA if any(record.made_data for record in records) else "",
        "never_run": _never_run(rows, runs),
        "failures": _failures(runs),
        "columns": _columns(runs),
        "baseline": baseline.record if baseline else None,
        "compared": compared,
        "refused": [(run, pair) for run, pairs in compared for pair in pairs.values() if pair.figure.refused],
        "swept_plots": [plot for plot in plots if plot.name == "swept"],
        "loss_plots": [plot for plot in plots if plot.name == "losses"],
        "different_texts": bool(entropies) and (len(entropies) > 1 or None in entropies),
        "names": list(dict.fromkeys(name for row in rows for name in row.get("figures", {}))),
        "verdicts": verdict_rows(rows),
        "stages": list(dict.fromkeys(name for record in records for name in record.stages)),
        "total": sum(run.seconds for run in runs),
    }
    return Report(f"Sweep {folder.name}", "sweep.md.j2", facts, plots)


def _loss_plots(runs: Sequence[SweepRun], found: Swept) -> list[Plot]:
    """The losses of all runs, each under the values of its swept keys."""
    labels = [found.label(run.run_id) for run in runs]
    drawn = [(run, label) for run, label in zip(runs, labels, strict=True) if run.points]
    curves = {label if labels.count(label) == 1 else f"{label} ({run.run_id})": run.points for run, label in drawn}
    if not curves:
        return []
    entropies = {run.entropy for run, _ in drawn}
    entropy = next(iter(entropies)) if len(entropies) == 1 else None
    last = [f"{label} {points[-1]['task_loss']:.3f}" for label, points in curves.items()]
    alt = f"Training loss at the end: {'; '.join(last)}" + (f"; unigram entropy {entropy:.3f}" if entropy else "")
    return [Plot("losses", "Losses over steps", partial(plot_curves, curves, unigram_entropy=entropy), alt=alt)]


def _columns(runs: Sequence[SweepRun]) -> dict[tuple[str, str, int, float], dict[str, Score]]:
    """Like scores share a column: another n or floor is another split, and so another column."""
    columns: dict[tuple[str, str, int, float], dict[str, Score]] = defaultdict(dict)
    for run in runs:
        for score in run.record.primary_scores() if run.record else []:
            columns[score.task, score.metric, score.n, round(score.floor, 9)][run.run_id] = score
    return columns


def _never_run(rows: Rows, runs: Sequence[SweepRun]) -> list[tuple[str, str]]:
    """Experiments that failed before they had a run; the record of a run says more than its row."""
    run_ids = {run.run_id for run in runs}
    failed = [(str(row.get("name")), str(message)) for row in rows for message in row.get("failed", [])]
    return [(name, message) for name, message in failed if message.partition(":")[0] not in run_ids]


def _failures(runs: Sequence[SweepRun]) -> list[tuple[SweepRun, str, StageRecord | None]]:
    failures: list[tuple[SweepRun, str, StageRecord | None]] = []
    for run in runs:
        stages = run.record.stages.items() if run.record else []
        failures += [(run, name, stage) for name, stage in stages if stage.status != "complete"]
        failures += [] if run.record else [(run, "", None)]
    return failures
