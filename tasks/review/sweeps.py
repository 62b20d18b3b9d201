"""The comparison of a sweep: its runs by configuration, means over seeds, and the verdicts of the one engine.

Example: `cogito sweep experiments/*.yaml --miniature --grid training.seed=[1,2,3]`
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from tasks.plots import RANKS
from tasks.review.comparisons import HELD_OUT_LOSS, compare_scores
from tasks.review.rendering import delta_text, markdown_table
from tasks.review.sides import Side, pooled, run_side
from tasks.scores.intervals import mean_interval
from tasks.scores.metrics import UNIGRAM_MARGIN_NATS
from tasks.scores.showing import FloorMark, floor_mark, shared_mark
from tasks.spec.experiment import ExperimentSpec
from tasks.store.files import content_hash, read_json, write_atomic, write_json
from tasks.store.home import Home
from tasks.store.records import RunRecord, load_record

# Gradient norms of the first steps show how a model starts, not whether it is stable.
SETTLED_SHARE = 0.2
# The figures of the analysis that runs are compared by.
GEOMETRY = (RANKS[0], RANKS[2], "input_variance_share", "retrieval_top_1")


def sweep_folder(specs: Sequence[ExperimentSpec], home: Home) -> Path:
    """Where the comparison of a sweep lies: the same experiments, the same folder."""
    return home.root / "sweeps" / content_hash([spec.model_dump(mode="json") for spec in specs])


def compare_runs(
    outcomes: Sequence[tuple[str, str | None, str]], home: Home, folder: Path, *, verdicts: bool = True
) -> list[dict[str, Any]]:
    """One row per configuration, its seeds together, written as comparison.json and comparison.md into `folder`.

    Args:
        outcomes: of every experiment its name, its run id (None where there is none) and how it ended.
        verdicts: whether to judge the scores of every configuration against the first; this bootstraps every pair.
    """
    groups: dict[str, list[_Run]] = {}
    for name, run_id, message in outcomes:
        run = _read_run(name, home, run_id) if run_id else _Run(name, name, None, message)
        groups.setdefault(run.group, []).append(run)
    rows = [_summary(runs) for runs in groups.values()]
    if verdicts:
        sides = [[run.side for run in runs if run.side] for runs in groups.values()]
        _judge([(row, pooled(parts)) for row, parts in zip(rows, sides, strict=True) if parts])
    write_json(folder / "comparison.json", rows)
    write_atomic(folder / "comparison.md", comparison_table(rows))
    return rows


def read_comparison(folder: Path) -> list[dict[str, Any]]:
    """The rows that `compare_runs` wrote."""
    return cast("list[dict[str, Any]]", read_json(folder / "comparison.json"))


def comparison_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown: means over seeds, with their 95 % interval from two seeds on, and the verdicts."""
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    lines = [["experiment", "seeds", "left the plateau", *names]]
    for row in rows:
        cells = [row["name"], str(row["seeds"]), "; ".join(row["failed"]) or row["left_plateau"]]
        lines.append([*cells, *(_cell(row["figures"].get(name)) for name in names)])
    verdicts = [["experiment", "against", "score", "difference (95 % interval)"], *verdict_rows(rows)]
    return markdown_table(*lines) + ("\n" + markdown_table(*verdicts) if len(verdicts) > 1 else "")


def verdict_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Every verdict of a comparison: experiment, what it is judged against, score, difference."""
    keys = ("against", "figure", "text")  # a comparison of an earlier version has no verdicts
    return [[str(row["name"]), *(each[key] for key in keys)] for row in rows for each in row.get("verdicts", [])]


def mean_text(figure: Mapping[str, Any]) -> str:
    """A mean over seeds, from two seeds on with their standard deviation and the interval of the mean."""
    values = figure.get("values", [])
    spread = f", sd {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    interval = " ({:z.3f} to {:z.3f})".format(*figure["interval"]) if figure.get("interval") else ""
    return f"{figure['mean']:z.3f}{spread}{interval}"


def pooled_mark(figure: Mapping[str, Any]) -> str:
    """The mark of a score over seeds: `below floor`, `at floor` or nothing; of no score nothing."""
    return str(figure.get("mark") or ("at floor" if figure.get("at_floor") else ""))  # earlier comparisons: `at_floor`


def _cell(figure: Mapping[str, Any] | None) -> str:
    return "--" if figure is None else f"{mean_text(figure)} {pooled_mark(figure)}".strip()


@dataclass(frozen=True)
class _Run:
    """One experiment of a sweep and what came of it.

    Attributes:
        group: what the runs of one configuration share: their spec without its seed.
        failed: how it ended where it is not complete.
        left_plateau: whether the held-out loss is clearly below the unigram entropy; None where it is not known.
        figures: by name; of an evaluation also those of its pretraining.
        marks: of every score among the figures where it stands beside its floor.
    """

    name: str
    group: str
    run_id: str | None
    failed: str
    side: Side | None = None
    left_plateau: bool | None = None
    figures: dict[str, float] = field(default_factory=dict)
    marks: dict[str, FloorMark] = field(default_factory=dict)


def _read_run(name: str, home: Home, run_id: str) -> _Run:
    record = load_record(home.run(run_id))
    side = run_side(record, home.run(run_id))
    trained = side.trained or record
    spec = json.loads(json.dumps(record.spec))
    spec.get("training", {}).pop("seed", None)
    spec.pop("name", None)
    figures: dict[str, float] = {}
    left = None
    if trained.pretraining and trained.corpus:
        loss, entropy = trained.pretraining.eval_loss, trained.corpus.unigram_entropy_nats
        left = loss < entropy - UNIGRAM_MARGIN_NATS
        figures = {HELD_OUT_LOSS: loss, "unigram entropy": entropy, "peak gradient norm": _peak_gradient_norm(trained)}
    known = record.analysis.figures if record.analysis else {}  # earlier records lack the last two
    figures |= {label.replace("_", " "): known[label] for label in GEOMETRY if label in known}
    scores = [score for score in record.primary_scores() if score.value is not None]
    base = re.sub(r"_seed\d+$", "", name)
    return _Run(
        name=base,
        group=content_hash(spec) + base,
        run_id=run_id,
        failed="" if record.status == "complete" else f"{run_id}: {record.status}",
        side=side,
        left_plateau=left,
        figures=figures | {score.task: score.value for score in scores if score.value is not None},
        marks={score.task: floor_mark(score) for score in scores},
    )


def _peak_gradient_norm(record: RunRecord) -> float:
    """The largest gradient norm once training has settled."""
    assert record.pretraining is not None
    points = [json.loads(line) for line in record.pretraining.curve.read_text(encoding="utf-8").splitlines()]
    settled = points[int(SETTLED_SHARE * len(points)) :]
    return max((point["gradient_norm"] for point in settled), default=math.nan)


def _summary(runs: list[_Run]) -> dict[str, Any]:
    """The runs of one configuration as a row."""
    figures: dict[str, Any] = {}
    for name in dict.fromkeys(name for run in runs for name in run.figures):
        values = [run.figures[name] for run in runs if name in run.figures]
        figures[name] = {"mean": float(np.mean(values)), "values": values, "interval": mean_interval(values)}
        if mark := shared_mark(run.marks[name] for run in runs if name in run.marks):
            figures[name]["mark"] = mark
    left = [run.left_plateau for run in runs if run.left_plateau is not None]
    return {
        "name": runs[0].name,
        "seeds": sum(run.side is not None for run in runs),
        "runs": [run.run_id for run in runs if run.run_id],
        "failed": [run.failed for run in runs if run.failed],
        "left_plateau": f"{sum(left)} of {len(left)}",
        "figures": figures,
    }


def _judge(configurations: Sequence[tuple[dict[str, Any], Side]]) -> None:
    """Add to every row but the first the verdicts on its primary scores beside those of the first."""
    if not configurations:
        return
    (first, baseline), *others = configurations
    for row, side in others:
        row["verdicts"] = [
            {"against": first["name"], "figure": figure.name, "verdict": figure.verdict}
            | {"delta": figure.delta, "interval": figure.interval, "text": delta_text(figure)}
            for figure in compare_scores(baseline, side, primary=True)
        ]
