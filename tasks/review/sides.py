"""The sides of a comparison: a run, several runs of one configuration, or a row of a Markdown log.

A run brings its record and its stored predictions. Of a row only what it states is known.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError
from tasks.finetuning.scoring import read_predictions
from tasks.log.check.figures import SPLITS, Place, losses_in, scores_in
from tasks.log.experiment_log import find_row, machine_name
from tasks.log.rows import render_row
from tasks.plots import RANKS
from tasks.scores.intervals import interval_from_value
from tasks.scores.metrics import METRICS
from tasks.scores.showing import floor_mark, shared_mark
from tasks.store.files import is_safe_name
from tasks.store.home import Home, RunFolder, StrPath, user_path
from tasks.store.records import RunRecord, Score, Start, load_record, read_record
from tasks.store.run_names import find_run

# The columns that an evaluation row takes from the row of its checkpoint.
OF_THE_CHECKPOINT = ("architecture", "pretraining_data", "epochs", "concept_losses", "task_loss", "eff_rank")
MADE_DATA = "made data"  # as a row states it

Interval = tuple[float, float]
ScoreKey = tuple[str, str, Start]  # label of the split, metric, start


@dataclass(frozen=True)
class Source:
    """A score in the record of a run, and the predictions that it was made from."""

    record: RunRecord
    folder: RunFolder
    score: Score

    def answers(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Labels and predictions of every seed, each [n]; both empty where the record names none.

        Raises:
            OSError, ValueError: the files cannot be read.
        """
        label, start = self.score.task, self.score.start
        cells = [cell for cell in self.record.cells if cell.start == start and cell.status == "complete"]
        names = [cell.predictions[label] for cell in cells if label in cell.predictions]
        pairs = [read_predictions(self.folder.predictions(name)) for name in names]
        return [labels for labels, _ in pairs], [predictions for _, predictions in pairs]


@dataclass(frozen=True)
class Entry:
    """A score of one side.

    Attributes:
        value: a fraction; None where every seed failed.
        n: the number of examples; None where it is not known, or not the same in all sources.
        sources: the scores that it is the mean of; none for a row.
    """

    value: float | None
    n: int | None
    interval: Interval | None
    sources: tuple[Source, ...] = ()

    @property
    def scores(self) -> list[Score]:
        """The scores of the sources."""
        return [source.score for source in self.sources]

    @property
    def sd(self) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        values = [value for score in self.scores for value in score.seed_values.values()]
        return self.scores[0].sd if len(self.sources) == 1 else float(np.std(values, ddof=1)) if values else None

    @property
    def floor_mark(self) -> str:
        """`at floor` or `below floor`; nothing where a source lies above, or for a row, whose floor is not known."""
        return shared_mark(map(floor_mark, self.scores))


@dataclass(frozen=True)
class Rank:
    """A rank of the concepts, of how many concepts, and what identifies the texts it was measured on."""

    value: float
    num_concepts: int
    texts: Any


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        source: the checkpoint that was scored.
        cells: of a row of a log, by the machine name of their column.
        trained: the record of the pretraining behind an evaluation, else the run's own.
        made: whether its tasks are generated stand-ins.
        assumed: what was assumed of a row, in words.
    """

    name: str
    head: str | None
    source: str | None
    entries: dict[ScoreKey, Entry]
    cells: dict[str, str] = field(default_factory=dict)
    record: RunRecord | None = None
    trained: RunRecord | None = None
    made: bool = False
    assumed: list[str] = field(default_factory=list)

    @property
    def row(self) -> dict[str, str]:
        """The cells of a row, or of the rows that a run's record and its pretraining's render."""
        records = [record for record in (self.trained, self.record) if record is not None]
        rendered = {title: cell for record in records for title, cell in render_row(record).items()}
        return self.cells or {machine_name(title): cell for title, cell in rendered.items()}

    @property
    def loss(self) -> tuple[float | None, str | None]:
        """The held-out loss in nats per labelled token, and why it cannot be compared."""
        if self.trained is not None:
            done = self.trained.pretraining
            if done is None:
                return None, "has no pretraining"
            return (done.eval_loss, None) if np.isfinite(done.eval_loss) else (None, f"the loss is {done.eval_loss}")
        losses = losses_in(self.cells.get("task_loss", ""), Place(0), None)
        held_out = [loss for loss in losses if loss.metric == "eval"]
        if held_out:
            return float(held_out[0].text), "states neither tokenizer nor held-out text of its loss"
        if losses:
            return float(losses[0].text), "does not state whether its loss is of training or held out"
        return None, "states no loss"

    @property
    def ranks(self) -> dict[str, Rank]:
        """The ranks that are known, by name."""
        if self.record is None:
            stated = re.search(r"(\d+(?:\.\d+)?)\s*/\s*(\d+)", self.cells.get("eff_rank", ""))
            return {RANKS[0]: Rank(float(stated[1]), int(stated[2]), None)} if stated else {}
        done = self.record.analysis
        if done is None:
            return {}
        texts = (self.record.corpus.corpus_id if self.record.corpus else None, done.samples)
        names = [name for name in RANKS if name in done.figures]
        return {name: Rank(done.figures[name], done.num_concepts, texts) for name in names}


def spec_section(record: RunRecord, name: str) -> dict[str, Any]:
    """A section of a record's spec; empty where an older version wrote none."""
    section = record.spec.get(name)
    return section if isinstance(section, dict) else {}


def is_possible(metric: str, value: float) -> bool:
    """Whether a figure lies in the range of its metric."""
    return (0 if METRICS[metric].is_percent else -1) <= value <= 1


def find_side(reference: StrPath, home: Home) -> Side:
    """A run by its id in the home or by the path of its record, or a row as `LOG.md#RUN_ID`.

    Raises:
        UserError: there is no such run, record or row.
    """
    path, reference = user_path(reference), str(reference)
    if path.suffix == ".json":
        return run_side(read_record(path), RunFolder(path.resolve().parent))
    if "#" in reference:
        log, _, run_id = reference.rpartition("#")
        return _row_side(run_id, user_path(log), home)
    run = find_run(reference, home, "the path of a record.json or LOG.md#RUN_ID")
    return run_side(load_record(run), run)


def run_side(record: RunRecord, folder: RunFolder) -> Side:
    """A run as a side, from its record and the folder that this lies in."""
    trained, checkpoint = record, record.checkpoint
    if record.kind == "evaluation" and checkpoint and checkpoint.run_id and is_safe_name(checkpoint.run_id):
        sibling = RunFolder(folder.root.parent / checkpoint.run_id)
        trained = load_record(sibling) if sibling.record.is_file() else record
    return Side(
        name=record.run_id,
        head=record.head or None,
        source=checkpoint.name if checkpoint else record.run_id,
        entries={
            (score.task, score.metric, score.start): _entry([Source(record, folder, score)]) for score in record.scores
        },
        record=record,
        trained=trained,
        made=spec_section(record, "evaluation").get("data") == "made",
    )


def pooled(sides: Sequence[Side]) -> Side:
    """Several runs of one configuration as one side: its scores are means over the seeds of all its runs."""
    if len(sides) == 1:
        return sides[0]
    sources: dict[ScoreKey, list[Source]] = {}
    for side in sides:
        for key, entry in side.entries.items():
            sources.setdefault(key, []).extend(entry.sources)
    entries = {key: _entry(parts) for key, parts in sources.items()}
    return Side(sides[0].name, sides[0].head, None, entries, made=any(side.made for side in sides))


def _entry(sources: Sequence[Source]) -> Entry:
    """The mean over the seeds of all sources. The mean of their intervals' ends bounds its own, however they depend."""
    scores = [source.score for source in sources]
    scored = [score for score in scores if score.value is not None and np.isfinite(score.value)]
    ends = [score.interval for score in scored if score.interval is not None]
    alike = len({score.n for score in scores}) == 1 and np.ptp([score.floor for score in scores]) < 1e-9
    value = scored[0].value if len(scored) == 1 else None
    if len(scored) > 1:
        value = float(np.mean([seed for score in scored for seed in score.seed_values.values()]))
    low, high = (float(np.mean(each)) for each in zip(*ends, strict=True)) if ends else (0.0, 0.0)
    return Entry(
        value=value,
        n=scores[0].n if alike else None,
        interval=(low, high) if ends and len(ends) == len(scored) else None,
        sources=tuple(source for source in sources if source.score in scored) or tuple(sources),
    )


def _row_side(name: str, log: Path, home: Home) -> Side:
    if not log.is_file():
        raise UserError(f"compare: {log}: there is no such log; fix: LOG.md#RUN_ID with the path of a Markdown log")
    run_id, kind, row = find_row(log, name, home)
    source, head = run_id, None
    if kind == "evaluation":
        source = row.get("source_checkpoint", "").split("(")[0].strip("` ")
        bracket = re.search(r"\((\w+)\)", row.get("eval_type", ""))
        head = bracket[1] if bracket else None
        with suppress(UserError):  # a checkpoint without a row of its own
            trained = find_row(log, source, home)[2]
            row = {name: trained.get(name, "") for name in OF_THE_CHECKPOINT} | row
    made = MADE_DATA in row.get("key_scores", "").casefold()
    entries: dict[ScoreKey, Entry] = {}
    unnamed: list[str] = []
    uncounted: dict[str, str] = {}
    for figure in scores_in(row.get("key_scores", ""), Place(0)):
        task, split = SPLITS[figure.task]
        metric = figure.metric or task.primary_metric
        value = round(float(figure.text) / (100 if figure.percent else 1), 8)
        n = figure.examples or (None if made else split.examples)
        interval = interval_from_value(metric, value, n) if n is not None and is_possible(metric, value) else None
        entries.setdefault((figure.task, metric, "checkpoint"), Entry(value, n, interval))
        unnamed += [] if figure.metric else [figure.task]
        uncounted |= {} if figure.examples or made else {figure.task: f"{n:,} of {figure.task}"}
    assumed = [f"metric of {', '.join(unnamed)} (taken as the primary one)"] if unnamed else []
    if uncounted:
        assumed.append(f"numbers of examples (taken as the official ones: {', '.join(uncounted.values())})")
    return Side(run_id, head, source or None, entries, row, made=made, assumed=assumed)
