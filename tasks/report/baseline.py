"""A run beside a baseline in its report: only like figures are compared, and what else differs is stated."""

import math
from dataclasses import dataclass
from typing import Any

from models.family import VARIANTS
from tasks.checkpoints.publishing import flat_keys, public_name
from tasks.report.facts import RANKS, evaluation_of, setting_text, spec_of
from tasks.scores.showing import show
from tasks.store.records import RunRecord, Score


@dataclass(frozen=True)
class Pair:
    """A score beside the same score of a baseline; `unlike` says why they cannot be compared."""

    score: Score
    other: Score | None
    unlike: str

    @property
    def starts(self) -> str:
        """The start of both scores; both starts where they differ in the task whose model they began with."""
        return " and ".join(dict.fromkeys(show(score).start for score in (self.score, self.other) if score))

    @property
    def delta(self) -> float | None:
        """What this run scores above the baseline."""
        if self.other is None or self.unlike or self.score.value is None or self.other.value is None:
            return None
        return self.score.value - self.other.value


@dataclass(frozen=True)
class Baseline:
    """A run to compare with.

    Attributes:
        compared, refused: the scores that can and that cannot be compared.
        alone: scores that only the baseline has.
        figures: losses and ranks: name, here, there, delta.
        notes: why a loss or a rank is not among them.
        differences: setting, here, there.
    """

    run: RunRecord
    compared: list[Pair]
    refused: list[Pair]
    alone: list[Score]
    figures: list[list[str]]
    notes: list[str]
    differences: list[tuple[str, str, str]]


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


def against(record: RunRecord, baseline: RunRecord) -> Baseline:
    """What of a run can be compared with a baseline, and what else differs."""
    pairs = pair_scores(record, baseline)
    mine = {(score.task, score.metric, score.start) for score in record.scores}
    figures, notes = _like_figures(record, baseline)
    return Baseline(
        run=baseline,
        compared=[pair for pair in pairs if not pair.unlike],
        refused=[pair for pair in pairs if pair.unlike],
        alone=[score for score in baseline.scores if (score.task, score.metric, score.start) not in mine],
        figures=figures,
        notes=notes,
        differences=differences(record, baseline),
    )


def _like_figures(record: RunRecord, baseline: RunRecord) -> tuple[list[list[str]], list[str]]:
    """Losses and ranks side by side, and why some of them are not."""
    if not (record.corpus and baseline.corpus and record.corpus.corpus_id == baseline.corpus.corpus_id):
        return [], ["Not compared: the two runs did not read the same corpus."]
    figures: dict[str, tuple[float, float]] = {}
    notes = []
    done, other = record.pretraining, baseline.pretraining
    if done and other and _loss_labels(record) == _loss_labels(baseline):
        figures["held-out loss (nats per labelled token)"] = done.eval_loss, other.eval_loss
    elif done and other:
        notes.append("Held-out loss: not compared: the objectives label other tokens.")
    mine, theirs = record.analysis, baseline.analysis
    if mine and theirs and (mine.num_concepts, mine.samples) == (theirs.num_concepts, theirs.samples):
        for name in RANKS:
            if name in mine.figures and name in theirs.figures:
                figures[name.replace("_", " ")] = mine.figures[name], theirs.figures[name]
    elif mine and theirs:
        notes.append(
            f"Ranks: not compared: {mine.num_concepts} concepts over {mine.samples} samples here, "
            f"{theirs.num_concepts} over {theirs.samples} there."
        )
    if not figures and not notes:
        notes = ["Not compared: one of the two has neither a loss nor ranks."]
    return [[name, f"{a:.4f}", f"{b:.4f}", f"{a - b:+.4f}"] for name, (a, b) in figures.items()], notes


def _loss_labels(record: RunRecord) -> Any:
    """What decides which held-out tokens a loss is taken over."""
    spec = spec_of(record)
    if spec is None:
        return object()  # unknown, so equal to nothing
    training_only = {"concept_losses", "loss_weighting", "label_smoothing"}
    return (
        VARIANTS[spec.model.variant].objective,
        spec.t_min,
        spec.training.max_eval_blocks,
        spec.objective.model_dump(exclude={*training_only, "t_min"}),
    )


def differences(record: RunRecord, baseline: RunRecord) -> list[tuple[str, str, str]]:
    """The settings and surroundings in which two runs differ, apart from names, times and results."""
    here, there = _facts(record), _facts(baseline)
    return [
        (key, here.get(key, "--"), there.get(key, "--"))
        for key in dict.fromkeys([*here, *there])
        if here.get(key) != there.get(key)
    ]


def _facts(record: RunRecord) -> dict[str, str]:
    spec, environment = spec_of(record), record.environment
    keys = flat_keys(spec.model_dump(mode="json", include=set(record.spec)) if spec else record.spec)
    facts = {key: setting_text(value) for key, value in keys.items() if key != "name" and value != {}}
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
