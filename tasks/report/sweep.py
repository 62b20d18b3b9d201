"""What the report of a sweep says: one line per run, their losses in one plot, seeds together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.plots import plot_curves
from tasks.report.pages import Code, Link, Part, Picture, Report, Section, Strong, Table, Text
from tasks.report.run import Points, beside_unigram, is_number, read_curve
from tasks.report.scores import AT_FLOOR, RANKS, first_line, pair_scores, score_cell
from tasks.review.sweeps import read_comparison
from tasks.store.files import is_safe_name
from tasks.store.home import Home
from tasks.store.records import RunRecord, Score, load_record

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep; `gap` says why it has no record or no curve."""

    experiment: str
    run_id: str
    record: RunRecord | None
    points: Points
    gap: str

    @property
    def entropy(self) -> float | None:
        return self.record.corpus.unigram_entropy_nats if self.record and self.record.corpus else None

    @property
    def seconds(self) -> float:
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
        return SweepRun(experiment, run_id, None, [], "its record is gone or cannot be read")
    trained = run_id
    if record.kind == "evaluation" and record.checkpoint and home.has_run(record.checkpoint.run_id or ""):
        trained = record.checkpoint.run_id or run_id
    points, gap = read_curve(home.run(trained))
    return SweepRun(experiment, run_id, record, [p for p in points if is_number(p.get("task_loss"))], gap)


def sweep_report(folder: Path, rows: Rows, runs: Sequence[SweepRun], baseline: RunRecord | None = None) -> Report:
    """The report of a sweep: one line per run, with a link to its own report below this one.

    Args:
        folder: of the sweep.
        rows, runs: what `read_sweep` found.
        baseline: the record of a run to compare with.
    """
    sections = [
        Section("Summary", _summary(rows, runs)),
        Section("Skipped and failed", _failures(rows, runs)),
        Section("Runs", [_runs(runs)]),
        Section("Scores", _scores(runs)),
        *([Section(f"Against {baseline.run_id}", _against(runs, baseline))] if baseline else []),
        Section("Losses", _losses(runs)),
        Section("Seeds together", _seeds_together(rows)),
        Section("Time and cost", [_time(runs)]),
    ]
    return Report(f"Sweep {folder.name}", sections)


def _page(run: SweepRun) -> Text:
    return Link(run.run_id, f"runs/{run.run_id}/report.md") if run.record else Code(run.run_id)


def _summary(rows: Rows, runs: Sequence[SweepRun]) -> list[Part]:
    complete = sum(run.record is not None and run.record.status == "complete" for run in runs)
    parts: list[Part] = [f"{len(rows)} experiments, {len(runs)} runs, {complete} of them complete."]
    if any(run.record and run.record.made_data for run in runs):
        parts.append(Strong("Corpus or tasks are made stand-ins: nothing here speaks of the real tasks."))
    return parts


def _runs(runs: Sequence[SweepRun]) -> Table:
    rows: list[list[Text]] = []
    for run in runs:
        record = run.record
        if record is None:
            rows.append([_page(run), run.experiment, Strong("no record"), *["--"] * 5])
            continue
        done, figures = record.pretraining, record.analysis.figures if record.analysis else {}
        ranks = [f"{figures[name]:.1f}" if name in figures else "--" for name in (RANKS[0], RANKS[2])]
        rows.append(
            [
                _page(run),
                run.experiment,
                record.status if record.status == "complete" else Strong(record.status),
                (f"{done.eval_loss:.3f}", beside_unigram(record)) if done else "--",
                f"{run.entropy:.3f}" if run.entropy is not None else "--",
                *ranks,
                f"{run.seconds:,.0f}",
            ]
        )
    header = (
        "run",
        "experiment",
        "status",
        "held-out loss",
        "unigram entropy",
        "nuclear rank of mean",
        "effective rank per sample",
        "seconds",
    )
    return Table(header, rows)


def _scores(runs: Sequence[SweepRun]) -> list[Part]:
    """Like scores share a column: another n or floor is another split, and so another column."""
    columns: dict[tuple[str, str, int, float], dict[str, Score]] = {}
    for run in runs:
        for score in run.record.primary_scores() if run.record else []:
            key = (score.task, score.metric, score.n, round(score.floor, 9))
            columns.setdefault(key, {})[run.run_id] = score
    if not columns:
        return ["Not measured: no run has a score."]
    header = ["run", *(f"{task} {metric}, n {n:,}, floor {floor:.3f}" for task, metric, n, floor in columns)]
    rows = [[_page(run), *(score_cell(found.get(run.run_id)) for found in columns.values())] for run in runs]
    return ["Primary scores of the checkpoint with their 95 % intervals over examples.", Table(header, rows)]


def _seeds_together(rows: Rows) -> list[Part]:
    names = list(dict.fromkeys(name for row in rows for name in row.get("figures", {})))
    cells: list[list[Text]] = [
        [
            str(row.get("name")),
            str(row.get("seeds", "--")),
            str(row.get("left_plateau", "--")),
            *(_mean(row.get("figures", {}).get(name)) for name in names),
        ]
        for row in rows
    ]
    return [
        "Means over the seeds of an experiment; with two seeds or more the 95 % interval of that mean.",
        Table(["experiment", "seeds", "left the plateau", *names], cells),
    ]


def _mean(figure: dict[str, Any] | None) -> Text:
    if figure is None:
        return "--"
    interval = " ({:z.3f} to {:z.3f})".format(*figure["interval"]) if figure.get("interval") else ""
    return (f"{figure['mean']:z.3f}{interval} ", AT_FLOOR if figure.get("at_floor") else "")


def _losses(runs: Sequence[SweepRun]) -> list[Part]:
    parts: list[Part] = []
    curves = {run.run_id: run.points for run in runs if run.points}
    if curves:
        entropies = {run.entropy for run in runs if run.points}
        entropy = entropies.pop() if len(entropies) == 1 else None
        parts.append(Picture("losses", "Losses over steps", partial(plot_curves, curves, entropy)))
        if entropy is None:
            parts.append("The runs read different texts, or not all are known: losses are not like, no line is drawn.")
    for run in runs:
        if not run.points:
            parts.append((Code(run.run_id), f": loss not measured: {run.gap or 'its curve has no loss'}."))
    return parts or ["Not measured: the sweep has no run."]


def _against(runs: Sequence[SweepRun], baseline: RunRecord) -> list[Part]:
    columns = baseline.primary_scores()
    own: list[Text] = [(Code(baseline.run_id), " (baseline)"), *map(score_cell, columns)]
    rows, refused = [own], []
    for run in runs:
        if run.record is None or run.run_id == baseline.run_id:
            continue
        cells: dict[tuple[str, str], Text] = {}
        for pair in pair_scores(run.record, baseline):
            score = pair.score
            if score.primary and score.start == "checkpoint" and pair.unlike:
                refused.append([_page(run), score.task, score.metric, pair.unlike])
            elif score.primary and score.start == "checkpoint":
                cells[score.task, score.metric] = score_cell(score, pair.delta)
        rows.append([_page(run), *(cells.get((score.task, score.metric), "--") for score in columns)])
    parts: list[Part] = [
        (
            "Primary scores and their distance to those of ",
            Code(baseline.run_id),
            ": only like figures, of the same ",
            "task, split, metric and examples. What else differs stands in each run's own report.",
        ),
        Table(["run", *(f"{score.task} {score.metric}" for score in columns)], rows),
    ]
    if refused:
        parts += ["Not compared:", Table(("run", "task", "metric", "why"), refused)]
    return parts


def _time(runs: Sequence[SweepRun]) -> Table:
    records = [run.record for run in runs if run.record]
    names = list(dict.fromkeys(name for record in records for name in record.stages))
    total = sum(run.seconds for run in runs)
    rows: list[list[Text]] = []
    for run in runs:
        stages = run.record.stages if run.record else {}
        rows.append(
            [
                _page(run),
                *(f"{stages[name].seconds:,.1f}" if name in stages else "--" for name in names),
                f"{run.seconds:,.1f}",
                f"{run.seconds / total:.1%}" if total else "--",
            ]
        )
    return Table(["run", *(f"{name} (s)" for name in names), "sum (s)", "share"], rows)


def _failures(rows: Rows, runs: Sequence[SweepRun]) -> list[Part]:
    parts: list[Part] = []
    known = {run.run_id for run in runs}
    for row in rows:
        for message in map(str, row.get("failed", [])):
            if message.partition(":")[0] not in known:  # of a run its record says more
                parts.append((Strong(str(row.get("name"))), ": ", message))
    for run in runs:
        if run.record is None:
            parts.append((Code(run.run_id), ": ", run.gap))
            continue
        for name, stage in run.record.stages.items():
            if stage.status != "complete":
                parts.append((_page(run), f": {name} {stage.status}: ", first_line(stage.message)))
    return parts or ["Nothing was skipped and nothing failed."]
