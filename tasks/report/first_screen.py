"""The first screen of a report: what came out of a run in five lines, beside its summary picture."""

import math
from dataclasses import dataclass

from tasks.report.facts import failures, loss_mark, why_missing
from tasks.report.rendering import first_line
from tasks.review.comparisons import Figure
from tasks.review.sides import spec_section
from tasks.scores.metrics import UNIGRAM_MARGIN_NATS
from tasks.scores.showing import BELOW_FLOOR_HINT, floor_mark
from tasks.spec.benchmarks import score_names
from tasks.store.files import public_name
from tasks.store.records import RunRecord, Score

# Found again by chance, the number of hits among n texts is Poisson with mean 1: more than three are rare (2 %).
CHANCE_HITS = 3
SHOWN_FAILURES = 3


@dataclass(frozen=True)
class Line:
    """A line of the first screen.

    Attributes:
        about: what it is about, in a word or two.
        alarm: what must not be overlooked; stands first.
    """

    about: str
    text: str
    alarm: str = ""


def five_lines(record: RunRecord, trained: RunRecord, beside_random: list[Figure]) -> list[Line]:
    """What was run, whether it learned from context, its tasks, its concepts, what went wrong and the time.

    Args:
        trained: the record of the pretraining behind an evaluation, else the run's own.
        beside_random: every primary score beside that of a random start.
    """
    return [
        Line("Run", _what(record)),
        _loss(record, trained),
        _tasks(record, beside_random),
        _concepts(record),
        _problems(record),
    ]


def _what(record: RunRecord) -> str:
    made = "; text or tasks are made data" if record.made_data else ""
    if record.kind == "evaluation":
        checkpoint = record.checkpoint
        if checkpoint is None:
            return f"a checkpoint that is not recorded was evaluated{made}."
        kind = f"plain encoder ({checkpoint.variant})" if checkpoint.family == "plain" else checkpoint.variant
        is_analysis = not record.scores and not record.cells and record.analysis is not None
        head = f" with head {record.head}" if record.head else ""
        verb = "analysed" if is_analysis else f"evaluated{head}"
        return f"{kind} {public_name(checkpoint.name)} was {verb}; nothing was pretrained{made}."
    model, done = spec_section(record, "model"), record.pretraining
    sizes = (("H", "hidden_size"), ("L", "num_layers"), ("C", "num_concepts"))
    name = " ".join([str(model.get("variant", "a model")), *(f"{a}{model[key]}" for a, key in sizes if key in model)])
    text = f"{name}, {done.parameters:,} parameters, {done.steps:,} steps ({done.epochs:.3g} epochs)" if done else name
    source = record.corpus.dataset if record.corpus else spec_section(record, "data").get("dataset")
    return text + (f" on {public_name(str(source))}" if source else "") + f"{made}."


def _loss(record: RunRecord, trained: RunRecord) -> Line:
    about, done, corpus = "Loss", trained.pretraining, trained.corpus
    if done is None:
        text = "no pretraining to judge." if record.kind == "evaluation" else f"not measured: {_why(record)}."
        return Line(about, text)
    if not math.isfinite(done.eval_loss):
        return Line(about, "so nothing was learned that could be used.", f"The held-out loss is {done.eval_loss}")
    if corpus is None:
        return Line(about, f"held-out loss {done.eval_loss:.3f} nats; the unigram entropy is not recorded.")
    below = corpus.unigram_entropy_nats - done.eval_loss
    place = f"held-out loss {done.eval_loss:.3f}, {abs(below):.2f} nats {'below' if below >= 0 else 'above'} the "
    place += f"unigram entropy {corpus.unigram_entropy_nats:.3f}"
    if loss_mark(trained):
        need = f"less than {UNIGRAM_MARGIN_NATS:g} below: nothing contextual was learned."
        return Line(about, f"{place}; {need}", "Still on the unigram plateau")
    return Line(about, f"left the unigram plateau: {place}.")


def _why(record: RunRecord) -> str:
    return why_missing(record, "pretraining")


def _tasks(record: RunRecord, beside_random: list[Figure]) -> Line:
    scores = record.primary_scores()
    if not scores:
        stage = "scores" if "scores" in record.stages else "finetuning"
        no_tasks = spec_section(record, "evaluation").get("tasks") == []
        return Line("Tasks", "none were asked for." if no_tasks else f"none scored: {why_missing(record, stage)}.")
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault("failed" if score.value is None else floor_mark(score), []).append(score)
    names = {
        mark: ", ".join(score_names().get(score.task, score.task) for score in group) for mark, group in groups.items()
    }
    parts = [f"above floor: {names.get('above floor', 'none')}"]
    parts += [f"at floor (not decided): {names['at floor']}"] if "at floor" in names else []
    parts += [f"failed: {names['failed']}"] if "failed" in names else []
    versus = [
        f"{verdict} on {_named(labels)}"
        for verdict in ("better", "within noise", "worse")
        if (labels := [str(one.task) for one in beside_random if one.verdict == verdict])
    ]
    text = "; ".join(parts) + "." + (f" Beside a random start: {'; '.join(versus)}." if versus else "")
    if spec_section(record, "evaluation").get("select_on") == "dev":
        text += " The epoch was chosen on the scored split, so the scores are optimistic."
    below = f"Below floor: {names['below floor']} ({BELOW_FLOOR_HINT})" if "below floor" in names else ""
    return Line("Tasks", text, below)


def _named(labels: list[str]) -> str:
    return ", ".join(score_names().get(label, label) for label in labels)


def _concepts(record: RunRecord) -> Line:
    about, done = "Concepts", record.analysis
    if record.checkpoint is not None and record.checkpoint.family == "plain":
        return Line(about, "none: a plain encoder has no concepts.")
    if done is None:
        return Line(about, f"not measured: {why_missing(record, 'analysis')}.")
    figures = done.figures
    rank = figures.get("effective_rank_per_sample_mean", figures.get("nuclear_rank_of_mean"))
    ranked = "no rank is recorded" if rank is None else f"{rank:.1f} of {done.num_concepts} directions in use"
    if "retrieval_top_1" not in figures or "input_variance_share" not in figures:
        return Line(about, f"{ranked}; a rank alone cannot tell collapse, and this record has no figure that can.")
    found, chance = figures["retrieval_top_1"], figures.get("retrieval_chance", 1 / max(done.samples, 1))
    means = (
        f"{ranked}; the text decides {figures['input_variance_share']:.1%} of their variance; {found:.1%} of texts "
        f"with tokens left out are found again (chance {chance:.1%})"
    )
    if found <= CHANCE_HITS * chance:
        return Line(about, f"{means}.", "Collapsed: the concepts do not tell texts apart")
    return Line(about, f"not collapsed: {means}.")


def _problems(record: RunRecord) -> Line:
    """What went wrong, and the time."""
    done = record.pretraining if record.kind == "training" else None
    wrong = []
    if done and done.diverged:
        wrong.append(f"diverged at step {done.diverged.step:,}: {done.diverged.reason}")
    told = [title + (f" ({first_line(text)[:120]})" if text else "") for title, text in failures(record)]
    wrong += told[:SHOWN_FAILURES] + ([f"{len(told) - SHOWN_FAILURES} more"] if len(told) > SHOWN_FAILURES else [])
    wrong += record.warnings
    seconds = sum(stage.seconds for stage in record.stages.values())
    time = f"{duration(seconds)} of work" + _beside_forecast(record) if record.stages else "no stage has ended"
    state = {"running": "still running", "paused": "paused"}.get(record.status, "")
    calm = f"{state}; " if state else "" if wrong else "none; "
    return Line("Problems", f"{calm}{time}.", "; ".join(wrong))


def _beside_forecast(record: RunRecord) -> str:
    """What the stages took of which something was foretold, beside that; empty without any."""
    foretold = {name: record.foretold(name) for name, stage in record.stages.items() if stage.status == "complete"}
    known = {name: seconds for name, seconds in foretold.items() if seconds is not None}
    took = sum(record.stages[name].seconds for name in known)
    return f"; {' and '.join(known)} took {duration(took)}, {duration(sum(known.values()))} forecast" if known else ""


def duration(seconds: float) -> str:
    """A time in its two largest units: `1 h 3 min`, `45 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
