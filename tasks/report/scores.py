"""The scores of a run in its report, and a run beside a baseline: like figures alone, and what else differs."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from models.family import VARIANTS
from tasks.checkpoints.publishing import flat_keys, public_name
from tasks.report.pages import Code, Part, Strong, Table, Text
from tasks.spec.experiment import ExperimentSpec
from tasks.store.records import RunRecord, Score

STARTS = {"checkpoint": "checkpoint", "random": "random start", "zero_shot": "zero-shot"}
RANKS = ("nuclear_rank_of_mean", "effective_rank_of_mean", "effective_rank_per_sample_mean")
AT_FLOOR = Strong("at floor")


def spec_of(record: RunRecord) -> ExperimentSpec | None:
    """What was asked; None where the record is of a version whose keys are not ours."""
    try:
        return ExperimentSpec.model_validate(record.spec)
    except ValidationError:
        return None


def evaluation_of(record: RunRecord) -> dict[str, Any]:
    section = record.spec.get("evaluation")
    return section if isinstance(section, dict) else {}


def why_missing(record: RunRecord, stage: str) -> str:
    """Why a stage left nothing."""
    went = record.stages.get(stage)
    if went is None:
        return f"{stage} was not reached"
    if went.status == "complete":
        return f"the record holds no result of it, though {stage} is complete"
    return f"{stage} {went.status}" + (f" ({first_line(went.message)})" if went.message.strip() else "")


def first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def at_floor(score: Score) -> bool:
    """Whether the interval's lower end is not above the best trivial answer."""
    return not (score.above_floor and score.interval is not None and score.interval[0] > score.floor)


def score_parts(record: RunRecord) -> list[Part]:
    """Every score of a run with all that is needed to judge it."""
    if not record.scores:
        reason = why_missing(record, "scores" if "scores" in record.stages else "finetuning")
        return [("Not measured: ", reason, ".")]
    header = (
        "task",
        "metric",
        "start",
        "value",
        "95 % interval",
        "floor",
        "mark",
        "per seed",
        "sd",
        "n",
        "word overlap",
    )
    first = {(score.task, score.metric): number for number, score in reversed(list(enumerate(record.scores)))}
    # A random start and the zero-shot answer stand right below the score that they put in proportion.
    order = list(STARTS)
    ordered = sorted(record.scores, key=lambda score: (first[score.task, score.metric], order.index(score.start)))
    parts: list[Part] = [
        "Fractions (correlations from -1 to 1), the mean over seeds. The interval is a bootstrap over the examples, "
        "the floor the best trivial answer of the split. A score is at floor where the lower end of its interval is "
        "not above it.",
        Table(header, [_score_cells(score) for score in ordered]),
    ]
    missing = [f"{name} ({why})" for name, why in _without_scores(record)]
    if missing:
        parts.append(("Not scored: ", "; ".join(missing), "."))
    return parts


def _without_scores(record: RunRecord) -> list[tuple[str, str]]:
    """Starts that were asked for and have no score at all."""
    asked = {"random": evaluation_of(record).get("random_start"), "zero_shot": evaluation_of(record).get("zero_shot")}
    scored = {score.start for score in record.scores}
    why = why_missing(record, "scores" if "scores" in record.stages else "finetuning")
    return [(STARTS[start], why) for start, wanted in asked.items() if wanted and start not in scored]


def _score_cells(score: Score) -> list[Text]:
    return [
        score.task,
        score.metric + (" (primary)" if score.primary else ""),
        _start(score),
        figure_text(score.value),
        interval_text(score),
        f"{score.floor:z.3f} ({score.floor_name})",
        _mark(score),
        _seeds(score),
        "--" if score.sd is None else f"{score.sd:.3f}",
        f"{score.n:,}",
        "--" if score.overlap_baseline is None else f"{score.overlap_baseline:z.3f}",
    ]


def _start(score: Score) -> str:
    return STARTS[score.start] if score.start_from is None else f"model fine-tuned on {score.start_from}"


def figure_text(value: float | None) -> str:
    """A score's value as a fraction, or what it is instead."""
    if value is None:
        return "failed"
    return "undefined" if math.isnan(value) else f"{value:z.3f}"


def interval_text(score: Score) -> str:
    return "--" if score.interval is None else "{:z.3f} to {:z.3f}".format(*score.interval)


def score_cell(score: Score | None, delta: float | None = None) -> Text:
    """A score in one cell: value, interval, distance to a baseline, and whether it is at floor."""
    if score is None:
        return "--"
    beside = [f"({interval_text(score)})"] if score.interval is not None else []
    beside += [f"{delta:+.3f}"] if delta is not None else []
    mark: Text = AT_FLOOR if score.value is not None and at_floor(score) else ""
    return (" ".join([figure_text(score.value), *beside]), " ", mark)


def _mark(score: Score) -> Text:
    marks: list[Text] = []
    if score.value is None:
        marks.append(Strong("no score"))
    elif at_floor(score):
        marks.append(AT_FLOOR)
    if score.unreliable:
        marks.append(Strong("interval unreliable: few examples"))
    return _joined(marks) if marks else "above floor"


def _joined(texts: Sequence[Text], separator: str = ", ") -> Text:
    return tuple(part for text in texts for part in (separator, text))[1:]


def _seeds(score: Score) -> Text:
    values: list[Text] = [f"{seed}: {figure_text(value)}" for seed, value in sorted(score.seed_values.items())]
    return _joined([*values, *(Strong(f"{seed}: failed") for seed in sorted(score.failed_seeds))])


# A run beside a baseline


@dataclass(frozen=True)
class Pair:
    """A score beside the same score of a baseline; `unlike` says why they cannot be compared."""

    score: Score
    other: Score | None
    unlike: str

    @property
    def delta(self) -> float | None:
        if self.other is None or self.unlike or self.score.value is None or self.other.value is None:
            return None
        return self.score.value - self.other.value


def pair_scores(record: RunRecord, baseline: RunRecord) -> list[Pair]:
    """Every score of a run beside the baseline's of the same task, split, metric and start, where they are alike."""
    others = {(score.task, score.metric, score.start): score for score in baseline.scores}
    pairs = []
    for score in record.scores:
        other = others.get((score.task, score.metric, score.start))
        pairs.append(Pair(score, other, _unlike(score, other, record, baseline)))
    return pairs


def _unlike(score: Score, other: Score | None, record: RunRecord, baseline: RunRecord) -> str:
    if other is None:
        return "the baseline has no such score"
    if score.n != other.n:
        return f"{score.n:,} examples here, {other.n:,} there"
    here, there = (evaluation_of(one).get("data", "hub") for one in (record, baseline))
    if here != there:
        return f"data {here} here, {there} there"
    # Of the same answers every trivial one scores the same.
    if not math.isclose(score.floor, other.floor, abs_tol=1e-9):
        return f"other examples: their floor is {score.floor:.4f} here, {other.floor:.4f} there"
    return ""


def against_parts(record: RunRecord, baseline: RunRecord) -> list[Part]:
    """A run beside a baseline."""
    name = Code(baseline.run_id)
    parts: list[Part] = [
        (
            "This run beside ",
            name,
            f" ({baseline.kind}, {baseline.status}). Only like figures are compared: the same ",
            "task, split, metric, start and examples. The intervals are each run's own; that they overlap does not ",
            "show that the runs are equal.",
        )
    ]
    pairs = pair_scores(record, baseline)
    rows: list[list[Text]] = []
    for pair in pairs:
        if pair.other is None or pair.unlike:
            continue
        delta = "--" if pair.delta is None else f"{pair.delta:+.3f}"
        seeds = f"{len(pair.score.seed_values)} and {len(pair.other.seed_values)}"
        starts = " and ".join(dict.fromkeys([_start(pair.score), _start(pair.other)]))
        both = score_cell(pair.score), score_cell(pair.other)
        rows.append([pair.score.task, pair.score.metric, starts, *both, delta, seeds])
    if rows:
        parts.append(Table(("task", "metric", "start", "this run", "baseline", "delta", "seeds"), rows))
    else:
        parts.append("No score of the two runs can be compared.")
    refused = [pair for pair in pairs if pair.unlike]
    if refused:
        parts.append("Not compared:")
        cells = [[pair.score.task, pair.score.metric, _start(pair.score), pair.unlike] for pair in refused]
        parts.append(Table(("task", "metric", "start", "why"), cells))
    mine = {(score.task, score.metric, score.start) for score in record.scores}
    alone = [score for score in baseline.scores if (score.task, score.metric, score.start) not in mine]
    if alone:
        names = ", ".join(f"{score.task} {score.metric} ({_start(score)})" for score in alone)
        parts.append(f"Only the baseline has: {names}.")
    parts.append("Losses and ranks, where they are of the same text:")
    parts += _like_figures(record, baseline)
    differing = differences(record, baseline)
    if differing:
        parts += [
            "What else differs, and may be the reason for a delta:",
            Table(("what", "this run", "baseline"), [[key, here, there] for key, here, there in differing]),
        ]
    else:
        parts.append("Nothing else that the records hold differs.")
    return parts


def _like_figures(record: RunRecord, baseline: RunRecord) -> list[Part]:
    if not (record.corpus and baseline.corpus and record.corpus.corpus_id == baseline.corpus.corpus_id):
        return ["Not compared: the two runs did not read the same corpus."]
    rows: list[list[Text]] = []
    notes: list[Part] = []

    def compare(name: str, here: float, there: float) -> None:
        rows.append([name, f"{here:.4f}", f"{there:.4f}", f"{here - there:+.4f}"])

    done, other = record.pretraining, baseline.pretraining
    if done and other and _asked_labels(record) == _asked_labels(baseline):
        compare("held-out loss (nats per labelled token)", done.eval_loss, other.eval_loss)
    elif done and other:
        notes.append("Held-out loss: not compared: the objectives ask for other tokens.")
    mine, theirs = record.analysis, baseline.analysis
    if mine and theirs and (mine.num_concepts, mine.samples) == (theirs.num_concepts, theirs.samples):
        for name in RANKS:
            if name in mine.figures and name in theirs.figures:
                compare(name.replace("_", " "), mine.figures[name], theirs.figures[name])
    elif mine and theirs:
        notes.append(
            f"Ranks: not compared: {mine.num_concepts} concepts over {mine.samples} samples here, "
            f"{theirs.num_concepts} over {theirs.samples} there."
        )
    if rows:
        return [Table(("figure", "this run", "baseline", "delta"), rows), *notes]
    return notes or ["Not compared: one of the two has neither a loss nor ranks."]


def _asked_labels(record: RunRecord) -> Any:
    """What decides which held-out tokens a loss is taken over."""
    spec = spec_of(record)
    if spec is None:
        return object()  # not known, so equal to nothing
    training_only = {"concept_losses", "loss_weighting", "label_smoothing"}
    return (
        VARIANTS[spec.model.variant].objective,
        spec.t_min,
        spec.training.max_eval_blocks,
        spec.objective.model_dump(exclude={*training_only, "t_min"}),
    )


def differences(record: RunRecord, baseline: RunRecord) -> list[tuple[str, str, str]]:
    """What the records of two runs say differently, but for names, times and results."""
    here, there = _facts(record), _facts(baseline)
    return [
        (key, here.get(key, "--"), there.get(key, "--"))
        for key in dict.fromkeys([*here, *there])
        if here.get(key) != there.get(key)
    ]


def _facts(record: RunRecord) -> dict[str, str]:
    spec, environment = spec_of(record), record.environment
    keys = flat_keys(spec.model_dump(mode="json", include=set(record.spec)) if spec else record.spec)
    facts = {key: _plain(value) for key, value in keys.items() if key != "name" and value != {}}
    facts |= {"kind of run": record.kind, "head": record.head}
    if record.corpus:
        facts |= {"corpus": record.corpus.corpus_id, "tokenizer": public_name(record.corpus.tokenizer_name)}
    if record.pretraining:
        done = record.pretraining
        facts |= {"trained on": f"{done.device} x {done.processes}, {done.precision}"}
    dirty = " with changes" if environment.git_dirty else ""
    facts |= {
        "machine": environment.machine,
        "platform": environment.platform,
        "Python": environment.python,
        "GPUs": ", ".join(environment.gpus) or "none",
        "git commit": f"{environment.git_commit or '--'}{dirty}",
    }
    return facts | environment.versions


def _plain(value: Any) -> str:
    return public_name(value) if isinstance(value, str) else json.dumps(value)
