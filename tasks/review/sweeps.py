"""Several experiments at once: miniatures of large ones, the grid of a sweep, and the table that compares the runs.

Example: `cogito sweep experiments/*.yaml --miniature --grid training.seed=[1,2,3]`
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.scores.metrics import UNIGRAM_MARGIN_NATS
from tasks.spec.experiment import ExperimentSpec
from tasks.store.files import content_hash, read_json, write_atomic, write_json
from tasks.store.home import Home
from tasks.store.records import RunRecord, load_record

CONFIDENCE = 0.95
# Gradient norms of the first steps say how a model starts, not whether it is stable.
SETTLED_SHARE = 0.2
# Figures of the analysis that runs are compared by.
GEOMETRY = ("nuclear_rank_of_mean", "effective_rank_per_sample_mean", "input_variance_share", "retrieval_top_1")


def sweep_folder(specs: Sequence[ExperimentSpec], home: Home) -> Path:
    """Where the comparison of a sweep lies: the same experiments, the same folder."""
    return home.root / "sweeps" / content_hash([spec.model_dump(mode="json") for spec in specs])


def compare_runs(outcomes: Sequence[tuple[str, str | None, str]], home: Home, folder: Path) -> list[dict[str, Any]]:
    """One row per experiment, seeds together, written as comparison.json and comparison.md into `folder`.

    Args:
        outcomes: name, run id (None when there is none) and what happened, per experiment.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, run_id, message in outcomes:
        figures = _figures(name, home, run_id) if run_id else {"name": name, "group": name, "status": message}
        groups.setdefault(str(figures["group"]), []).append(figures)
    rows = [_summary(runs) for runs in groups.values()]
    write_json(folder / "comparison.json", rows)
    write_atomic(folder / "comparison.md", comparison_table(rows))
    return rows


def comparison_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table: mean over seeds and, with two seeds or more, the 95 % interval of that mean."""
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    header = ["experiment", "seeds", "left the plateau", *names]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [row["name"], str(row["seeds"]), row["left_plateau"] if not row["failed"] else "; ".join(row["failed"])]
        lines.append(f"| {' | '.join([*cells, *(_cell(row['figures'].get(name)) for name in names)])} |")
    return "\n".join(lines) + "\n"


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "--"
    text = f"{figure['mean']:.3f}"
    if figure["interval"] is not None:
        text += " ({:.3f} to {:.3f})".format(*figure["interval"])
    return text + (" at floor" if figure.get("at_floor") else "")


def _figures(name: str, home: Home, run_id: str) -> dict[str, Any]:
    """The figures of one run by name; those of its pretraining where it is an evaluation of it."""
    record = load_record(home.run(run_id))
    trained = record
    if record.kind == "evaluation" and record.checkpoint and record.checkpoint.run_id:
        trained = load_record(home.run(record.checkpoint.run_id))
    spec = json.loads(json.dumps(record.spec))
    spec.get("training", {}).pop("seed", None)
    spec.pop("name", None)
    found: dict[str, float] = {}
    left = None
    if trained.pretraining and trained.corpus:
        found["held-out loss"] = trained.pretraining.eval_loss
        found["unigram entropy"] = trained.corpus.unigram_entropy_nats
        left = found["held-out loss"] < found["unigram entropy"] - UNIGRAM_MARGIN_NATS
        found["peak gradient norm"] = _peak_gradient_norm(trained)
    if record.analysis:
        for label in GEOMETRY:
            if label in record.analysis.figures:  # earlier records lack the last two
                found[label.replace("_", " ")] = record.analysis.figures[label]
    floors = {}
    for score in record.primary_scores():
        if score.value is not None:
            found[score.task] = score.value
            floors[score.task] = not score.above_floor
    base = re.sub(r"_seed\d+$", "", name)
    failed = "" if record.status == "complete" else f"{run_id}: {record.status}"
    return {
        "name": base,
        "group": content_hash(spec) + base,
        "run_id": run_id,
        "status": failed,
        "left": left,
        "found": found,
        "floors": floors,
    }


def _peak_gradient_norm(record: RunRecord) -> float:
    """The largest gradient norm once training has settled."""
    assert record.pretraining is not None
    points = [json.loads(line) for line in record.pretraining.curve.read_text(encoding="utf-8").splitlines()]
    settled = points[int(SETTLED_SHARE * len(points)) :]
    return max((point["gradient_norm"] for point in settled), default=math.nan)


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for run in runs for name in run.get("found", {})))
    figures: dict[str, Any] = {}
    for name in names:
        values = [run["found"][name] for run in runs if name in run.get("found", {})]
        at_floor = [run["floors"][name] for run in runs if name in run.get("floors", {})]
        figures[name] = {"mean": float(np.mean(values)), "values": values, "interval": mean_interval(values)}
        if at_floor:
            figures[name]["at_floor"] = all(at_floor)
    left = [run["left"] for run in runs if run.get("left") is not None]
    return {
        "name": runs[0]["name"],
        "seeds": sum("found" in run for run in runs),
        "runs": [run["run_id"] for run in runs if "run_id" in run],
        "failed": [run["status"] for run in runs if run["status"]],
        "left_plateau": f"{sum(left)} of {len(left)}",
        "figures": figures,
    }


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of a mean over seeds by Student's t; None for a single seed."""
    if len(values) < 2:
        return None
    from scipy.stats import sem, t

    half = float(sem(values) * t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
    mean = float(np.mean(values))
    return mean - half, mean + half


def read_comparison(folder: Path) -> list[dict[str, Any]]:
    """The rows that `compare_runs` wrote."""
    rows: list[dict[str, Any]] = read_json(folder / "comparison.json")
    return rows
