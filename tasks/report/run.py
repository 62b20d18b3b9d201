"""What the report of one run says, section by section."""

import json
import math
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks.checkpoints.publishing import flat_keys, public_name
from tasks.log.rows import UNIGRAM_MARGIN_NATS
from tasks.plots import plot_curve, plot_live_geometry, plot_over_steps, plot_similarity, plot_singular_values
from tasks.report.pages import Code, Link, Part, Picture, Quote, Report, Section, Strong, Table, Text
from tasks.report.scores import (
    RANKS,
    STARTS,
    against_parts,
    at_floor,
    evaluation_of,
    first_line,
    score_parts,
    spec_of,
    why_missing,
)
from tasks.spec.experiment import ExperimentSpec, training_steps
from tasks.store.home import RunFolder
from tasks.store.records import RunRecord, load_record
from tasks.store.stage_table import recorded_stages

Points = list[dict[str, Any]]


def run_report(run: RunFolder, baseline: RunRecord | None = None) -> Report:
    """The report of a run from what lies in its folder.

    Args:
        baseline: the record of a run to compare with.
    """
    record = load_record(run)
    spec = spec_of(record)
    points, gap = read_curve(run)
    sections = [
        Section("Summary", _summary(record)),
        Section("Skipped and failed", _failures(record)),
        Section("Scores", score_parts(record)),
        *([Section(f"Against {baseline.run_id}", against_parts(record, baseline))] if baseline else []),
        Section("Pretraining", _pretraining(record, spec, points, gap)),
        Section("Concepts", _concepts(record, run)),
        Section("What was run", _what_was_run(record, spec)),
        Section("Time and cost", _time(record)),
        Section("Planned and done", _planned(record, spec, points)),
    ]
    return Report(record.run_id, sections)


def read_curve(run: RunFolder) -> tuple[Points, str]:
    """The training curve, and why there is none."""
    try:
        # A kill may leave half a line at the end.
        lines = (run.pretraining / "curve.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        points = [json.loads(line) for line in lines]
    except OSError:
        return [], "there is no pretraining/curve.jsonl"
    except ValueError as error:
        return [], f"pretraining/curve.jsonl cannot be read: {error}"
    points = [point for point in points if isinstance(point, dict) and is_number(point.get("step"))]
    return points, "" if points else "pretraining/curve.jsonl has no step"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _summary(record: RunRecord) -> list[Part]:
    status: Text = record.status if record.status == "complete" else Strong(record.status)
    parts: list[Part] = [
        (
            f"{record.kind.capitalize()} run ",
            Code(record.run_id),
            " of experiment ",
            Code(record.name),
            ": ",
            status,
            f". Started {_time_of_day(record.created)}, "
            + (f"finished {_time_of_day(record.finished)}." if record.finished else "end not recorded."),
        )
    ]
    if record.made_data:
        parts.append(Strong("Corpus or tasks are made stand-ins: nothing here speaks of the real tasks."))
    if _at_unigram(record):
        least = f"{UNIGRAM_MARGIN_NATS:g} nats below the unigram entropy"
        parts.append(Strong(f"The held-out loss is not {least}: nothing contextual was learned."))
    primary = record.primary_scores()
    if primary:
        above = sum(not at_floor(score) for score in primary)
        parts.append(f"{above} of {len(primary)} primary scores lie above their floor.")
    if evaluation_of(record).get("select_on") == "dev":
        parts.append(Strong("The epoch was chosen on the scored split: the scores are optimistic."))
    return parts


def _time_of_day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _what_was_run(record: RunRecord, spec: ExperimentSpec | None) -> list[Part]:
    if spec is not None:
        keys = flat_keys(spec.model_dump(mode="json", exclude_defaults=True))
        note = "The keys of the spec that differ from their defaults."
    else:
        keys = flat_keys(record.spec)
        note = "All keys of the spec; it was written by another version, so that its defaults are not known."
    environment, checkpoint, corpus = record.environment, record.checkpoint, record.corpus
    dirty = {True: ", with uncommitted changes", False: "", None: ", state of the working tree unknown"}
    published = record.publishing
    return [
        note,
        _table(("key", "value"), {key: _value(value) for key, value in keys.items()}),
        "Identities: what has the same identity is the same content.",
        _table(
            ("of", "identity"),
            {
                "pretraining" if record.kind == "training" else "evaluation run": Code(record.pretraining_identity),
                "what is asked of the checkpoint": Code(record.evaluation_identity),
                "head": Code(record.head) if record.head else None,
                "checkpoint": _checkpoint(record),
                "weights (SHA-256)": Code(checkpoint.weights_sha256) if checkpoint else None,
                "corpus": (Code(corpus.corpus_id), " from ", Code(public_name(corpus.dataset))) if corpus else None,
                "source of the text": Code(corpus.source_fingerprint) if corpus else None,
                "published": (
                    published.store,
                    ": ",
                    Code(public_name(published.location)),
                    *((" at ", Code(published.revision)) if published.revision else ()),
                )
                if published
                else None,
            },
        ),
        "Environment",
        _table(
            ("what", "which"),
            {
                "machine": environment.machine,
                "platform": environment.platform,
                "Python": environment.python,
                "GPUs": ", ".join(environment.gpus) or "none",
                "git commit": (Code(environment.git_commit), dirty[environment.git_dirty])
                if environment.git_commit
                else "not recorded",
                "git tag": environment.git_tag,
                **environment.versions,
            },
        ),
    ]


def _checkpoint(record: RunRecord) -> Text | None:
    checkpoint = record.checkpoint
    if checkpoint is None:
        return None
    revision = f"@{checkpoint.revision}" if checkpoint.revision else ""
    return (Code(public_name(checkpoint.name) + revision), f" ({checkpoint.origin}, {checkpoint.variant})")


def _table(header: tuple[str, str], rows: dict[str, Text | None]) -> Table:
    return Table(header, [(key, value) for key, value in rows.items() if value not in (None, "")])


def _value(value: Any) -> Text:
    """A value of a spec, folders cut to their last name."""
    if isinstance(value, list):
        return ", ".join(public_name(str(one)) for one in value)
    return Code(public_name(value) if isinstance(value, str) else json.dumps(value))


def _pretraining(record: RunRecord, spec: ExperimentSpec | None, points: Points, gap: str) -> list[Part]:
    if record.kind == "evaluation":
        trained = record.checkpoint.run_id if record.checkpoint else None
        seen: Text = (" Its curves stand in the report of ", Code(trained), ".") if trained else ""
        return [("Not measured: this run evaluates a finished checkpoint and trains none.", seen)]
    done, corpus = record.pretraining, record.corpus
    parts: list[Part] = []
    if done is None:
        parts.append(("Loss, speed and size: not measured: ", why_missing(record, "pretraining"), "."))
    else:
        parts.append(
            _table(
                ("figure", "value"),
                {
                    "held-out loss (nats per labelled token)": (f"{done.eval_loss:.4f}", beside_unigram(record)),
                    "training loss": f"{done.train_loss:.4f}",
                    "unigram entropy of the held-out text": f"{corpus.unigram_entropy_nats:.4f}" if corpus else None,
                    "steps, epochs": f"{done.steps:,}, {done.epochs:.4g}",
                    "parameters": f"{done.parameters:,}",
                    "speed": f"{done.steps_per_second:.3g} steps/s, {done.tokens_per_second:,.0f} tokens/s",
                    "ran on": f"{done.device} x {done.processes}, {done.precision}",
                    "weights taken in a warm start": f"{done.loaded_weights}, {len(done.new_weights)} new"
                    if done.loaded_weights
                    else None,
                    "W&B": Link("curves", done.wandb_url) if done.wandb_url else None,
                },
            )
        )
    if corpus is None:
        parts.append(("Unigram entropy: not measured: ", why_missing(record, "data"), "."))
    entropy = corpus.unigram_entropy_nats if corpus else None
    concepts = spec.model.num_concepts if spec else record.analysis.num_concepts if record.analysis else None
    clipped = spec.training.max_grad_norm if spec else None

    def picture(name: str, title: str, needs: tuple[str, ...], draw: Callable[[Points, Path], None]) -> None:
        seen = [point for point in points if all(is_number(point.get(key)) for key in needs)]
        if seen:
            parts.append(Picture(name, title, partial(draw, seen)))
        else:
            reason = gap or f"no step of the curve has {', '.join(key.replace('_', ' ') for key in needs)}"
            parts.append(f"{title}: not measured: {reason}.")

    picture("loss", "Loss over steps", ("task_loss",), lambda seen, path: plot_curve(seen, entropy, path))
    for name, title, limit in (
        ("learning_rate", "Learning rate over steps", None),
        ("gradient_norm", "Gradient norm over steps", clipped),
    ):
        picture(name, title, (name,), partial(plot_over_steps, name=name, title=title, limit=limit))
    if concepts is None:
        parts.append("Concept ranks over steps: not measured: the number of concepts is not known.")
    else:
        picture("ranks", "Concept ranks over steps", RANKS, lambda seen, path: plot_live_geometry(seen, concepts, path))
    return parts


def beside_unigram(record: RunRecord) -> Text:
    """The mark of a held-out loss that is no better than what a model without context reaches."""
    if record.pretraining and not math.isfinite(record.pretraining.eval_loss):
        return (" ", Strong("not finite"))
    return (" ", Strong("at unigram floor")) if _at_unigram(record) else ""


def _at_unigram(record: RunRecord) -> bool:
    done, corpus = record.pretraining, record.corpus
    if done is None or corpus is None or not math.isfinite(done.eval_loss):
        return False
    return done.eval_loss >= corpus.unigram_entropy_nats - UNIGRAM_MARGIN_NATS


def _concepts(record: RunRecord, run: RunFolder) -> list[Part]:
    analysis = record.analysis
    if analysis is None:
        return [("Not measured: ", why_missing(record, "analysis"), ".")]
    arrays, gap = _geometry(run)
    parts: list[Part] = [f"{analysis.num_concepts} concepts over {analysis.samples:,} blocks of held-out text."]
    drawings: list[tuple[str, str, str, int, Callable[[np.ndarray, Path], None]]] = [
        ("singular_values", "Singular values of the mean concept matrix", "singular_values", 1, plot_singular_values),
        ("similarity", "Mean cosine between concepts", "mean_similarity", 2, plot_similarity),
    ]
    for name, title, key, dimensions, draw in drawings:
        values = arrays.get(key)
        if values is None:
            parts.append(f"{title}: not measured: {gap or f'analysis/geometry.npz has no {key}'}.")
        elif values.ndim != dimensions or not values.size or not np.isfinite(values).all() or not values.flat[0] > 0:
            parts.append(f"{title}: not measured: its values are not finite or all 0.")
        else:
            parts.append(Picture(name, title, partial(draw, values)))
    figures: dict[str, Text | None] = {
        name.replace("_", " "): f"{value:.5g}" for name, value in analysis.figures.items()
    }
    return [*parts, _table(("figure", "value"), figures)]


def _geometry(run: RunFolder) -> tuple[dict[str, np.ndarray], str]:
    try:
        with np.load(run.analysis / "geometry.npz", allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name], dtype=np.float64) for name in arrays.files}, ""
    except FileNotFoundError:
        return {}, "there is no analysis/geometry.npz"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return {}, f"analysis/geometry.npz cannot be read: {error}"


def _time(record: RunRecord) -> list[Part]:
    if not record.stages:
        return ["Not measured: no stage has ended."]
    device = record.environment.gpus[0] if record.environment.gpus else "CPU"
    total = sum(stage.seconds for stage in record.stages.values())
    done = record.pretraining
    rows: list[list[Text]] = []
    for name, stage in record.stages.items():
        where, device_seconds = "CPU", stage.seconds
        if name == "pretraining" and done:
            where, device_seconds = f"{done.device} x {done.processes}", stage.seconds * done.processes
        elif name in ("pretraining", "analysis"):
            where = device
        elif name == "finetuning":
            where, device_seconds = device, sum(cell.seconds for cell in record.cells)
        if stage.status == "skipped":
            rows.append([name, "--", "--", "--", "--"])
            continue
        share = f"{stage.seconds / total:.1%}" if total else "--"
        rows.append([name, where, f"{stage.seconds:,.1f}", share, f"{device_seconds:,.1f}"])
    rows.append(["sum", "", f"{total:,.1f}", "100.0%" if total else "--", ""])
    parts: list[Part] = [
        "Seconds of each stage; the analysis runs beside the fine-tuning, whose device seconds are those of all its "
        "jobs.",
        Table(("stage", "device", "seconds", "share", "device seconds"), rows),
    ]
    if done and done.steps_per_second:
        own = round(done.steps_per_second * done.seconds)
        if own < done.steps:
            parts.append(
                f"The training was resumed: its seconds are those of its last {own:,} of {done.steps:,} steps."
            )
    if record.cells:
        cells = [
            [
                cell.task,
                str(cell.seed),
                STARTS[cell.start],
                cell.status,
                f"{cell.seconds:,.1f}",
                f"{cell.train_examples:,}",
                "--" if cell.best_epoch is None else f"{cell.best_epoch:g}",
            ]
            for cell in record.cells
        ]
        header = ("task", "seed", "start", "status", "seconds", "training examples", "chosen epoch")
        parts += ["The jobs of the fine-tuning:", Table(header, cells)]
    return parts


def _planned(record: RunRecord, spec: ExperimentSpec | None, points: Points) -> list[Part]:
    if spec is None:
        return ["Not measured: the spec was written by another version."]
    rows: list[list[Text]] = []

    def add(name: str, planned: float, done: float) -> None:
        rows.append([name, f"{planned:,}", f"{done:,}" if done >= planned else (f"{done:,} ", Strong("short"))])

    if record.kind == "training" and record.corpus:
        blocks, training = record.corpus.train_blocks, spec.training
        steps = training_steps(spec, blocks)
        done = record.pretraining.steps if record.pretraining else points[-1]["step"] if points else 0
        per_epoch = training.global_batch_size / blocks
        add("training steps", steps, done)
        add("epochs", round(steps * per_epoch, 4), round(done * per_epoch, 4))
        evaluations = steps // training.eval_every_steps + (steps % training.eval_every_steps > 0)
        add("evaluations on held-out text", evaluations, sum("eval_loss" in point for point in points))
    protocols = {name: spec.evaluation.for_task(name) for name in spec.evaluation.tasks}
    cells = sum(len(protocol.seeds) for protocol in protocols.values()) * (1 + spec.evaluation.random_start)
    cells += len(spec.evaluation.zero_shot_tasks) if spec.evaluation.zero_shot else 0
    add("fine-tuning jobs", cells, sum(cell.status == "complete" for cell in record.cells))
    if record.corpus:
        planned = min(spec.analysis.max_samples, record.corpus.held_out_blocks)
        add("blocks analysed", planned, record.analysis.samples if record.analysis else 0)
    return ["Planned by the spec and the corpus.", Table(("figure", "planned", "done"), rows)]


def _failures(record: RunRecord) -> list[Part]:
    parts: list[Part] = []
    for name, stage in record.stages.items():
        if stage.status != "complete":
            parts.append((Strong(f"{name} {stage.status}"), ": ", first_line(stage.message) or "no reason recorded"))
            if len(stage.message.strip().splitlines()) > 1:
                parts.append(Quote(stage.message))
    for cell in record.cells:
        if cell.status == "failed":
            title = f"fine-tuning of {cell.task}, seed {cell.seed}, {STARTS[cell.start]} failed"
            parts.append((Strong(title), ": ", first_line(cell.error or "") or "no reason recorded"))
            if len((cell.error or "").strip().splitlines()) > 1:
                parts.append(Quote(cell.error or ""))
    missing = [name for name in recorded_stages(record.kind) if name not in record.stages]
    if missing and record.status != "complete":
        title = "Not reached so far" if record.status in ("running", "paused") else "Never reached"
        parts.append((Strong(title), ": ", ", ".join(missing), "."))
    return parts or ["Nothing was skipped and nothing failed."]
