"""The report of one run: the facts that `templates/run.md.j2` prints, and its plots."""

import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tasks.checkpoints.publishing import flat_keys, public_name
from tasks.picture import Points, points_with, read_curve
from tasks.plots import RANKS, plot_curve, plot_live_geometry, plot_over_steps, plot_similarity, plot_singular_values
from tasks.report.baseline import against
from tasks.report.facts import MADE_DATA, loss_mark, setting_text, spec_of, why_missing
from tasks.report.rendering import Plot, Report
from tasks.review.sides import Side, run_side, spec_section
from tasks.scores.metrics import UNIGRAM_MARGIN_NATS
from tasks.scores.showing import START_TITLES, is_above_floor, show
from tasks.spec.experiment import ExperimentSpec, training_steps
from tasks.store.home import RunFolder
from tasks.store.records import RunRecord, Score, load_record
from tasks.store.stage_table import recorded_stages


def run_report(run: RunFolder, baseline: Side | None = None) -> Report:
    """The report of a run from what lies in its folder.

    Args:
        baseline: a run to compare with.
    """
    record = load_record(run)
    spec = spec_of(record)
    points, gap = read_curve(run.pretraining / "curve.jsonl")
    curve_plots = [] if record.kind == "evaluation" else _curve_plots(record, spec, points, gap)
    concept_plots = _concept_plots(run) if record.analysis else []
    missing = [name for name in recorded_stages(record.kind) if name not in record.stages]
    facts = {
        "record": record,
        "spec": spec,
        "starts": START_TITLES,
        "warnings": _warnings(record),
        "loss_mark": loss_mark(record),
        "above_floor": sum(map(is_above_floor, record.primary_scores())),
        "failures": _failures(record),
        "unreached": [] if record.status == "complete" else missing,
        "scores": [show(score) for score in _ordered(record.scores)],
        "unscored": _unscored(record),
        "why_unscored": why_missing(record, "scores" if "scores" in record.stages else "finetuning"),
        "baseline": against(run_side(record, run), baseline) if baseline else None,
        "curve_plots": curve_plots,
        "concept_plots": concept_plots,
        "settings": _settings(record, spec),
        "times": _times(record),
        "resumed_steps": _resumed_steps(record),
        "plans": _plans(record, spec, points) if spec else [],
        "why_missing": partial(why_missing, record),
        "public_name": public_name,
    }
    return Report(record.run_id, "run.md.j2", facts, curve_plots + concept_plots)


def _warnings(record: RunRecord) -> list[str]:
    """What a reader must know before any figure of the run."""
    margin = f"{UNIGRAM_MARGIN_NATS:g} nats below the unigram entropy"
    selected_on_dev = spec_section(record, "evaluation").get("select_on") == "dev"
    notes = {
        MADE_DATA: record.made_data,
        f"The held-out loss is not {margin}: nothing contextual was learned.": loss_mark(record) == "at unigram floor",
        "The epoch was chosen on the scored split: the scores are optimistic.": selected_on_dev,
    }
    return [note for note, applies in notes.items() if applies]


def _failures(record: RunRecord) -> list[tuple[str, str | None]]:
    """What did not end well, and its message."""
    stages = [(f"{name} {stage.status}", stage) for name, stage in record.stages.items()]
    return [
        *((title, stage.message) for title, stage in stages if stage.status != "complete"),
        *(
            (f"fine-tuning of {cell.task}, seed {cell.seed}, {START_TITLES[cell.start]} failed", cell.error)
            for cell in record.cells
            if cell.status == "failed"
        ),
    ]


def _ordered(scores: list[Score]) -> list[Score]:
    """Scores with a random start and the zero-shot answer right below the score that they put in proportion."""
    first = {(score.task, score.metric): number for number, score in reversed(list(enumerate(scores)))}
    starts = list(START_TITLES)
    return sorted(scores, key=lambda score: (first[score.task, score.metric], starts.index(score.start)))


def _unscored(record: RunRecord) -> list[str]:
    """The starts that the spec requests and that have no score at all."""
    requested, scored = spec_section(record, "evaluation"), {score.start for score in record.scores}
    names = {"random": "random_start", "zero_shot": "zero_shot"}
    return [START_TITLES[start] for start, key in names.items() if requested.get(key) and start not in scored]


def _settings(record: RunRecord, spec: ExperimentSpec | None) -> dict[str, str]:
    keys = spec.model_dump(mode="json", exclude_defaults=True) if spec else record.spec
    return {key: setting_text(value) for key, value in flat_keys(keys).items()}


def _curve_plots(record: RunRecord, spec: ExperimentSpec | None, points: Points, gap: str) -> list[Plot]:
    entropy = record.corpus.unigram_entropy_nats if record.corpus else None
    concepts = spec.model.num_concepts if spec else record.analysis.num_concepts if record.analysis else None
    clipped = spec.training.max_grad_norm if spec else None

    def plot(name: str, title: str, needs: tuple[str, ...], draw: Callable[..., None], /, **options: Any) -> Plot:
        usable = points_with(needs, points)
        reason = gap or f"no step of the curve has {', '.join(key.replace('_', ' ') for key in needs)}"
        return Plot(name, title, partial(draw, usable, **options) if usable else None, "" if usable else reason)

    plots = [plot("loss", "Loss over steps", ("task_loss",), plot_curve, unigram_entropy=entropy)]
    for name, limit in (("learning_rate", None), ("gradient_norm", clipped)):
        title = f"{name.replace('_', ' ').capitalize()} over steps"
        plots.append(plot(name, title, (name,), plot_over_steps, name=name, title=title, limit=limit))
    title = "Concept ranks over steps"
    if concepts is None:
        return [*plots, Plot("ranks", title, None, "the number of concepts is not known")]
    return [*plots, plot("ranks", title, RANKS, plot_live_geometry, num_concepts=concepts)]


def _concept_plots(run: RunFolder) -> list[Plot]:
    arrays, gap = _geometry(run)
    plots = []
    drawings: list[tuple[str, str, str, int, Callable[..., None]]] = [
        ("singular_values", "Singular values of the mean concept matrix", "singular_values", 1, plot_singular_values),
        ("similarity", "Mean cosine between concepts", "mean_similarity", 2, plot_similarity),
    ]
    for name, title, key, dimensions, draw in drawings:
        values, fault = arrays.get(key), ""
        if values is None:
            fault = gap or f"analysis/geometry.npz has no {key}"
        elif values.ndim != dimensions or not values.size or not np.isfinite(values).all() or not values.flat[0] > 0:
            fault = "its values are not finite or all 0"
        plots.append(Plot(name, title, None if fault else partial(draw, values), fault))
    return plots


def _geometry(run: RunFolder) -> tuple[dict[str, np.ndarray], str]:
    try:
        with np.load(run.analysis / "geometry.npz", allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name], dtype=np.float64) for name in arrays.files}, ""
    except FileNotFoundError:
        return {}, "there is no analysis/geometry.npz"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return {}, f"analysis/geometry.npz cannot be read: {error}"


def _times(record: RunRecord) -> list[list[str]]:
    """Of every stage: where it ran, seconds, their share, and the seconds of all its devices."""
    gpu_or_cpu = record.environment.gpus[0] if record.environment.gpus else "CPU"
    total = sum(stage.seconds for stage in record.stages.values())
    done = record.pretraining
    rows = []
    for name, stage in record.stages.items():
        if stage.status == "skipped":
            rows.append([name, *["--"] * 4])
            continue
        device = gpu_or_cpu if name in ("pretraining", "analysis", "finetuning") else "CPU"
        device_seconds = stage.seconds
        if name == "pretraining" and done:
            device, device_seconds = f"{done.device} x {done.processes}", stage.seconds * done.processes
        elif name == "finetuning":
            device_seconds = sum(cell.seconds for cell in record.cells)
        share = f"{stage.seconds / total:.1%}" if total else "--"
        rows.append([name, device, f"{stage.seconds:,.1f}", share, f"{device_seconds:,.1f}"])
    return [*rows, ["sum", "", f"{total:,.1f}", "100.0%" if total else "--", ""]]


def _resumed_steps(record: RunRecord) -> int | None:
    """The steps of the last part of a resumed training, whose time alone is recorded; None where it ran in one go."""
    done = record.pretraining
    own = round(done.steps_per_second * done.seconds) if done and done.steps_per_second else None
    return own if own is not None and done and own < done.steps else None


def _plans(record: RunRecord, spec: ExperimentSpec, points: Points) -> list[tuple[str, float, float]]:
    """What spec and corpus call for, and what was done."""
    plans: list[tuple[str, float, float]] = []
    if record.kind == "training" and record.corpus:
        blocks, training = record.corpus.train_blocks, spec.training
        steps = training_steps(spec, blocks)
        done = record.pretraining.steps if record.pretraining else points[-1]["step"] if points else 0
        per_epoch = training.global_batch_size / blocks
        evaluations = steps // training.eval_every_steps + (steps % training.eval_every_steps > 0)
        plans += [
            ("training steps", steps, done),
            ("epochs", round(steps * per_epoch, 4), round(done * per_epoch, 4)),
            ("evaluations on held-out text", evaluations, sum("eval_loss" in point for point in points)),
        ]
    evaluation = spec.evaluation
    cells = sum(len(evaluation.for_task(name).seeds) for name in evaluation.tasks) * (1 + evaluation.random_start)
    cells += len(evaluation.zero_shot_tasks) if evaluation.zero_shot else 0
    plans.append(("fine-tuning jobs", cells, sum(cell.status == "complete" for cell in record.cells)))
    if record.corpus:
        blocks = min(spec.analysis.max_samples, record.corpus.held_out_blocks)
        plans.append(("blocks analysed", blocks, record.analysis.samples if record.analysis else 0))
    return plans
