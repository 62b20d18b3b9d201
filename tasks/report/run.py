"""The report of one run: the facts that `templates/run.md.j2` prints, and its plots."""

from functools import partial

from tasks.picture import Points, read_curve
from tasks.report.baseline import against
from tasks.report.explanations import FIGURES
from tasks.report.facts import failures, loss_mark, setting_text, spec_of, why_missing
from tasks.report.first_screen import five_lines
from tasks.report.pictures import concept_plots, curve_plots, summary_plots
from tasks.report.rendering import Report
from tasks.report.scores import primary, score_rows
from tasks.review.comparisons import compare_starts
from tasks.review.sides import Side, run_side, spec_section
from tasks.scores.showing import BELOW_FLOOR_HINT, START_TITLES
from tasks.spec.experiment import ExperimentSpec, training_steps
from tasks.spec.settings import flat_keys
from tasks.store.files import public_name
from tasks.store.home import RunFolder
from tasks.store.records import RunRecord, load_record
from tasks.store.stage_table import recorded_stages


def run_report(run: RunFolder, baseline: Side | None = None) -> Report:
    """The report of a run from what lies in its folder.

    Args:
        baseline: a run to compare with.
    """
    record = load_record(run)
    side, spec = run_side(record, run), spec_of(record)
    points, gap = read_curve(run.pretraining / "curve.jsonl")
    others = {baseline.name: baseline.record} if baseline and baseline.record else {}
    pictures = summary_plots(record, points, others)
    curves = [] if record.kind == "evaluation" else curve_plots(record, spec, points, gap)
    concepts = concept_plots(run) if record.analysis else []
    missing = [name for name in recorded_stages(record.kind) if name not in record.stages]
    beside_random = compare_starts(side)
    facts = {
        "record": record,
        "spec": spec,
        "starts": START_TITLES,
        "lines": five_lines(record, side.trained or record, primary(record, beside_random)),
        "summary_plots": pictures[:1],
        "loss_mark": loss_mark(record),
        "failures": failures(record),
        "unreached": [] if record.status == "complete" else missing,
        "scores": score_rows(record.scores, beside_random),
        "unscored": _unscored(record),
        "why_unscored": why_missing(record, "scores" if "scores" in record.stages else "finetuning"),
        "baseline": against(side, baseline) if baseline else None,
        "curve_plots": curves,
        "concept_plots": concepts,
        "hint": BELOW_FLOOR_HINT,
        "explained": FIGURES,
        "settings": _settings(record, spec),
        "times": _times(record),
        "resumed_steps": _resumed_steps(record),
        "plans": _plans(record, spec, points) if spec else [],
        "why_missing": partial(why_missing, record),
        "public_name": public_name,
    }
    return Report(record.run_id, "run.md.j2", facts, [*pictures, *curves, *concepts])


def _unscored(record: RunRecord) -> list[str]:
    """The starts that the spec requests and that have no score at all."""
    requested, scored = spec_section(record, "evaluation"), {score.start for score in record.scores}
    names = {"random": "random_start", "zero_shot": "zero_shot"}
    return [START_TITLES[start] for start, key in names.items() if requested.get(key) and start not in scored]


def _settings(record: RunRecord, spec: ExperimentSpec | None) -> dict[str, str]:
    keys = spec.model_dump(mode="json", exclude_defaults=True) if spec else record.spec
    return {key: setting_text(value) for key, value in flat_keys(keys).items()}


def _times(record: RunRecord) -> list[list[str]]:
    """Of every stage: where it ran, seconds, what was forecast, their share, and the seconds of all its devices."""
    gpu_or_cpu = record.environment.gpus[0] if record.environment.gpus else "CPU"
    total = sum(stage.seconds for stage in record.stages.values())
    done = record.pretraining
    rows = []
    for name, stage in record.stages.items():
        if stage.status == "skipped":
            rows.append([name, *["--"] * 5])
            continue
        device = gpu_or_cpu if name in ("pretraining", "analysis", "finetuning") else "CPU"
        device_seconds = stage.seconds
        if name == "pretraining" and done:
            device, device_seconds = f"{done.device} x {done.processes}", stage.seconds * done.processes
        elif name == "finetuning":
            device_seconds = sum(cell.seconds for cell in record.cells)
        share = f"{stage.seconds / total:.1%}" if total else "--"
        foretold = record.foretold(name)
        expected = "--" if foretold is None else f"{foretold:,.1f}"
        rows.append([name, device, f"{stage.seconds:,.1f}", expected, share, f"{device_seconds:,.1f}"])
    return [*rows, ["sum", "", f"{total:,.1f}", "", "100.0%" if total else "--", ""]]


def _resumed_steps(record: RunRecord) -> int | None:
    """The steps of the last part of a resumed training, whose time alone is recorded; None where it ran in one go."""
    done = record.pretraining
    own = None
    if done and done.steps_per_second:
        own = round(done.steps_per_second * (done.timing.training if done.timing else done.seconds))
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
