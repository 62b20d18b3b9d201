"""Two runs side by side: what differs between them, and which differences of their figures are more than noise.

A delta is given between like figures only and always stands beside what else differs. Of two runs with stored
predictions it carries a paired interval; a row of a Markdown log can be a side too, then only what it states is known.
Example: `cogito compare master_experiment_log.md#perceiver_mlm_H512L6C128_20260208_211633 RUN_ID`
"""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import computed_field

from models.family import OBJECTIVES, VARIANTS
from tasks.errors import UserError
from tasks.finetuning.scoring import read_predictions
from tasks.log.check.document import Place, scores_in
from tasks.log.experiment_log import find_row, machine_name
from tasks.log.rows import SCORE_NAMES, escape_cell, render_row
from tasks.scores.intervals import interval_from_value, paired_difference_interval, unpaired_difference_interval
from tasks.scores.metrics import METRICS
from tasks.spec.benchmarks import TASKS
from tasks.store.files import is_safe_name
from tasks.store.home import Home, RunFolder, user_path
from tasks.store.records import Result, RunRecord, Score, Start, find_run, load_record, read_record

# Sections of a spec that change nothing of what is computed.
WITHOUT_EFFECT = ("name", "tracking", "publish")
# What a task may set for itself.
PER_TASK = ("epochs", "seeds", "learning_rate", "max_train_examples", "start_from")
HELD_OUT_LOSS = "held-out loss"
RANKS = ("nuclear_rank_of_mean", "effective_rank_of_mean", "effective_rank_per_sample_mean")
# The columns of a log that say how a run was made, and those that an evaluation takes from its checkpoint's row.
ROW_COLUMNS = {
    "architecture": "architecture",
    "pretraining_data": "pretraining data",
    "epochs": "pretraining epochs",
    "concept_losses": "concept losses",
    "machine": "machine",
    "git_tag": "git tag",
}
OF_THE_CHECKPOINT = ("architecture", "pretraining_data", "epochs", "concept_losses", "task_loss", "eff_rank")
# What decides a figure and stands in no column of a log.
NEVER_IN_A_ROW = (
    "fine-tuning epochs",
    "fine-tuning learning rate",
    "fine-tuning global batch size",
    "fine-tuning seeds",
    "pretraining learning rate",
    "pretraining global batch size",
    "pretraining seed",
    "corpus id",
    "tokenizer",
    "device",
    "precision",
    "texts behind the rank",
)
# Examples of the published splits, for rows that do not state their n.
OFFICIAL_EXAMPLES = {split.label: split.examples for task in TASKS.values() for split in task.eval_splits}
PRIMARY = {split.label: task.primary_metric for task in TASKS.values() for split in task.eval_splits}
MADE_DATA = "made data"  # as a row says it
METRIC_TITLES = {"accuracy": "Acc"} | {name: name.capitalize() for name in METRICS if name != "accuracy"}


class Difference(Result):
    """Something besides the figures that the two sides do not share."""

    key: str
    a: Any
    b: Any


class Figure(Result):
    """One figure of both sides: either a delta, or the reason why there is none."""

    name: str
    metric: str | None = None
    a: float | None
    b: float | None
    n: int | None = None
    delta: float | None = None
    interval: tuple[float, float] | None = None
    paired: bool = False
    unreliable: bool = False
    sd: tuple[float, float] | None = None
    at_floor: tuple[str, ...] = ()
    refused: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def inside_noise(self) -> bool:
        """Whether the delta's interval holds 0."""
        return self.interval is not None and self.interval[0] <= 0 <= self.interval[1]


class Comparison(Result):
    """All of B beside the baseline A."""

    a: str
    b: str
    titles: tuple[str, str]
    differs: list[Difference]
    not_known: dict[str, list[str]]
    figures: list[Figure]


@dataclass(frozen=True)
class Entry:
    """A score of one side; of a row nothing but its value and what follows from that."""

    value: float | None
    n: int | None
    interval: tuple[float, float] | None
    score: Score | None = None


@dataclass(frozen=True)
class Side:
    """One side: a run with its record and folder, or a row.

    Attributes:
        row: cells of the row by machine name; of a run those that its row has.
        trained: the record of the pretraining behind an evaluation, else the run's own.
    """

    name: str
    row: dict[str, str]
    head: str | None
    source: str | None
    entries: dict[tuple[str, str, Start], Entry]
    record: RunRecord | None = None
    folder: RunFolder | None = None
    trained: RunRecord | None = None
    made: bool = False
    assumed: list[str] = field(default_factory=list)


def find_side(reference: str, home: Home) -> Side:
    """A run by its id in the home or by the path of its record, or a row as `LOG.md#RUN_ID`.

    Raises:
        UserError: there is no such run, record or row.
    """
    path = user_path(reference)
    if path.suffix == ".json":
        return _run_side(read_record(path), RunFolder(path.resolve().parent))
    if "#" in reference:
        log, _, run_id = reference.rpartition("#")
        return _row_side(run_id, user_path(log))
    run = find_run(reference, home, "the path of a record.json or LOG.md#RUN_ID")
    return _run_side(load_record(run), run)


def _run_side(record: RunRecord, folder: RunFolder) -> Side:
    trained, checkpoint = record, record.checkpoint
    if record.kind == "evaluation" and checkpoint and checkpoint.run_id and is_safe_name(checkpoint.run_id):
        sibling = RunFolder(folder.root.parent / checkpoint.run_id)
        trained = load_record(sibling) if sibling.record.is_file() else record
    rows = [render_row(one) for one in (trained, record)]
    return Side(
        name=record.run_id,
        row={machine_name(title): cell for row in rows for title, cell in row.items()},
        head=record.head or None,
        source=checkpoint.name if checkpoint else record.run_id,
        entries={
            (score.task, score.metric, score.start): Entry(_finite(score.value), score.n, score.interval, score)
            for score in record.scores
        },
        record=record,
        folder=folder,
        trained=trained,
        made=record.spec.get("evaluation", {}).get("data") == "made",
    )


def _row_side(run_id: str, log: Path) -> Side:
    if not log.is_file():
        raise UserError(f"compare: {log}: there is no such log; fix: LOG.md#RUN_ID with the path of a Markdown log")
    kind, row = find_row(log, run_id)
    source, head = run_id, None
    if kind == "evaluation":
        source = row.get("source_checkpoint", "").split("(")[0].strip("` ")
        bracket = re.search(r"\((\w+)\)", row.get("eval_type", ""))
        head = bracket[1] if bracket else None
        with suppress(UserError):  # a checkpoint without a row of its own
            trained = find_row(log, source)[1]
            row = {name: trained.get(name, "") for name in OF_THE_CHECKPOINT} | row
    made = MADE_DATA in row.get("key_scores", "").casefold()
    entries: dict[tuple[str, str, Start], Entry] = {}
    unnamed = []
    stated = 0
    for figure in scores_in(row.get("key_scores", ""), Place(0)):
        label, metric = figure.task, figure.metric or PRIMARY[figure.task]
        value = round(float(figure.text) / (100 if figure.percent else 1), 8)
        n = figure.examples or (None if made else OFFICIAL_EXAMPLES[label])
        stated += figure.examples is not None
        interval = interval_from_value(metric, value, n) if n is not None and _possible(metric, value) else None
        entries.setdefault((label, metric, "checkpoint"), Entry(value, n, interval))
        unnamed += [] if figure.metric else [label]
    assumed = [f"metric of {', '.join(unnamed)} (taken as the primary one)"] if unnamed else []
    if len(entries) > stated and not made:
        counts = ", ".join(
            f"{n:,} of {label}" for label, n in {key[0]: entry.n for key, entry in entries.items()}.items()
        )
        assumed.append(f"numbers of examples (taken as the official ones: {counts})")
    return Side(run_id, row, head, source or None, entries, made=made, assumed=assumed)


def compare(a: Side, b: Side) -> Comparison:
    """Everything of B beside the baseline A."""
    differs, not_known = _differences(a, b)
    titles = f"`{a.name}`", f"`{b.name}`"
    if a.source == b.source and a.head and b.head and _plain(a.head) != _plain(b.head):  # what is compared is the head
        titles = _head_title(a.head), _head_title(b.head)
    return Comparison(
        a=a.name,
        b=b.name,
        titles=titles,
        differs=differs,
        not_known=not_known,
        figures=[_loss(a, b), *_ranks(a, b), *_scores(a, b)],
    )


# What differs


def _differences(a: Side, b: Side) -> tuple[list[Difference], dict[str, list[str]]]:
    facts = [_row_facts(side) if None in (a.record, b.record) else _facts(side) for side in (a, b)]
    not_known: dict[str, list[str]] = {"a": [], "b": []}
    differs = []
    for key in dict.fromkeys([*facts[0], *facts[1]]):
        missing = [letter for letter, known in zip("ab", facts, strict=True) if key not in known]
        for letter in missing:
            not_known[letter].append(key)
        if not missing and (pair := _apart(key, facts[0][key], facts[1][key])) is not None:
            differs.append(Difference(key=key, a=pair[0], b=pair[1]))
    for letter, side in (("a", a), ("b", b)):
        if side.record is None:
            not_known[letter] += [*NEVER_IN_A_ROW, *side.assumed]
    return differs, not_known


def _apart(key: str, a: Any, b: Any) -> tuple[Any, Any] | None:
    """Both values where they differ; of a task's own settings only the tasks that both have."""
    if key.startswith("evaluation.") and isinstance(a, dict) and isinstance(b, dict):
        changed = [name for name in a if name in b and a[name] != b[name]]
        texts = [{name: side[name] for name in changed} for side in (a, b)]
        single = [next(iter(text.values())) if len(set(text.values())) == 1 else text for text in texts]
        return (single[0], single[1]) if changed else None
    same = _plain(a) == _plain(b) if isinstance(a, str) and isinstance(b, str) else a == b
    return None if same else (a, b)


def _plain(text: str) -> str:
    """A text without what only the writing decides: `ViaDecoder` is via_decoder, `**40**` is 40."""
    return re.sub(r"[\W_]+", "", text).casefold() or text


def _facts(side: Side) -> dict[str, Any]:
    """How a run was made, by dotted key."""
    record, trained = side.record, side.trained
    assert record is not None and trained is not None
    facts: dict[str, Any] = {
        f"{section}.{key}": value
        for section, part in record.spec.items()
        if section not in WITHOUT_EFFECT
        for key, value in part.items()
    }
    evaluation = record.spec.get("evaluation", {})
    for key in ("evaluation.per_task", "evaluation.tasks", "evaluation.head"):
        facts.pop(key, None)
    for key in PER_TASK:
        facts[f"evaluation.{key}"] = {
            task: evaluation.get("per_task", {}).get(task, {}).get(key)
            or evaluation.get(key)
            or (TASKS[task].epochs if key == "epochs" and task in TASKS else None)
            for task in evaluation.get("tasks", ())
        }
    facts["head"] = record.head
    if record.checkpoint is not None:
        facts |= {
            "checkpoint": record.checkpoint.name,
            "checkpoint.revision": record.checkpoint.revision,
            "checkpoint.weights": record.checkpoint.weights_sha256[:12],
        }
    if trained.corpus is not None:
        names = ("corpus_id", "dataset", "source_fingerprint", "tokenizer_name", "train_tokens")
        facts |= {f"corpus.{name}": getattr(trained.corpus, name) for name in names}
    if trained.pretraining is not None:
        names = ("device", "precision", "processes", "parameters", "steps")
        facts |= {f"pretraining.{name}": getattr(trained.pretraining, name) for name in names}
    environment = record.environment.model_dump(exclude={"platform"})
    facts |= {f"versions.{name}": version for name, version in environment.pop("versions").items()}
    facts |= environment
    facts |= {"status": record.status, "made_data": record.made_data}
    return facts


def _row_facts(side: Side) -> dict[str, Any]:
    """How a run was made, as far as a row can say it; of a run what its own row says."""
    stated = {title: side.row.get(name, "") for name, title in ROW_COLUMNS.items()}
    facts: dict[str, Any] = {name: text for name, text in stated.items() if text.strip(" *—-")}
    return facts | ({"head": side.head} if side.head else {}) | ({"checkpoint": side.source} if side.source else {})


# Figures


def _loss(a: Side, b: Side) -> Figure:
    known = [_held_out_loss(side) for side in (a, b)]
    values = [value for value, _ in known]
    reason = next((f"{letter}: {why}" for letter, (_, why) in zip("AB", known, strict=True) if why), None)
    reason = reason or _unlike_loss(a, b)
    figure = Figure(name=HELD_OUT_LOSS, a=values[0], b=values[1], refused=reason)
    if reason or values[0] is None or values[1] is None:
        return figure
    return figure.model_copy(update={"delta": values[1] - values[0]})


def _held_out_loss(side: Side) -> tuple[float | None, str | None]:
    """A side's loss, and why it is not to be compared."""
    if side.trained is not None:
        done = side.trained.pretraining
        if done is None:
            return None, "has no pretraining"
        return (done.eval_loss, None) if math.isfinite(done.eval_loss) else (None, f"the loss is {done.eval_loss}")
    text = side.row.get("task_loss", "")
    stated = re.search(r"eval\W*(\d+\.\d+)", text) or re.search(r"(\d+\.\d+)", text)
    if stated is None:
        return None, "states no loss"
    if not stated[0].startswith("eval"):
        return float(stated[1]), "does not state whether its loss is of training or held out"
    return float(stated[1]), "states neither tokenizer nor held-out text of its loss"


def _unlike_loss(a: Side, b: Side) -> str | None:
    one, other = a.trained, b.trained
    assert one is not None and other is not None
    if one.corpus is None or other.corpus is None:
        return "the corpus is not known"
    if one.corpus.corpus_id != other.corpus.corpus_id:
        return "another corpus or tokenizer"
    names = [record.spec.get("model", {}).get("variant") for record in (one, other)]
    if not set(names) <= VARIANTS.keys():
        return "the objective is not known"
    variants = [VARIANTS[name] for name in names]
    if variants[0].objective != variants[1].objective:
        return f"another objective: {variants[0].objective} and {variants[1].objective}"
    settings = [record.spec.get("objective", {}) | record.spec.get("training", {}) for record in (one, other)]
    # elbo weighs tokens in training alone
    for key in [*(name for name in OBJECTIVES[variants[0].objective].reads if name != "elbo"), "max_eval_blocks"]:
        values = [setting.get(key) for setting in settings]
        if key == "t_min":
            values = [row.t_min if value is None else value for value, row in zip(values, variants, strict=True)]
        if values[0] != values[1]:
            return f"another {key}: {values[0]} and {values[1]}"
    return None


def _ranks(a: Side, b: Side) -> list[Figure]:
    figures = []
    found = [_rank_figures(side) for side in (a, b)]
    for name in RANKS:
        one, other = (side.get(name) for side in found)
        if one is None and other is None:
            continue
        figure = Figure(name=name.replace("_", " "), a=one and one[0], b=other and other[0])
        if one is None or other is None:
            figure = figure.model_copy(update={"refused": f"{'A' if one is None else 'B'} has no such figure"})
        elif one[1] != other[1]:
            figure = figure.model_copy(update={"refused": f"of {one[1]} concepts and of {other[1]}"})
        elif one[2] != other[2] and None not in (one[2], other[2]):
            figure = figure.model_copy(update={"refused": "measured on other texts"})
        else:
            figure = figure.model_copy(update={"delta": other[0] - one[0]})
        figures.append(figure)
    return figures


def _rank_figures(side: Side) -> dict[str, tuple[float, int, Any]]:
    """Value, number of concepts and what identifies the texts, of every rank that a side has."""
    if side.record is None:
        stated = re.search(r"(\d+(?:\.\d+)?)\s*/\s*(\d+)", side.row.get("eff_rank", ""))
        return {RANKS[0]: (float(stated[1]), int(stated[2]), None)} if stated else {}
    done = side.record.analysis
    if done is None:
        return {}
    texts = (side.record.corpus.corpus_id if side.record.corpus else None, done.samples)
    return {name: (done.figures[name], done.num_concepts, texts) for name in RANKS if name in done.figures}


def _scores(a: Side, b: Side) -> list[Figure]:
    order = list(SCORE_NAMES)
    keys = sorted(
        {*a.entries, *b.entries},
        key=lambda key: (
            key[2],
            order.index(key[0]) if key[0] in order else len(order),
            key[0],
            key[1] != PRIMARY.get(key[0]),
        ),
    )
    return [_score(a, b, key) for key in keys]


def _score(a: Side, b: Side, key: tuple[str, str, Start]) -> Figure:
    label, metric, start = key
    one, other = a.entries.get(key), b.entries.get(key)
    suffix = "" if start == "checkpoint" else f" ({start.replace('_', '-')})"
    base = Figure(
        name=f"{SCORE_NAMES.get(label, label)} {METRIC_TITLES.get(metric, metric)}{suffix}",
        metric=metric,
        a=one and one.value,
        b=other and other.value,
        at_floor=[
            letter
            for letter, entry in (("A", one), ("B", other))
            if entry and entry.score and not entry.score.above_floor
        ],
    )
    refused = _unlike_scores(a, b, one, other, metric)
    if refused is None and one and other and one.score and other.score:
        refused, interval = _paired(a, b, one.score, other.score)
    elif one and other and one.interval and other.interval and one.value is not None and other.value is not None:
        interval = unpaired_difference_interval(one.value, one.interval, other.value, other.interval)
    else:
        interval = None
    if refused is not None:
        return base.model_copy(update={"refused": refused})
    assert one and other and one.value is not None and other.value is not None
    scores = [entry.score for entry in (one, other) if entry.score]
    sds = [score.sd for score in scores if score.sd is not None]
    return base.model_copy(
        update={
            "n": one.n,
            "delta": other.value - one.value,
            "interval": interval,
            "paired": len(scores) == 2,
            "unreliable": any(score.unreliable for score in scores),
            "sd": (sds[0], sds[1]) if len(sds) == 2 else None,
        }
    )


def _unlike_scores(a: Side, b: Side, one: Entry | None, other: Entry | None, metric: str) -> str | None:
    if one is None or other is None:
        return f"{'A' if one is None else 'B'} has no such score"
    for letter, entry in (("A", one), ("B", other)):
        if entry.value is None:
            return f"{letter} has no value"
        if metric not in METRICS:
            return f"no such metric: {metric!r}"
        if not _possible(metric, entry.value):
            return f"{letter}: {entry.value:g} cannot be a figure of {metric}"
    if a.made != b.made:
        return f"{'A' if a.made else 'B'} is of made data, which is another task"
    if one.n != other.n:
        counts = ["not known" if entry.n is None else f"{entry.n:,}" for entry in (one, other)]
        return f"other examples: n is {counts[0]} and {counts[1]}"
    return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _possible(metric: str, value: float) -> bool:
    return (0 if METRICS[metric].is_percent else -1) <= value <= 1


def _paired(a: Side, b: Side, one: Score, other: Score) -> tuple[str | None, tuple[float, float] | None]:
    """Why there is no paired interval, or it."""
    answers: list[list[np.ndarray]] = []
    references: np.ndarray | None = None
    for letter, side, score in (("A", a, one), ("B", b, other)):
        try:
            labels, predictions = stored_answers(side, score)
        except (OSError, ValueError) as error:
            return f"{letter}: its predictions cannot be read ({error})", None
        if any(not np.array_equal(labels[0], own) for own in labels) or not labels:
            return f"{letter}: its seeds were not scored on the same examples", None
        references = labels[0] if references is None else references
        if not np.array_equal(references, labels[0]):
            return "other examples: their references differ", None
        value = np.mean([METRICS[score.metric].compute(references, each) for each in predictions])
        if not math.isclose(value, score.value or 0.0, abs_tol=1e-9):
            return f"{letter}: its predictions give {value:.4f} instead of its score; fix: cogito rescore", None
        answers.append(predictions)
    assert references is not None
    return None, paired_difference_interval(one.metric, references, answers[0], answers[1])


def stored_answers(side: Side, score: Score) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Labels and predictions of every seed behind a score."""
    assert side.record is not None and side.folder is not None
    cells = [
        cell
        for cell in side.record.cells
        if cell.status == "complete" and cell.start == score.start and score.task in cell.predictions
    ]
    pairs = [read_predictions(side.folder.predictions(cell.predictions[score.task])) for cell in cells]
    return [labels for labels, _ in pairs], [answers for _, answers in pairs]


# Rendering


def shown(figure: Figure, value: float | None, *, sign: bool = False) -> str:
    """A value of a figure as the log writes it: accuracy and F1 in percent, all else as it is."""
    if value is None:
        return "--"
    plus, digits = "+" if sign else "", _digits(figure)
    percent = figure.metric in METRICS and METRICS[figure.metric].is_percent
    return f"{100 * value:{plus}z.{digits - 2}f}%" if percent else f"{value:{plus}z.{digits}f}"


def _digits(figure: Figure) -> int:
    """Decimals that are shown, of a fraction where it is shown in percent."""
    if figure.metric in METRICS:
        return 4 if METRICS[figure.metric].is_percent else 3
    return 3 if figure.name == HELD_OUT_LOSS else 2


def delta_text(figure: Figure) -> str:
    """A delta with its interval and what to hold of it, or the reason for none."""
    if figure.refused is not None:
        return f"refused: {figure.refused}"
    notes = []
    if figure.interval is not None:
        ends = " to ".join(shown(figure, end, sign=True).rstrip("%") for end in figure.interval)
        notes.append(ends if figure.paired else f"{ends}, unpaired")
    elif figure.metric:
        notes.append("interval not known")
    else:
        notes.append("no interval: one value each")
    if figure.inside_noise:
        notes.append("inside noise")
    if figure.unreliable:
        notes.append("interval unreliable")
    if figure.sd is not None:
        notes.append("sd over seeds " + " and ".join(shown(figure, sd).rstrip("%") for sd in figure.sd))
    if figure.at_floor:
        notes.append(f"{' and '.join(figure.at_floor)} at floor")
    assert figure.a is not None and figure.b is not None
    # The difference of the columns as they are shown, so that the table adds up
    delta = round(figure.b, _digits(figure)) - round(figure.a, _digits(figure))
    return f"{shown(figure, delta, sign=True)} ({', '.join(notes)})"


def updated_baselines(comparison: Comparison) -> str:
    """A comparison as the log's table of updated baselines, with what a reader must know of it below."""
    old, new = map(escape_cell, comparison.titles)
    lines = [
        f"**Updated baselines (`{comparison.b}` beside `{comparison.a}`):**",
        "",
        f"| Task | {old} (old) | {new} (new) | Delta |",
        "|---|---|---|---|",
    ]
    for figure in comparison.figures:
        if figure.refused is None:
            better = figure.metric and figure.interval is not None and figure.interval[0] > 0
            value = shown(figure, figure.b)
            cells = [figure.name, shown(figure, figure.a), f"**{value}**" if better else value, delta_text(figure)]
            lines.append(f"| {' | '.join(map(escape_cell, cells))} |")
    notes = [
        ("Differs", [f"{one.key} {value_text(one.a)} -> {value_text(one.b)}" for one in comparison.differs]),
        *((f"Not known for {letter.upper()}", names) for letter, names in comparison.not_known.items()),
        ("Not compared", [f"{one.name} ({one.refused})" for one in comparison.figures if one.refused]),
    ]
    lines += [line for title, texts in notes if texts for line in ("", f"**{title}:** {'; '.join(texts)}.")]
    return "\n".join(lines) + "\n"


def value_text(value: Any) -> str:
    """A setting in few words."""
    if value is None:
        return "not set"
    if isinstance(value, dict):
        return ", ".join(f"{name} {value_text(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _head_title(head: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in head.split("_"))


def compare_all(references: Sequence[str], home: Home) -> list[Comparison]:
    """Every other side beside the first.

    Raises:
        UserError: fewer than two sides, or one that does not exist.
    """
    if len(references) < 2:
        raise UserError(
            f"compare: got {len(references)} run; needs the baseline and at least one other; fix: name both"
        )
    baseline, *others = (find_side(reference, home) for reference in references)
    return [compare(baseline, other) for other in others]
